"""Local training of one network at one site."""
