"""Whatever happens in whatever order, the ledger never holds less than what was released, nor more than the cap."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.ledger import ledger, ledger_check, ledger_file, ledger_patients
from client.site.site import Site
from common.privacy.accounting.accounting import PrivateSteps, epsilon
from tests.ledgers import make_release, make_site, make_unbounded, patients

CAP = 2.0
DELTA = 1e-5
SIGMAS = (4.0, 6.0, 9.0)
EVERYBODY = patients(5)
Action = tuple[str, set[str], float, str]
subsets = st.sets(st.sampled_from(EVERYBODY), min_size=1)
actions: st.SearchStrategy[Action] = st.one_of(
    st.tuples(st.just("release"), subsets, st.sampled_from(SIGMAS), st.sampled_from(["a", "b"])),
    st.tuples(st.just("crash before it left"), subsets, st.sampled_from(SIGMAS), st.just("a")),
    st.tuples(st.just("without privacy"), subsets, st.just(1.0), st.sampled_from(["a", "b"])),
    st.tuples(st.sampled_from(["restart", "torn line"]), st.just(set()), st.just(1.0), st.just("a")),
)


@dataclass
class World:
    """What really left."""

    site: Site
    released: dict[str, Counter[float]] = field(
        default_factory=lambda: {name: Counter() for name in EVERYBODY}
    )
    booked: dict[str, Counter[float]] = field(default_factory=lambda: {name: Counter() for name in EVERYBODY})
    unbounded: set[str] = field(default_factory=set)
    requests: int = 0

    def act(self, what: str, who: set[str], sigma: float, campaign: str) -> None:
        path = self.site.folder / ledger_file.NAME
        if what == "restart":
            ledger_file._known.clear()
        elif what == "torn line":
            with path.open("ab") as file:
                file.write(b'{"seq":')
        elif what == "without privacy":
            ledger.book_unbounded(self.site, make_unbounded(campaign=campaign), who)
            self.unbounded |= who
        else:
            self.reserve(what, who, sigma, campaign)

    def reserve(self, what: str, who: set[str], sigma: float, campaign: str) -> None:
        self.requests += 1
        release = make_release(f"r{self.requests}", sigma=sigma, campaign=campaign)
        affordable = {name for name in who if spent(self.booked[name] + Counter({sigma: 1})) <= CAP}
        assert ledger.reserve(self.site, release, who).patients == affordable
        for name in affordable:
            self.booked[name][sigma] += 1
            self.released[name][sigma] += what == "release"


def spent(counts: Counter[float]) -> float:
    steps = [
        PrivateSteps(sample_rate=1, noise_multiplier=sigma, count=count) for sigma, count in counts.items()
    ]
    return epsilon(steps, delta=DELTA)


@settings(max_examples=20)
@given(st.lists(actions, max_size=14))
def test_spent_is_never_less_than_released(
    tmp_path_factory: pytest.TempPathFactory,
    sequence: list[Action],
) -> None:
    folder: Path = tmp_path_factory.mktemp("site")
    world = World(make_site(folder, maximum_epsilon=CAP))
    for action in sequence:
        world.act(*action)
    book = ledger.book(folder)
    ledger_check.check(folder)
    if not book.opened:
        return
    secret = ledger_file.site_secret(folder)
    table = ledger_patients.patients(folder, book)
    for name in EVERYBODY:
        pseudonym = ledger_patients.name_of(secret, table, name)
        number = ledger_patients.numbers(table, book, [pseudonym]).get(pseudonym)
        if number is None:
            assert not world.released[name]
            assert name not in world.unbounded
            continue
        history = book.history(number)
        assert {step.noise_multiplier: step.count for step in history.steps} == +world.booked[name]
        assert history.epsilon(delta=DELTA) >= spent(+world.released[name])
        assert history.epsilon(delta=DELTA) <= CAP
        assert history.unbounded == (name in world.unbounded)
