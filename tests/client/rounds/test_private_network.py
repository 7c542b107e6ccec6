import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from client.consent import campaigns
from client.ledger import ledger
from client.site.site import Site
from client.state.decisions import Status
from common.errors import ConfigurationError
from common.messages import Signed
from common.privacy.accounting.accounting import PrivateSteps, epsilon
from common.privacy.accounting.spending import Booked, PrivateRelease, UnboundedRelease
from common.settings import Settings
from tests import asking
from tests.asking import Centre
from tests.site_folders import make_settings

POLICY = """\
[policy]
maximum_epsilon = 4.0
methods = ["rating"]
metrics = ["counts", "losses", "score_histograms", "timings"]
minimum_cohort = 2
maximum_rounds = 20
"""
PLAN = PrivateSteps(sample_rate=0.5, noise_multiplier=4.0, count=3 * 4)
"""Three rounds of four steps."""


def settings(text: str = "") -> Settings:
    """One whole network that tells three grades apart."""
    plan = make_settings(
        images=("gs",),
        measurements=("hypertrophy",),
        grades=3,
        text=f'models = 1\nreplicas = 1\ncodes = "classes"\n[federation]\nrounds = 3\n[training]\nlocal_steps = 4\n'
        f'sampling = "all"\n[privacy]\nnoise_multiplier = 4.0\nsample_rate = 0.5\npatients = 6\nimages = 2\n{text}',
    )
    return plan.model_copy(update={"network": plan.network.model_copy(update={"width": 4})})


def approved(folder: Path, *, plan: Settings | None = None, policy: str = POLICY) -> Centre:
    centre = Centre(asking.site(folder / "north", policy=policy), plan or settings())
    centre.plan(centre.plan_request())
    campaigns.decide(Site.open(centre.folder), centre.settings.plan_hash(), Status.APPROVED, by="officer")
    return centre


def booked(centre: Centre) -> list[Booked]:
    return ledger.book(centre.folder).releases


def test_every_step_is_booked_and_what_the_ledger_adds_up_to_is_the_plan(tmp_path: Path) -> None:
    centre = approved(tmp_path)
    for server_round in (1, 2, 3):
        request = centre.train_request(server_round)
        answer = centre.train(request)
        assert isinstance(answer, Signed), centre.text_log()
        (network,) = answer.reply.networks.values()
        assert network.update is not None
        assert np.isfinite(network.update).all()
        assert (network.update != 0).mean() > 0.99  # every weight has noise, which may round away
        assert network.num_examples == 1
        assert math.isnan(network.loss)
        assert network.histograms is None
        mine = [one.release for one in booked(centre)[-4:]]
        for release in mine:
            assert isinstance(release, PrivateRelease)
            assert release.request_id == request.request_id
            assert release.steps == replace(PLAN, count=1)
            assert (release.kind, release.patients, release.images) == ("private-step", 6, 2)
    book = ledger.book(centre.folder)
    assert len(book.releases) == 12
    assert not any(isinstance(one.release, UnboundedRelease) for one in book.releases)
    histories = list(book.histories())
    assert len(histories) == 6  # of eight patients two are held out
    assert {history.epsilon(delta=1e-5) for history in histories} == {epsilon([PLAN], delta=1e-5)}

    closing = centre.train(centre.train_request(4))
    assert isinstance(closing, Signed)
    (network,) = closing.reply.networks.values()
    assert network.update is None
    assert len(booked(centre)) == 12


def test_a_request_that_comes_again_costs_nothing_and_one_that_is_drawn_again_does(tmp_path: Path) -> None:
    centre = approved(tmp_path, policy=POLICY + "keep_outbox_days = 0\n")
    one, other = (update_of(centre.train(centre.train_request())) for _ in range(2))
    assert not np.array_equal(one, other)
    assert len(booked(centre)) == 8

    keeping = approved(tmp_path / "keeping")
    one, other = (update_of(keeping.train(keeping.train_request())) for _ in range(2))
    assert np.array_equal(one, other)
    assert len(booked(keeping)) == 4


def update_of(answer: object) -> np.ndarray:
    assert isinstance(answer, Signed)
    (network,) = answer.reply.networks.values()
    update: np.ndarray = network.update
    return update


def test_patients_drop_out_of_a_round_where_their_budget_ends_and_the_centre_is_not_told(
    tmp_path: Path,
) -> None:
    centre = approved(tmp_path)
    assert isinstance(centre.train(centre.train_request()), Signed)
    six = epsilon([replace(PLAN, count=6)], delta=1e-5)
    asking.change_policy(centre.folder, "maximum_epsilon = 4.0", f"maximum_epsilon = {six:.6f}1")
    update = update_of(centre.train(centre.train_request(2)))
    assert (update != 0).mean() > 0.99
    assert [len(one.eligible) for one in booked(centre)] == [6] * 6 + [0] * 2
    assert {h.epsilon(delta=1e-5) for h in ledger.book(centre.folder).histories()} == {six}


def test_a_round_beyond_the_cap_is_refused_before_its_first_step(tmp_path: Path) -> None:
    centre = approved(tmp_path)
    three = epsilon([replace(PLAN, count=3)], delta=1e-5)
    asking.change_policy(centre.folder, "maximum_epsilon = 4.0", f"maximum_epsilon = {three:.6f}1")
    centre.refused(centre.train(centre.train_request()), "budget", says="round 1 of test")
    assert len(booked(centre)) == 0


def test_a_network_that_cannot_be_private_is_refused_and_nothing_is_booked(tmp_path: Path) -> None:
    plan = settings()
    changed = {"training": plan.training.model_copy(update={"sampling": "balanced"})}
    centre = approved(tmp_path, plan=plan.model_copy(update=changed))
    centre.refused(
        centre.train(centre.train_request()), ConfigurationError("").code, says="break the accounting"
    )
    assert booked(centre) == []
