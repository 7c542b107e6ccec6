"""Reader studies, real and simulated."""
