"""Whether claims hold: recomputed, rehearsed, reported."""
