"""Campaigns with differential privacy over a real SuperLink, without and with secure aggregation."""

import numpy as np
import pytest

from client.ledger import issued_receipts, ledger
from common.machine import network_files
from common.privacy.accounting import of_plan, spending
from common.privacy.accounting.accounting import epsilon
from server.runs import submit
from tests.deployment.conftest import SITES
from tests.deployment.federation import Federation
from tests.public_encoders import make_encoders
from tests.site_folders import make_settings

pytestmark = [pytest.mark.slow, pytest.mark.soak, pytest.mark.ci]
ROUNDS = 2
PRIVATE = f"""
[federation]
rounds = {ROUNDS}
[probe]
neck = 6
initialisations = 2
[privacy]
noise_multiplier = 4.0
patients = 4
images = 2
[campaign]
recipients = ["sites"]
"""


def test_heads_are_trained_privately_and_every_site_can_prove_what_it_cost(federation: Federation) -> None:
    encoders = federation.folder / "encoders"
    settings = make_settings(text=PRIVATE, method="probe", weights=str(encoders))
    make_encoders(encoders, settings)
    run = federation.ended(submit.submit(federation.home, settings.model_copy(update={"name": "private"})))
    assert run.status().state == "COMPLETE_ALL_SITES", run.log.read_text()
    plan_hash = run.settings().plan_hash()
    assert settings.privacy is not None
    expected = epsilon([of_plan.steps(settings.privacy, ROUNDS)], delta=1e-5)
    for name in SITES:
        folder = federation.site(name)
        book = ledger.book(folder)
        assert spending.worst(spending.of_campaign(book, plan_hash), delta=1e-5) == pytest.approx(expected)
        kept = issued_receipts.read(run.path / "receipts" / f"{name}.jsonl")
        assert issued_receipts.check(folder, kept).receipts == len(kept)
        assert max(one.receipt.ledger_sequence for one in kept) == ROUNDS
    heads = list(network_files.load_all(run.path / "networks"))
    assert {network.spec.name for network in heads} == {
        f"probe/member{m}/{score}" for m in range(2) for score in ("hypertrophy", "vascularity")
    }


SECURE = """
[federation]
rounds = 1
[federation.secure]
sites = 3
survivors = 3
colluders = 1
"""


def test_under_secure_aggregation_a_sum_is_opened_and_no_update_is_seen(federation: Federation) -> None:
    """Every phase is a process of its own at a site; sites know each other's keys, under the officer's signature."""
    encoders = federation.folder / "encoders-secure"
    text = SECURE + PRIVATE.split("[campaign]", maxsplit=1)[0].split(f"rounds = {ROUNDS}\n")[1]
    settings = make_settings(text=text, method="probe", weights=str(encoders))
    make_encoders(encoders, settings)
    federation.acquaint(SITES)
    run = federation.ended(submit.submit(federation.home, settings.model_copy(update={"name": "secure"})))
    assert run.status().state == "COMPLETE_ALL_SITES", run.log.read_text()
    assert [record["participants"] for record in run.rounds()] == [list(SITES)]
    assert settings.privacy is not None
    plan_hash = run.settings().plan_hash()
    vectors = []
    for name in SITES:
        folder = federation.site(name)
        assert spending.worst(
            spending.of_campaign(ledger.book(folder), plan_hash), delta=1e-5
        ) == pytest.approx(epsilon([of_plan.steps(settings.privacy, 1)], delta=1e-5))
        kept = issued_receipts.read(run.path / "receipts" / f"{name}.jsonl")
        assert issued_receipts.check(folder, kept).receipts == len(kept)
        assert [one.receipt.server_round for one in kept if one.receipt.server_round] == [1]
        (left,) = (folder / "sums").rglob("*.masked")
        vectors.append(np.frombuffer(left.read_bytes(), np.uint64))
    assert len({len(vector) for vector in vectors}) == 1
    total = np.sum(vectors, axis=0, dtype=np.uint64).astype(np.int64).astype(np.float64)
    assert np.abs(total).max() > 2.0**60  # without the shares not even the sum of what left means anything
    heads = list(network_files.load_all(run.path / "networks"))
    assert len(heads) == 4
    assert all(np.isfinite(head.weights).all() and head.result.best_round == 1 for head in heads)
