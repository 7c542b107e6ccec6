import hashlib
import hmac
import json

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from common.enrolment import (
    Invitation,
    Registration,
    certificate_fingerprint,
    keys_fingerprint,
    split_address,
    spoken,
)
from common.errors import ConfigurationError, VerificationError
from server.federation import certificates
from tests.enrolling import NOW

CODE = "5a" * 32
AUTHORITY = certificates.make_authority("Test", now=NOW)
PEM = certificates.certificate_pem(AUTHORITY.certificate).decode()


def _ssh(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


NODE_KEY = _ssh(ec.derive_private_key(12345, ec.SECP384R1()))


def _invitation(**changes: object) -> Invitation:
    content = {"federation": "Test", "site": "north", "address": "localhost:8443", "ca_certificate": PEM}
    return Invitation.model_validate({**content, "code": CODE, "expires": NOW, **changes})


def _registration(*, node_key: str = NODE_KEY, site: str = "north") -> Registration:
    return Registration.make(
        site=site, node_key=node_key, receipt_key="0b" * 32, version="0.1.0", code=SecretStr(CODE)
    )


REGISTRATION = _registration().dump().encode()


def test_what_is_written_is_read_again() -> None:
    assert Invitation.parse(_invitation().dump()) == _invitation()
    request = Registration.parse(REGISTRATION.decode())
    assert request == _registration()
    request.check(SecretStr(CODE))


def test_the_proof_is_an_hmac_over_all_else() -> None:
    content = json.loads(REGISTRATION)
    proof = content.pop("proof")
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    told = b"synofed registration 1\n" + text.encode()
    assert proof == hmac.new(bytes.fromhex(CODE), told, hashlib.sha256).hexdigest()


@given(place=st.integers(0, len(REGISTRATION) - 1), byte=st.integers(0, 255))
def test_any_changed_byte_of_a_request_is_refused(place: int, byte: int) -> None:
    changed = bytearray(REGISTRATION)
    if changed[place] == byte:
        return
    changed[place] = byte
    with pytest.raises((VerificationError, UnicodeDecodeError)):
        Registration.parse(changed.decode()).check(SecretStr(CODE))


def test_a_changed_bit_at_any_place_of_a_request_is_refused() -> None:
    for place in range(len(REGISTRATION)):
        changed = bytearray(REGISTRATION)
        changed[place] ^= 1
        with pytest.raises(VerificationError):
            Registration.parse(changed.decode()).check(SecretStr(CODE))


@given(place=st.integers(0, len(REGISTRATION)), text=st.text(min_size=1, max_size=3))
def test_anything_added_to_a_request_or_cut_from_it_is_refused(place: int, text: str) -> None:
    whole = REGISTRATION.decode()
    for changed in (whole[:place] + text + whole[place:], whole[:place]):
        if changed == whole:
            continue
        with pytest.raises(VerificationError):
            Registration.parse(changed).check(SecretStr(CODE))


def test_a_request_that_was_made_with_another_code_is_refused() -> None:
    with pytest.raises(VerificationError, match="does not fit the code of its latest invitation"):
        _registration().check(SecretStr("5b" * 32))


@pytest.mark.parametrize(
    "key",
    [
        _ssh(ec.derive_private_key(12345, ec.SECP256R1())),
        _ssh(rsa.generate_private_key(public_exponent=65537, key_size=2048)),
        _ssh(Ed25519PrivateKey.from_private_bytes(bytes(32))),
        f"{NODE_KEY} anna@hospital",
        f" {NODE_KEY}",
        NODE_KEY[:60],
        "",
    ],
)
def test_node_keys_of_another_kind_or_form_are_refused(key: str) -> None:
    with pytest.raises(VerificationError, match=r"Expected an EC P-384 key in OpenSSH's form"):
        Registration.parse(_registration(node_key=key).dump()).check(SecretStr(CODE))


def _leaf() -> str:
    certificate = certificates.certify_server(AUTHORITY, certificates.new_key(), "localhost", now=NOW)
    return certificates.certificate_pem(certificate).decode()


@pytest.mark.parametrize(
    "pem",
    [
        _leaf(),
        PEM + certificates.key_pem(AUTHORITY.key).decode(),
        certificates.key_pem(AUTHORITY.key).decode() + PEM,
        PEM + PEM,
        PEM[:200],
        "",
    ],
)
def test_an_invitation_holds_one_authority_and_nothing_else(pem: str) -> None:
    with pytest.raises(ConfigurationError, match=r"certificate of a certificate authority, alone"):
        Invitation.parse(_invitation(ca_certificate=pem).dump())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "got no JSON"),
        ("[]", "got other JSON"),
        (REGISTRATION.decode(), "got a registration request"),
        (_invitation().dump()[:-20] + "}", "got no JSON"),
        (_invitation().dump().replace('"address"', '"addresses"'), "incomplete or was changed"),
        (_invitation().dump().replace(CODE, CODE[2:]), "incomplete or was changed"),
        (_invitation().dump().replace('"site":"north"', '"site":"../north"'), "incomplete or was changed"),
    ],
)
def test_what_is_no_invitation_is_told(text: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as refused:
        Invitation.parse(text)
    assert CODE[2:] not in str(refused.value)


def test_an_invitation_in_place_of_a_request_is_told() -> None:
    with pytest.raises(VerificationError, match="got an invitation: "):
        Registration.parse(_invitation().dump())


def test_the_fingerprint_of_a_certificate_is_the_usual_one() -> None:
    certificate = x509.load_pem_x509_certificate(PEM.encode())
    assert certificate_fingerprint(PEM) == certificate.fingerprint(hashes.SHA256()).hex()


def test_the_fingerprint_of_keys_tells_both_and_is_read_out_in_groups() -> None:
    prints = {keys_fingerprint(a, b) for a in ("a", "b") for b in ("a", "b")}
    assert len(prints) == 4
    assert spoken("0123456789ab") == "0123 4567 89ab"


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("centre.example.org:8443", ("centre.example.org", 8443)),
        ("localhost:1", ("localhost", 1)),
        ("192.0.2.7:65535", ("192.0.2.7", 65535)),
        ("[2001:db8::7]:443", ("2001:db8::7", 443)),
    ],
)
def test_addresses_are_split(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts


@pytest.mark.parametrize(
    "address",
    [
        "",
        "centre",
        "centre:",
        ":8443",
        "centre:0",
        "centre:08443",
        "centre:65536",
        "centre:٨",
        "https://centre:8443",
        "user@centre:1",
        "a b:1",
        "-a:1",
        "a..b:1",
        "::1:8443",
        "[192.0.2.7]:1",
        "[centre]:1",
        "256.0.0.1:1",
        "münchen.de:1",
        "a" * 64 + ":1",
        "centre:1\n",
    ],
)
def test_addresses_that_cannot_be_used_are_refused(address: str) -> None:
    with pytest.raises(ConfigurationError, match=r"Expected an address as centre\.example\.org:8443"):
        split_address(address)
