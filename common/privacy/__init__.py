"""Differential privacy of patients: the private step, its noise, what it costs, and how a claim is audited.

Parameters are annotated ``float | int`` where a whole number is as natural: types are checked at run time in tests.
"""
