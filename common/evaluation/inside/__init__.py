"""What sites tell of their patients, and of an ensemble on these."""
