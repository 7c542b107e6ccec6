from collections.abc import Iterator

import pytest

from tests.deployment.federation import Federation

SITES = ("aarhus", "bergen", "cork")


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """One centre and three sites for all tests, up and joined."""
    made = Federation.make(tmp_path_factory.mktemp("federation"), SITES)
    try:
        made.connected(SITES)
        yield made
    finally:
        made.close()
