"""Parts of ``metrics.json``, each of which :mod:`simulation.evaluation.metrics` puts in its place."""
