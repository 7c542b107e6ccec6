"""Whole multi-centre studies on one machine."""
