"""A centre that bends secure sums: what it would learn of one site, it does not get.

Each attack succeeded before it was mended: :class:`Centre` speaks the protocol, and asks for what it likes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.app import app as client_app
from client.consent import answered_rounds, campaigns, opened_sums
from client.ledger import ledger
from client.rounds.exchange import Compute, answer_plan
from client.rounds.sum_exchange import answer_sum
from client.site import keys
from client.site.site import Site
from client.state import decisions
from common import wire
from common.aggregation.algorithms import algorithm
from common.errors import CampaignError
from common.machine import network_files
from common.messages import (
    MissingWeights,
    PlanReply,
    PlanRequest,
    Refusal,
    SumReply,
    SumRequest,
    TrainRequest,
    WeightsRef,
    sum_request_id,
)
from common.methods import groups
from common.methods.stages import method, networks
from common.secure_aggregation.centre import Attempt
from common.secure_aggregation.messages import Phase, Reply
from common.secure_aggregation.terms import Context
from common.settings import Settings
from common.version import VERSION
from server.campaign import campaign
from server.campaign.campaign import Status
from server.campaign.library import NetworkLibrary
from server.campaign.roster import Roster
from server.rounds.group_state import GroupState
from server.rounds.journal import Journal, RoundRecord
from server.rounds.opened_sum import GroupSum
from server.rounds.weights import StartWeights
from simulation.cohorts import peers
from simulation.engine.grid import InProcessGrid, Workers
from tests.federation.test_secure import PLAIN, SECURE, change, plain, private, run, site
from tests.site_folders import make_settings, make_site_folder, read_table, write_table

pytestmark = pytest.mark.slow
NAMES = ("east", "north", "south")
RUNS = ("a" * 32, "b" * 32)
COMPUTE = Compute(device="cpu", threads=1)


class RefusedError(Exception):
    """A site refused; its code and the phase."""


class Centre:
    """A centre that asks what it likes through the sites' own app.

    Args:
        folder: of its own.
        settings: of the campaign.
        sites: the sites' folders.
        number: of the group that it asks for.
    """

    def __init__(self, folder: Path, settings: Settings, sites: Sequence[Path], *, number: int = 0) -> None:
        self.settings = settings
        self.sites = {site.name: site for site in sites}
        (stage,) = method(settings.method).stages(settings, {})
        self.group = groups.of_stage(stage, settings)[number]
        self.state = GroupState(
            self.group,
            settings=settings,
            start=StartWeights(settings, folder / "networks"),
            algorithm=algorithm(settings.federation),
            journal=Journal(folder / "journal", self.group.name),
        )
        self.state.load()
        self.sum = GroupSum(self.group, settings=settings, algorithm=algorithm(settings.federation))
        self.consents()

    def consents(self) -> list[str]:
        """What the sites say of the plan: nothing, or the code of a refusal."""
        codes = []
        for folder in self.sites.values():
            plan = PlanRequest(
                campaign="test",
                request_id=os.urandom(16).hex(),
                version=VERSION,
                plan=self.settings.plan_json(),
                plan_hash=self.settings.plan_hash(),
            )
            answer = wire.decode_reply(PlanReply, answer_plan(folder, wire.encode(plan)))
            codes.append(answer.code if isinstance(answer, Refusal) else "")
        return codes

    def open(
        self,
        names: Sequence[str] = NAMES,
        *,
        group: str = "",
        networks: Sequence[str] = (),
        run: str = RUNS[0],
        train: Callable[[str, TrainRequest], TrainRequest] = lambda _, asked: asked,
        later: Callable[[Phase, tuple[str, ...]], tuple[str, ...]] = lambda _, same: same,
        until: Phase | None = None,
        asked_to_unmask: Sequence[str] = NAMES,
    ) -> np.ndarray:
        """The sum of round 1 over some sites.

        Args:
            names: the sites.
            group: what the centre calls it; as in the plan if empty.
            networks: of the sum; as in the plan if empty.
            run: what it calls the run.
            train: what each site is asked to compute.
            later: which networks are named in a phase.
            until: where the attempt is left; then the sum is not opened.
            asked_to_unmask: who is asked for shares.
        """
        group, chosen = group or self.group.name, tuple(networks) or self.sum.networks
        asked = self.state.request(campaign="test", request_id="0" * 32, server_round=1)
        asked = replace(
            asked,
            group=group,
            weights={name: asked.weights[name] for name in chosen},
            layouts={name: asked.layouts[name] for name in chosen},
            frozen={name: parts for name, parts in asked.frozen.items() if name in chosen},
            extra={name: parts for name, parts in asked.extra.items() if name in chosen},
        )
        context = Context(
            plan_hash=self.settings.plan_hash(),
            run=run,
            group=group,
            server_round=1,
            attempt=os.urandom(16).hex(),
            content=wire.content_hash(asked),
        )
        whole = replace(self.group, networks=tuple(self.group.spec(name) for name in chosen))
        terms = GroupSum(whole, settings=self.settings, algorithm=algorithm(self.settings.federation)).terms()
        registered = {name: keys.public_key(self.sites[name]) for name in names}
        attempt = Attempt(context=context, terms=terms, registered=registered)
        while attempt.phase is not None and attempt.phase != until:
            phase = attempt.phase
            for name, asks in attempt.requests().items():
                if phase == "unmask" and name not in asked_to_unmask:
                    continue
                request_id = sum_request_id(context, phase)
                request = SumRequest(
                    campaign="test",
                    request_id=request_id,
                    networks=later(phase, chosen),
                    asks=asks,
                    train=replace(train(name, asked), request_id=request_id) if phase == "masked" else None,
                )
                attempt.accept(name, self.ask(name, request))
            attempt.next()
        return attempt.sum() if until is None else np.zeros(0)

    def ask(self, name: str, request: SumRequest) -> Reply:
        answer = wire.decode_round_reply(
            SumReply, answer_sum(self.sites[name], wire.encode(request), COMPUTE)
        )
        if isinstance(answer, MissingWeights):
            assert request.train is not None
            attached = self.state.attached(answer.hashes, site=name)
            return self.ask(name, replace(request, train=replace(request.train, attached=attached)))
        if isinstance(answer, Refusal):
            raise RefusedError(f"{answer.code} in {request.asks.phase}")
        return answer.reply.says


def sites(base: Path, *, grades: int = 4) -> list[Path]:
    made = [site(base, name, seed=seed, grades=grades) for seed, name in enumerate(NAMES)]
    peers.pin(made)
    return made


TWO = PLAIN + SECURE


def ungraded(folder: Path, measurement: str = "vascularity") -> None:
    """Take a measurement's grades away."""
    rows = read_table(folder / "grades.csv")
    write_table(folder / "grades.csv", [{**row, measurement: ""} for row in rows])


def two_measurements() -> Settings:
    return make_settings(measurements=("hypertrophy", "vascularity"), grades=2, text=TWO)


def two_measured(base: Path) -> list[Path]:
    """Sites with two binary measurements."""
    made = []
    for seed, name in enumerate(NAMES):
        folder = make_site_folder(
            base / name, name=name, patients=8, exams_per_patient=3, seed=seed, grades=2, held_out_patients=2
        )
        toml = folder / "site.toml"
        toml.write_text(toml.read_text() + "minimum_peers = 1\n")
        made.append(folder)
    peers.pin(made)
    return made


def log(folder: Path) -> str:
    return (folder / "log.txt").read_text(encoding="utf-8")


@pytest.fixture
def open_centre(tmp_path: Path) -> Centre:
    """Of a campaign without noise."""
    return Centre(tmp_path / "centre", plain(), sites(tmp_path, grades=2))


@pytest.fixture
def private_centre(tmp_path: Path) -> Centre:
    """Of a campaign with it."""
    return Centre(tmp_path / "centre", private(encoders=tmp_path / "encoders"), sites(tmp_path))


def test_one_round_is_not_opened_under_another_name_without_one_of_the_sites(open_centre: Centre) -> None:
    """The difference was that site's update, bit for bit."""
    with pytest.raises(RefusedError, match="policy in keys"):
        open_centre.open(group="g-one")
    assert np.any(open_centre.open())
    for group in ("", "g-two", "scoring-001"):
        with pytest.raises(RefusedError, match="policy in keys"):
            open_centre.open(NAMES[:2], group=group)
    assert "not helped to open" in log(open_centre.sites["east"])


def test_a_private_round_is_opened_once_whatever_its_groups_are_called(private_centre: Centre) -> None:
    """It was opened four times, and charged four times what was approved."""
    private_centre.open()
    for group in ("g-one", "g-two", private_centre.group.name):
        with pytest.raises(RefusedError, match="policy in keys"):
            private_centre.open(group=group)
    assert {len(ledger.book(folder).releases) for folder in private_centre.sites.values()} == {1}


def test_groups_other_than_the_plans_are_not_summed(private_centre: Centre) -> None:
    """Heads asked for one by one would each be clipped and charged alone; an order is no group either."""
    names = private_centre.sum.networks
    for chosen in (names[:1], names[::-1], (*names, names[0])):
        with pytest.raises(RefusedError, match=r"policy in keys|update in keys"):
            private_centre.open(networks=chosen)
    assert {len(ledger.book(folder).releases) for folder in private_centre.sites.values()} == {0}


@pytest.mark.parametrize("at", ["shares", "masked", "unmask"])
def test_the_networks_of_an_attempt_stay_the_same(private_centre: Centre, at: Phase) -> None:
    with pytest.raises(RefusedError, match=rf"(verification|update) in {at}"):
        private_centre.open(later=lambda phase, names: names[:1] if phase == at else names)


def test_an_approval_is_worth_one_run_whatever_the_centre_calls_it(open_centre: Centre) -> None:
    plan_hash = open_centre.settings.plan_hash()
    for folder in open_centre.sites.values():
        change(folder, 'approval = "automatic"', 'approval = "each"')
    assert set(open_centre.consents()) == {"unapproved"}
    for folder in open_centre.sites.values():
        campaigns.decide(Site.open(folder), plan_hash, decisions.Status.APPROVED, by="officer")
    assert open_centre.consents() == ["", "", ""]
    first = open_centre.open()
    for name in RUNS:
        with pytest.raises(RefusedError, match="policy in keys"):
            open_centre.open(NAMES[:2], run=name)
    for folder in open_centre.sites.values():  # approved a second time: as often may it be opened
        answered_rounds.forget(folder, plan_hash)
        opened_sums.forget(folder, plan_hash)
    assert np.array_equal(open_centre.open(run=RUNS[1]), first)


def test_one_site_that_leaves_and_approves_again_opens_nothing_twice(open_centre: Centre) -> None:
    """Of three, one was never asked for its shares and one began anew: they gave a second sum, without the third."""
    plan_hash, left = open_centre.settings.plan_hash(), open_centre.sites["east"]
    for folder in open_centre.sites.values():
        change(folder, 'approval = "automatic"', 'approval = "each"')
    open_centre.consents()
    for folder in open_centre.sites.values():
        campaigns.decide(Site.open(folder), plan_hash, decisions.Status.APPROVED, by="officer")
    assert np.any(open_centre.open(asked_to_unmask=("east", "south")))
    for status in (decisions.Status.LEFT, decisions.Status.APPROVED):
        campaigns.decide(Site.open(left), plan_hash, status, by="officer")
    answered_rounds.forget(left, plan_hash)
    opened_sums.forget(left, plan_hash)
    with pytest.raises(RefusedError, match="policy in keys"):
        open_centre.open(NAMES[:2])
    with pytest.raises(RefusedError, match="unapproved in masked"):
        open_centre.open(NAMES[:2], run=RUNS[1])


def test_an_attempt_that_failed_before_it_was_opened_is_made_again(private_centre: Centre) -> None:
    private_centre.open(until="unmask")
    private_centre.open()
    assert {len(ledger.book(folder).releases) for folder in private_centre.sites.values()} == {2}


def test_zeros_for_the_others_leave_nobody_alone_in_the_sum(open_centre: Centre) -> None:
    """Model inconsistency: with weights from which nothing is learnt, two sites added next to nothing."""

    def zeros(name: str, asked: TrainRequest) -> TrainRequest:
        if name == "south":
            return asked
        return replace(asked, weights={n: np.zeros_like(w) for n, w in asked.weights.items()})

    with pytest.raises(RefusedError, match="verification in masked"):
        open_centre.open(train=zeros)
    assert "other weights than the others" in log(open_centre.sites["east"])


def test_all_that_steers_what_is_summed_is_the_same_at_every_site(open_centre: Centre) -> None:
    """Whatever differs by one bit for one site, its attempt is over before anything is trained."""
    name = open_centre.sum.networks[0]

    def one_bit(weights: np.ndarray) -> np.ndarray:
        changed = np.array(weights)
        changed.view(np.uint32)[7] ^= 1
        return changed

    changes: list[Callable[[TrainRequest], TrainRequest]] = [
        lambda asked: replace(asked, weights={name: one_bit(asked.weights[name])}),
        lambda asked: replace(asked, layouts={name: "0" * 64}),
        lambda asked: replace(asked, run="c" * 32),
        lambda asked: replace(asked, state_round=1),
        lambda asked: replace(asked, encoding="bfloat16"),
        lambda asked: replace(asked, extra={name: {"moment": asked.weights[name]}}),
        lambda asked: replace(asked, frozen={name: {"backbone": WeightsRef("0" * 64)}}),
    ]
    for changed in changes:
        with pytest.raises(RefusedError, match="verification in masked"):
            open_centre.open(train=lambda who, asked, c=changed: c(asked) if who == "north" else asked)  # type: ignore[misc]


def test_weights_are_written_as_the_request_says(open_centre: Centre) -> None:
    """Else a site could be sent finer numbers than those whose hash it was told."""
    asked = open_centre.state.request(campaign="test", request_id="0" * 32, server_round=1)
    record = wire.encode(replace(asked, encoding="bfloat16"))
    record["weights"] = wire.encode(asked)["weights"]
    with pytest.raises(Exception, match="written otherwise"):
        wire.decode(TrainRequest, record)
    there = wire.decode(TrainRequest, wire.encode(replace(asked, encoding="bfloat16")))
    assert wire.content_hash(there) == wire.content_hash(replace(asked, encoding="bfloat16"))
    assert wire.content_hash(there) != wire.content_hash(asked)


def test_a_site_without_grades_is_no_survivor(tmp_path: Path) -> None:
    made = two_measured(tmp_path)
    ungraded(made[2])
    records: list[RoundRecord] = []
    outcome = run(made, two_measurements(), tmp_path / "run", records=records)
    assert outcome.status is Status.COMPLETE_ALL_SITES
    hypertrophy, vascularity = (record for record in records if record.round == 1)
    assert hypertrophy.participants == NAMES
    assert vascularity.participants == NAMES[:2]
    assert "declared when the campaign was approved" in vascularity.dropped["south"]
    with pytest.raises(RefusedError, match="policy in keys"):
        Centre(tmp_path / "centre", two_measurements(), made, number=1).open(["east", "south"])
    assert "takes part, got one of vascularity>0" in log(made[2])


def test_a_sum_of_one_is_not_opened_by_an_honest_centre(tmp_path: Path) -> None:
    """Two sites sent zeros, counted as survivors, and the sum was the third's update."""
    made = two_measured(tmp_path)
    for folder in made[1:]:
        ungraded(folder)
    with pytest.raises(
        CampaignError, match=r"2 sites or more that take part in vascularity>0 .* got 1: north, south"
    ):
        run(made, two_measurements(), tmp_path / "run")
    assert not any(
        h.unbounded for folder in made for h in ledger.book(folder).histories()
    )  # nothing was trained


def test_a_cohort_too_small_for_anything_takes_no_part_at_all(tmp_path: Path) -> None:
    made = two_measured(tmp_path)
    change(made[2], "minimum_cohort = 1", "minimum_cohort = 7")
    outcome = run(made, two_measurements(), tmp_path / "run")
    assert outcome.status is Status.COMPLETE_SUBSET
    assert set(outcome.missing) == {"south"}
    assert "fewer than 7 patients to train on" in log(made[2])


def test_what_a_site_takes_part_in_stays_while_its_cohort_shrinks(tmp_path: Path) -> None:
    """A refusal in mid-campaign would tell of withdrawals."""
    made = two_measured(tmp_path)
    settings = two_measurements()
    centre = Centre(tmp_path / "centre", settings, made)
    before = decisions.without(Site.open(made[2]), settings.plan_hash())
    ungraded(made[2])
    assert centre.consents() == ["", "", ""]
    assert decisions.without(Site.open(made[2]), settings.plan_hash()) == before == ()
    assert np.any(Centre(tmp_path / "another", settings, made, number=1).open())


@pytest.mark.soak
def test_a_library_spares_whole_groups_or_none(tmp_path: Path) -> None:
    """What is trained beside networks that are known already is no group of the plan."""
    made = two_measured(tmp_path)
    settings = make_settings(
        measurements=("hypertrophy", "vascularity"),
        grades=2,
        text=TWO.replace("replicas = 1", "replicas = 2"),
    )
    library = NetworkLibrary(tmp_path / "library", {folder.name: "same" for folder in made})
    run(made, settings, tmp_path / "first")
    specs = networks(settings)
    kept = {name: spec for name, spec in specs.items() if name.endswith("/a") or "vascularity" in name}
    for name in kept:
        library.add(
            network_files.load(network_files.path(tmp_path / "first" / "networks", name)), settings, specs
        )
    (tmp_path / "second").mkdir()
    with Workers(("cpu",), threads=1) as pool:
        outcome = campaign.run(
            InProcessGrid(client_app, made, pool),
            settings,
            roster=Roster.anyone(len(made)),
            folder=tmp_path / "second",
            campaign="test",
            observer=lambda event: None,
            library=library,
        )
    assert outcome.status is Status.COMPLETE_ALL_SITES
    assert outcome.reused == {name for name in specs if "vascularity" in name}
    assert set(outcome.results) == set(specs)
