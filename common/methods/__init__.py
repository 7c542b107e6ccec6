"""One module a published system."""
