"""How well grades agree with a reference."""
