from collections.abc import Iterator

import pytest

from server.service import superlink
from tests.deployment.federation import Federation

SITES = ("aarhus", "bergen", "cork")


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """One centre and three sites for all tests, up and joined."""
    made = Federation.make(tmp_path_factory.mktemp("federation"), SITES)
    try:
        made.up()
        for name in SITES:
            made.join(name)
        made.wait(superlink.files(made.home).authority.exists, what="a SuperLink that starts")
        made.wait(lambda: "the SuperLink answers" in made.said("up"), what="a SuperLink that answers")
        made.wait(lambda: made.online() == set(SITES), what="three connected sites")
        yield made
    finally:
        made.close()
