"""What stands under every score."""

RESEARCH_ONLY = "Research use only: not a medical device, not for diagnosis or treatment."
NO_PRIVACY = "No differential privacy: epsilon is unbounded."
NO_TABLES = (
    "Tables of held-out patients and counts of patients are not given: they would leave without noise."
)
"""Of every campaign with differential privacy."""
