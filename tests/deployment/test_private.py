"""A campaign with differential privacy over a real SuperLink."""

import pytest

from client import ledger, ledger_head, receipts
from common import network_files
from common.privacy import spending
from common.privacy.accounting import epsilon
from server import submit
from tests.deployment.conftest import SITES
from tests.deployment.federation import Federation
from tests.public_encoders import make_encoders
from tests.site_folders import make_settings

pytestmark = pytest.mark.slow
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
    expected = epsilon([settings.privacy.steps(ROUNDS)], delta=1e-5)
    for name in SITES:
        folder = federation.site(name)
        book = ledger.book(folder)
        assert spending.worst(spending.of_campaign(book, plan_hash), delta=1e-5) == pytest.approx(expected)
        kept = receipts.read(run.path / "receipts" / f"{name}.jsonl")
        assert receipts.check(folder, kept).receipts == len(kept)
        assert max(one.receipt.ledger_sequence for one in kept) == ledger_head.head(folder).sequence
    heads = list(network_files.load_all(run.path / "networks"))
    assert {network.spec.name for network in heads} == {
        f"probe/member{m}/{score}" for m in range(2) for score in ("hypertrophy", "vascularity")
    }
