"""Differential privacy of patients: the private step, its noise, what it costs, and how a claim is audited."""
