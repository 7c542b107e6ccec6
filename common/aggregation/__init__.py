"""Federated algorithms and the aggregation of updates."""
