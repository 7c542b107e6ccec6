"""The trained ensemble: asked, voted, explained, and what the centre states about it."""
