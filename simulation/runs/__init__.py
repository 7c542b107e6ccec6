"""A simulation from its settings to its end: the plan said before, the sites made, trained, compared."""
