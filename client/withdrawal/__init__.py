"""A patient withdraws: what is deleted, and what is told."""
