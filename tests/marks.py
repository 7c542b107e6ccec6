"""Marks that go together."""

import pytest

SOAK_CI = (pytest.mark.soak, pytest.mark.ci)
"""Of what ``make test`` leaves out and ``.ci/run`` runs: a real SuperLink, Ray, killed processes, large networks."""

RAY = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
"""Of tests in whose process Ray works: its own processes and logs."""
