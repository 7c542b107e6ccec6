"""One text for each content, one content for each text; in every kind of JSON that is verified."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.log import chain as log
from client.state import decisions
from client.withdrawal.withdrawal_statement import Statement as Withdrawal
from common import receipts, settings, signed_json
from common.ensemble import statement
from common.errors import DataError, SynofedError, VerificationError
from common.hash_chain import START
from common.privacy.accounting import chain as ledger
from server.federation import certificates
from tests.receipts import KEY, PUBLIC_KEY, make_receipt
from tests.test_signed_bytes import CONFIGS, ensemble, withdrawn

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
AMBIGUOUS = ['{"a":1,"a":2}', '{"a":1,"\\u0061":1}', '[{"b":{"a":1,"a":1}}]', "NaN", "[-Infinity]", "1e999"]


@given(JSON)
def test_a_content_comes_back_and_has_one_text(content: object) -> None:
    text = signed_json.canonical(content)
    assert text.isascii()
    assert signed_json.parse(text) == signed_json.parse(text.encode()) == content
    assert signed_json.canonical(signed_json.parse(text)) == text


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_the_order_of_names_does_not_matter(content: dict[str, int]) -> None:
    backwards = dict(reversed(content.items()))
    assert signed_json.canonical(backwards) == signed_json.canonical(content)


@pytest.mark.parametrize("text", AMBIGUOUS)
def test_what_readers_understand_differently_is_refused(text: str) -> None:
    json.loads(text)  # as most readers do
    with pytest.raises(ValueError, match=r"each name once|finite"):
        signed_json.parse(text)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_has_no_text(value: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        signed_json.canonical({"a": [value]})


def test_a_signature_fits_its_message_and_key_alone() -> None:
    signature = signed_json.sign(b"message", KEY)
    assert signed_json.fits(signature, b"message", PUBLIC_KEY)
    assert not signed_json.fits(signature, b"message ", PUBLIC_KEY)
    assert not signed_json.fits(signature, b"message", signature[:64])
    for malformed in ("", "zz", signature[:-2], signature + "00"):
        assert not signed_json.fits(malformed, b"message", PUBLIC_KEY)
        assert not signed_json.fits(signature, b"message", malformed[:62])


def _ledger(doubled: str, _: Path) -> None:
    body = (
        f'{{"seq":1,"time":"t","event":"opened",{doubled},"public_key":"{PUBLIC_KEY}","prev":"{START.hash}"}}'
    )
    signature = signed_json.sign(ledger.DOMAIN + body.encode(), KEY)
    ledger.check(f'{body[:-1]},"signature":"{signature}"}}\n'.encode(), public_key=PUBLIC_KEY)


def _log(doubled: str, folder: Path) -> None:
    line = f'{{"seq":1,"time":"t","event":"reply",{doubled},"prev":"{START.hash}"}}\n'
    (folder / log.NAME).write_text(line, encoding="utf-8")
    list(log.entries(folder / log.NAME))


def _ensemble(doubled: str, _: Path) -> None:
    centre = certificates.make_authority("Test", now=datetime.now(UTC))
    text = ensemble().dump().replace('"version":"1"', doubled)
    pem = certificates.certificate_pem(centre.certificate).decode()
    statement.verified(text, statement.sign(text, centre.key), pem, authority=centre.certificate)


def _receipt(doubled: str, _: Path) -> None:
    kept = receipts.Kept(received="then", public_key=PUBLIC_KEY, receipt=make_receipt())
    receipts.parse(receipts.dump(kept).replace('"received":"then"', f'"received":"then",{doubled}'))


@pytest.mark.parametrize("verify", [_ledger, _log, _ensemble, _receipt])
def test_a_name_that_stands_twice_is_refused_wherever_json_is_verified(
    verify: Callable[[str, Path], None], tmp_path: Path
) -> None:
    verify('"version":"1"', tmp_path)
    with pytest.raises(VerificationError):
        verify('"version":"2","version":"1"', tmp_path)


@pytest.mark.parametrize("verify", [_ledger, _log, _ensemble, _receipt])
def test_a_number_that_is_not_finite_is_refused_wherever_json_is_verified(
    verify: Callable[[str, Path], None], tmp_path: Path
) -> None:
    with pytest.raises(SynofedError):
        verify('"version":NaN', tmp_path)


def test_a_plan_with_a_setting_twice_is_not_understood() -> None:
    text = settings.load(CONFIGS / "rating.toml").plan_json()
    decisions.understood(text.encode(), name="n")
    with pytest.raises(DataError, match="each name once"):
        decisions.understood(text.replace('"seed":', '"seed":7,"seed":', 1).encode(), name="n")


def test_a_name_that_stands_twice_in_a_withdrawal_changes_nothing_that_is_told() -> None:
    one = withdrawn()
    whole = one.model_copy(update={"signature": signed_json.sign(one.payload(), KEY)})
    text = whole.model_dump_json()
    Withdrawal.model_validate_json(
        text.replace("{", '{"patient":"other",', 1)
    ).verify()  # the last one counts
    forged = Withdrawal.model_validate_json(text[:-1] + ',"patient":"other"}')
    assert forged.patient == "other"
    with pytest.raises(VerificationError, match="it was changed"):
        forged.verify()
