"""Networks: what they are, how they are built, how they lie in a flat vector."""
