"""What stands under every score."""

RESEARCH_ONLY = "Research use only: not a medical device, not for diagnosis or treatment."
NO_PRIVACY = "No differential privacy: epsilon is unbounded."
