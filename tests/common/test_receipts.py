from dataclasses import asdict, fields, replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from common import receipts
from common.errors import UpdateError, VerificationError
from common.receipts import Contents, Kept, Receipt
from tests.receipts import PUBLIC_KEY, make_receipt

SIGNED = [field.name for field in fields(Receipt) if field.name != "signature"]


def test_a_signed_receipt_is_verified() -> None:
    receipts.verify(make_receipt(), PUBLIC_KEY)


@pytest.mark.parametrize("name", SIGNED)
def test_a_change_of_any_field_is_found(name: str) -> None:
    good = make_receipt()
    value = getattr(good, name)
    bad = replace(good, **{name: value + 1 if isinstance(value, int) else f"{value}x"})  # type: ignore[arg-type]
    with pytest.raises(VerificationError, match=r"signature does not fit|of format"):
        receipts.verify(bad, PUBLIC_KEY)


@pytest.mark.parametrize("signature", ["", "00" * 64, "not hex", make_receipt(sequence=2).signature])
def test_another_signature_is_found(signature: str) -> None:
    with pytest.raises(VerificationError, match="signature does not fit"):
        receipts.verify(replace(make_receipt(), signature=signature), PUBLIC_KEY)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "zz",
        "00" * 31,
        Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes_raw().hex(),
    ],
)
def test_another_key_is_found(key: str) -> None:
    with pytest.raises(VerificationError, match="signature does not fit"):
        receipts.verify(make_receipt(), key)


@given(st.text(), st.text(), st.integers(0, 2**60))
def test_what_is_signed_tells_apart_all_that_can_be_said(campaign: str, group: str, sequence: int) -> None:
    one = make_receipt(campaign=campaign, group=group, sequence=sequence)
    moved = make_receipt(campaign=campaign + group, group="", sequence=sequence)
    assert (receipts.payload(one) == receipts.payload(moved)) == (group == "")
    receipts.verify(one, PUBLIC_KEY)


@given(st.text(), st.integers(1, 2**60))
def test_what_is_kept_comes_back(group: str, sequence: int) -> None:
    kept = Kept(
        received="2026-01-01T00:00:00+00:00",
        public_key=PUBLIC_KEY,
        receipt=make_receipt(group=group, sequence=sequence),
    )
    line = receipts.dump(kept)
    assert len(line.splitlines()) == 1
    assert receipts.parse(line) == kept


@pytest.mark.parametrize("line", ["", "{}", "[]", "3", '{"received":"x","public_key":"y","receipt":{}}'])
def test_a_line_that_is_no_receipt_is_refused(line: str) -> None:
    with pytest.raises(VerificationError, match="Expected a receipt"):
        receipts.parse(line)


def test_fields_of_another_type_are_refused() -> None:
    with pytest.raises(VerificationError, match="sequence"):
        receipts.from_fields({**asdict(make_receipt()), "sequence": "1"})
    with pytest.raises(VerificationError, match="site"):
        receipts.from_fields({**asdict(make_receipt()), "site": 1})


def test_contents_are_told_apart_by_where_their_bytes_stand() -> None:
    one = Contents.of([(["a"], b"12"), (["b"], b"3")])
    assert one.size_bytes == 3
    for other in (
        [(["a"], b"1"), (["b"], b"23")],
        [(["b"], b"12"), (["a"], b"3")],
        [(["a"], b"12")],
        [(["a"], b""), (["b"], b"123")],
    ):
        assert Contents.of(other).hash != one.hash


def test_a_header_of_other_types_is_refused() -> None:
    with pytest.raises(UpdateError, match="text and numbers"):
        Contents.of([([b"bytes"], b"")])
