"""The one way to noise at a site: claimed, everything that can fail done, booked on disk, and only then drawn."""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import client.rounds
from client.consent import answered_rounds
from client.ledger import ledger, ledger_file
from client.ledger.ledger_file import Ledger
from client.rounds import booking
from client.rounds.booking import Booking
from client.site.site import Site
from client.state import decisions
from client.state.decisions import Status
from common.errors import BudgetError, PolicyError, StorageError, UnapprovedError
from common.messages import Signed
from common.privacy.mechanism.network_training import PrivateTraining
from common.privacy.mechanism.patient_step import StepSettings
from common.version import VERSION
from tests import asking
from tests.asking import Centre, change_policy
from tests.client.rounds import test_private_network as whole
from tests.ledgers import patients

PATIENTS = patients(6)


@pytest.fixture
def centre(tmp_path: Path) -> Centre:
    return whole.approved(tmp_path)


def begun(centre: Centre, **changes: object) -> Booking:
    site = Site.open(centre.folder)
    request = replace(centre.train_request(), **changes)  # type: ignore[arg-type]
    return booking.begin(site, request, centre.settings, PATIENTS, asker=None)


def lines(centre: Centre) -> list[dict[str, object]]:
    text = (centre.folder / "ledger.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()][1:]  # without the opening


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens, in its order: ``claimed``, ``booked`` (on the disk), ``drawn``, and what a test adds."""
    happened: list[str] = []

    def noting(what: str, do: Callable[..., object]) -> Callable[..., object]:
        def noted(*given: object, **named: object) -> object:
            result = do(*given, **named)
            happened.append(what)
            return result

        return noted

    monkeypatch.setattr(answered_rounds, "claim", noting("claimed", answered_rounds.claim))
    monkeypatch.setattr(Ledger, "_write", noting("booked", Ledger._write))
    monkeypatch.setattr(booking, "os", SimpleNamespace(urandom=noting("drawn", os.urandom)))
    return happened


def test_a_round_is_claimed_then_booked_and_only_then_drawn(centre: Centre, order: list[str]) -> None:
    ready = begun(centre)
    assert order == ["claimed"]
    ready.check(4)
    assert order == ["claimed"]
    draw = ready.draw()
    assert order[:2] == ["claimed", "booked"]  # the ledger's opening
    assert order[2:] == ["booked", "drawn"]
    assert draw.patients == set(PATIENTS)
    assert len(draw.entropy) == 32
    assert ready.draw().entropy != draw.entropy
    assert order[4:] == ["booked", "drawn"]


def test_a_network_is_built_before_its_first_step_is_booked(
    centre: Centre, order: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = PrivateTraining.__init__

    def built(self: object, *given: object, **named: object) -> None:
        made(self, *given, **named)  # type: ignore[arg-type]
        order.append("built")

    monkeypatch.setattr(PrivateTraining, "__init__", built)
    assert isinstance(centre.train(centre.train_request()), Signed)
    assert order == ["claimed", "built", "booked", *["booked", "drawn"] * 4]  # first the ledger's opening


def test_what_cannot_be_booked_is_not_drawn(
    centre: Centre, order: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = begun(centre)
    ready.draw()
    del order[:]

    def full(self: Ledger, written: bytes) -> None:
        raise StorageError("The privacy ledger cannot be written")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "_write", full)
        with pytest.raises(StorageError):
            ready.draw()
    change_policy(centre.folder, "maximum_epsilon = 4.0", "maximum_epsilon = 0.001")
    with pytest.raises(BudgetError):
        replace(ready, site=Site.open(centre.folder)).draw()
    change_policy(centre.folder, "maximum_epsilon = 0.001\n", "")
    with pytest.raises(PolicyError):
        replace(ready, site=Site.open(centre.folder)).draw()
    assert order == []
    assert len(lines(centre)) == 1


def test_a_round_ends_with_the_step_that_is_refused(
    centre: Centre, order: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was drawn before it does not leave either."""
    reserve = ledger.reserve

    def twice(*given: object, **named: object) -> object:
        if order.count("drawn") == 2:
            raise BudgetError("Expected to stay within epsilon")
        return reserve(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(ledger, "reserve", twice)
    centre.refused(centre.train(centre.train_request()), "budget", says="stay within epsilon")
    assert order.count("drawn") == len(lines(centre)) == 2


def test_another_request_for_a_claimed_round_books_nothing(centre: Centre, order: list[str]) -> None:
    begun(centre)
    with pytest.raises(UnapprovedError, match="another request"):
        begun(centre, request_id="f" * 32)
    assert order == ["claimed"]
    assert not (centre.folder / "ledger.jsonl").exists()


def test_where_the_policy_approves_campaigns_nothing_is_claimed(tmp_path: Path, order: list[str]) -> None:
    centre = Centre(
        asking.site(tmp_path / "north", policy=whole.POLICY + 'approval = "automatic"\n'),
        whole.settings(),
    )
    centre.plan(centre.plan_request())
    state = decisions.read(decisions.folder(centre.folder, centre.settings.plan_hash()))
    assert state is not None
    assert state.status is Status.APPROVED
    begun(centre).draw()
    assert "claimed" not in order


def test_what_is_drawn_has_the_numbers_of_what_is_booked(centre: Centre) -> None:
    ready = begun(centre)
    ready.draw()
    (entry,) = lines(centre)
    assert ready.step == StepSettings(
        max_grad_norm=entry["max_grad_norm"],  # type: ignore[arg-type]
        noise_multiplier=entry["noise_multiplier"],  # type: ignore[arg-type]
        sample_rate=entry["sample_rate"],  # type: ignore[arg-type]
        patients=entry["patients"],  # type: ignore[arg-type]
    )
    privacy = centre.settings.privacy
    assert privacy is not None
    assert ready.step.noise_multiplier == privacy.noise_multiplier == 4.0


def test_the_line_of_the_ledger_stays_as_it_is(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every member, in its order; verifiers and later versions read them."""
    monkeypatch.setattr(ledger_file, "_now", lambda: "2026-01-01T00:00:00+00:00")
    begun(centre).draw()
    (entry,) = lines(centre)
    assert " ".join(entry) == (
        "seq time event kind campaign plan_hash request_id server_round group version max_grad_norm patients images "
        "sample_rate noise_multiplier steps new eligible prev signature"
    )
    expected = {
        "event": "private", "kind": "private-step", "campaign": "test", "request_id": f"{0xABC001:032x}",
        "server_round": 1, "group": "g", "version": VERSION, "max_grad_norm": 1.0, "patients": 6, "images": 2,
        "sample_rate": 0.5, "noise_multiplier": 4.0, "steps": 1, "eligible": [[0, 5]],
    }  # fmt: skip
    assert {name: entry[name] for name in expected} == expected


def test_no_other_module_of_the_room_asks_for_entropy() -> None:
    """What has no entropy cannot draw noise: the order above is the only way to it."""
    (room,) = client.rounds.__path__
    asking = {
        path.name
        for path in Path(room).glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Attribute) and node.attr in ("urandom", "token_bytes", "randbytes"))
        or (isinstance(node, ast.alias) and node.name in ("urandom", "token_bytes", "randbytes"))
    }
    assert asking == {"booking.py", "secure_sum.py"}  # the latter for keys and masks, in other phases
