"""The sites of a study: made of phantoms or public pictures, shared out, pooled, known to each other."""
