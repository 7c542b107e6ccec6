"""A patient withdraws: what is deleted, and what the patient is told."""
