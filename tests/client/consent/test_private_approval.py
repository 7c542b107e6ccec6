"""What one approval of a private campaign is worth: what was read on its page, and not the whole cap."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.consent import answered_rounds, campaign_page, campaigns
from client.data.site_store import site_store
from client.data.store import eligible
from client.evidence import site_evidence
from client.ledger import ledger
from client.site.site import Site
from client.state import decisions
from client.state.decisions import Status
from common import wire
from common.errors import BudgetError
from common.machine import pretrained
from common.messages import EvaluateReply, EvaluateRequest, Signed, TrainRequest, WeightsRef
from common.methods.stages import networks
from common.networks import build
from common.privacy.accounting import of_plan, spending
from common.privacy.accounting.accounting import epsilon
from common.privacy.audit import claims
from common.settings import Settings
from common.text.notices import NO_TABLES
from server.rounds.weights import StartWeights
from tests import asking
from tests.asking import Centre
from tests.ledgers import make_release, make_site, patients
from tests.public_encoders import make_encoders
from tests.site_folders import make_settings

ROUNDS, SIGMA = 3, 12.0
PLAN = f"""
[federation]
rounds = {ROUNDS}
[probe]
neck = 6
initialisations = 2
[privacy]
noise_multiplier = {SIGMA}
patients = 6
images = 2
"""
POLICY = """\
[policy]
maximum_epsilon = 8.0
methods = ["*"]
minimum_cohort = 2
maximum_rounds = 20
keep_outbox_days = 0
"""


@pytest.fixture
def centre(tmp_path: Path) -> Centre:
    settings = make_settings(
        text=PLAN, method="probe", weights=str(tmp_path / "encoders"), grades=3, measurements=("hypertrophy",)
    )
    make_encoders(tmp_path / "encoders", settings)
    made = Centre(asking.site(tmp_path / "north", policy=POLICY), pretrained.resolved(settings))
    made.refused(made.plan(made.plan_request()), "unapproved", says="Nobody has approved")
    approve(made)
    return made


def approve(centre: Centre) -> None:
    plan_hash = centre.settings.plan_hash()
    campaigns.decide(Site.open(centre.folder), plan_hash, Status.APPROVED, by="officer")
    answered_rounds.forget(centre.folder, plan_hash)


def asks(
    centre: Centre, server_round: int, *, names: list[str] | None = None, request_id: str = ""
) -> TrainRequest:
    settings, start = centre.settings, StartWeights(centre.settings, centre.folder / "none")
    specs = {name: spec for name, spec in networks(settings).items() if names is None or name in names}
    frozen = {name: start.frozen(spec) for name, spec in specs.items()}
    refs = {name: {p: WeightsRef.of(w) for p, w in parts.items()} for name, parts in frozen.items()}
    return TrainRequest(
        campaign=settings.name,
        plan_hash=settings.plan_hash(),
        request_id=request_id or f"{0xABC000 + server_round:032x}",
        group="heads",
        server_round=server_round,
        encoding="float32",
        weights={name: start.start(spec) for name, spec in specs.items()},
        layouts={name: build.layout(spec, settings.network).hash for name, spec in specs.items()},
        frozen=refs,
        attached={WeightsRef.of(w).hash: w for parts in frozen.values() for w in parts.values()},
    )


def spent(centre: Centre) -> float:
    return spending.worst(ledger.book(centre.folder).histories(), delta=1e-5)


def cost(settings: Settings, steps: int) -> float:
    assert settings.privacy is not None
    return epsilon([of_plan.steps(settings.privacy, steps)], delta=1e-5)


def test_heads_are_not_asked_one_by_one(centre: Centre) -> None:
    names = list(networks(centre.settings))
    assert len(names) > 1
    for number, name in enumerate(names):
        answer = centre.train(asks(centre, 1, names=[name], request_id=f"{number:032x}"))
        centre.refused(answer, "update", says="heads of the plan, which are clipped as one")
    assert spent(centre) == 0
    assert isinstance(centre.train(asks(centre, 1)), Signed)


def test_no_tables_of_held_out_patients_are_given_and_that_is_said(centre: Centre) -> None:
    """Whatever the policy permits: they would leave without noise."""
    plan_hash = centre.settings.plan_hash()
    text = (centre.folder / "site.toml").read_text(encoding="utf-8")
    (centre.folder / "site.toml").write_text(text + "federated_evaluation = true\n", encoding="utf-8")
    site = Site.open(centre.folder)
    shown = campaign_page.page(site, plan_hash, decisions.listed(site)[plan_hash])
    assert any("held-out patients" in line for line in shown.stays)
    assert NO_TABLES in shown.guarantee
    request = EvaluateRequest(
        campaign=centre.settings.name,
        plan_hash=plan_hash,
        request_id="e" * 32,
        statement="{}",
        signature="00" * 64,
        certificate="",
        weights={},
    )
    record = centre.send(wire.encode(request), wire.EVALUATE)
    centre.refused(wire.decode_reply(EvaluateReply, record), "policy", says=NO_TABLES)
    assert ledger.book(centre.folder).releases == []


def test_one_approval_is_worth_what_it_promised(centre: Centre) -> None:
    """A centre that has the same rounds drawn again and again: replies are not kept here, so that each is a draw."""
    budget = decisions.budget(centre.folder, centre.settings.plan_hash())
    assert budget is not None
    assert (budget.steps, budget.again, budget.delta) == (ROUNDS, 1, 1e-5)
    assert budget.epsilon == pytest.approx(cost(centre.settings, ROUNDS + 1))
    answers = [centre.train(asks(centre, n % ROUNDS + 1)) for n in range(4 * ROUNDS)]
    assert [isinstance(one, Signed) for one in answers] == [True] * (ROUNDS + 1) + [False] * (3 * ROUNDS - 1)
    centre.refused(answers[-1], "budget", says="as it was approved")
    assert spent(centre) == pytest.approx(cost(centre.settings, ROUNDS + 1))
    assert spent(centre) < 8 / 4  # of the cap

    approve(centre)
    assert isinstance(centre.train(asks(centre, 1)), Signed)


def test_a_second_run_waits_for_another_approval_before_it_begins(centre: Centre) -> None:
    def run(name: str) -> object:
        return centre.plan(replace(centre.plan_request(), run=name))

    assert isinstance(run("died before it asked for a round"), Signed)
    assert isinstance(run("first"), Signed)
    assert isinstance(centre.train(asks(centre, 1)), Signed)
    assert isinstance(run("first"), Signed)  # resumed
    centre.refused(run("second"), "unapproved", says="was run under its approval before")
    approve(centre)
    assert isinstance(run("second"), Signed)
    assert isinstance(centre.train(asks(centre, 1, request_id="b" * 32)), Signed)
    centre.refused(run("first"), "unapproved", says="was run under its approval before")


def test_a_second_run_that_was_consented_to_does_not_stop_half_way(centre: Centre) -> None:
    """What earlier runs booked was taken off the forecast: a second run began, and was refused in round 2."""
    for server_round in range(1, ROUNDS + 1):
        assert isinstance(centre.train(asks(centre, server_round)), Signed)
    approve(centre)
    cap = cost(centre.settings, ROUNDS + 1) + 1e-6
    asking.change_policy(centre.folder, "maximum_epsilon = 8.0", f"maximum_epsilon = {cap}")
    assert isinstance(centre.plan(centre.plan_request()), Signed)
    for server_round in range(1, ROUNDS + 1):
        answer = centre.train(asks(centre, server_round, request_id=f"{0xDEF000 + server_round:032x}"))
        assert isinstance(answer, Signed)
    assert [len(one.eligible) for one in ledger.book(centre.folder).releases] == [6] * (ROUNDS + 1) + [0] * 2


def test_each_run_is_looked_at_in_full(centre: Centre) -> None:
    for server_round in range(1, ROUNDS + 1):
        assert isinstance(centre.train(asks(centre, server_round)), Signed)
    approve(centre)
    asking.change_policy(
        centre.folder,
        "maximum_epsilon = 8.0",
        f"maximum_epsilon = {cost(centre.settings, ROUNDS) - 0.01:.4f}",
    )
    centre.refused(centre.plan(centre.plan_request()), "budget", says="policy.maximum_epsilon")


def test_an_approval_of_an_older_version_has_to_be_given_again(centre: Centre) -> None:
    place = decisions.folder(centre.folder, centre.settings.plan_hash())
    state = decisions.listed(Site.open(centre.folder))[centre.settings.plan_hash()]
    decisions.write(place, state.model_copy(update={"budget": None}))
    centre.refused(centre.train(asks(centre, 1)), "unapproved", says="approved by an earlier version")
    approve(centre)
    assert isinstance(centre.train(asks(centre, 1)), Signed)


def test_a_pause_is_no_new_approval(centre: Centre) -> None:
    site, plan_hash = Site.open(centre.folder), centre.settings.plan_hash()
    assert isinstance(centre.train(asks(centre, 1)), Signed)
    before = decisions.budget(centre.folder, plan_hash)
    campaigns.decide(site, plan_hash, Status.PAUSED, by="officer")
    campaigns.decide(site, plan_hash, Status.APPROVED, by="officer")
    assert decisions.budget(centre.folder, plan_hash) == before


def test_who_has_spent_the_budget_takes_no_part_and_the_centre_is_not_told(centre: Centre) -> None:
    """One patient who had spent most stopped the site; its refusal said that somebody like that was here."""
    site = Site.open(centre.folder)
    everybody = eligible(site_store(site, centre.settings))
    almost, one_more = make_release("other", steps=100, sigma=10.0), make_release("more", sigma=SIGMA)
    cap = epsilon([almost.steps, one_more.steps], delta=1e-5) + 1e-9
    asking.change_policy(centre.folder, "maximum_epsilon = 8.0", f"maximum_epsilon = {cap}")
    site = Site.open(centre.folder)
    for release in (almost, one_more):
        ledger.reserve(site, release, everybody[:1])
    assert isinstance(centre.plan(centre.plan_request()), Signed)
    answer = centre.train(asks(centre, 1))
    assert isinstance(answer, Signed)
    assert {one.num_examples for one in answer.reply.networks.values()} == {1}
    ledger.reserve(site, almost, everybody[1:])
    alone = centre.train(asks(centre, 2))
    assert isinstance(alone, Signed)
    released = [one for one in ledger.book(centre.folder).releases if one.release.campaign == "test"]
    assert [len(one.eligible) for one in released] == [5, 0]
    assert [one.left_out for one in released] == [1, 6]
    noise = np.concatenate([one.update for one in alone.reply.networks.values() if one.update is not None])
    assert noise.std() == pytest.approx(SIGMA * centre.settings.probe.learning_rate / 6, rel=0.5)


def test_two_identifiers_of_one_patient_are_refused_until_that_is_settled(centre: Centre) -> None:
    site = Site.open(centre.folder)
    manifest = site.data_folder / "manifest.csv"
    first, second, *_ = sorted(set(map(str, site_store(site, centre.settings).exams["patient_id"])))
    as_it_was = manifest.read_text(encoding="utf-8")
    manifest.write_text(as_it_was.replace(f"{first},", f"{second.upper()},"), encoding="utf-8")
    time.sleep(0.01)
    centre.refused(centre.plan(centre.plan_request()), "data", says="look like one patient's")
    manifest.write_text(as_it_was, encoding="utf-8")
    assert isinstance(centre.plan(centre.plan_request()), Signed)


def test_reserve_holds_to_the_approval_whatever_the_cap(centre: Centre) -> None:
    site, plan_hash = Site.open(centre.folder), centre.settings.plan_hash()
    release = replace(make_release(sigma=SIGMA), plan_hash=plan_hash)
    for _ in range(ROUNDS + 1):
        ledger.reserve(site, release, [])
    with pytest.raises(BudgetError, match="1 steps drawn again included"):
        ledger.reserve(site, release, patients(1))
    ledger.reserve(make_site(centre.folder.parent / "other"), release, patients(1))


def test_the_audit_says_what_was_drawn_again_and_fails_beyond_the_approval(
    centre: Centre, monkeypatch: pytest.MonkeyPatch
) -> None:
    def audited() -> dict[str, tuple[str, str]]:
        found = claims.checked(site_evidence.read(centre.folder))
        return {check.name: (check.verdict, check.found) for check in found}

    for server_round in (1, 2, 3, 1):
        assert isinstance(centre.train(asks(centre, server_round)), Signed)
    verdict, found = audited()["approved"]
    assert verdict == "holds"
    assert "1 approvals. Drawn again: round 1 of" in found
    assert "2 debits where one draw has 1" in found
    monkeypatch.setattr(decisions, "budget", lambda *_: None)
    assert isinstance(centre.train(asks(centre, 2)), Signed)
    assert audited()["approved"][0] == "fails"


def test_the_page_says_what_an_approval_is_worth(centre: Centre) -> None:
    plan_hash = centre.settings.plan_hash()
    site = Site.open(centre.folder)
    page = campaign_page.page(site, plan_hash, decisions.listed(site)[plan_hash])
    assert (
        f"covers epsilon {cost(centre.settings, ROUNDS + 1):.3f} (delta 1e-05): 3 private steps, and 1"
        in page.guarantee
    )
