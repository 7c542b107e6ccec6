"""What is signed or hashed is what earlier versions signed and hashed, byte for byte.

``evidence/signed_bytes.json`` was written by the version before canonical JSON had one home. A kind whose bytes
change makes every signature and every hash of it that exists invalid.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import SecretStr

from client.log import chain as log
from client.site import policy_file
from client.site.site import Site
from client.withdrawal.withdrawal_statement import CampaignOfPatient
from client.withdrawal.withdrawal_statement import Statement as Withdrawal
from common import receipts, settings
from common.enrolment import Invitation, Registration, keys_fingerprint
from common.ensemble import statement
from common.ensemble.statement import NetworkStatement, Statement
from common.privacy.accounting import chain as ledger
from common.receipts import Contents, Kept, Receipt
from common.secure_aggregation import identity, terms
from common.secure_aggregation.terms import Context, Terms

GOLDEN = Path(__file__).with_name("evidence") / "signed_bytes.json"
CONFIGS = Path(__file__).parents[1] / "configs"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC_KEY = KEY.public_key().public_bytes_raw().hex()
CENTRE = ec.derive_private_key(7, ec.SECP384R1())
NAME = 'Größe "Ø" \u2028'
"""What JSON escapes in more than one way."""


def test_every_kind_of_signed_bytes_is_as_it_was(tmp_path: Path) -> None:
    assert signed(tmp_path) == json.loads(GOLDEN.read_bytes())


def test_the_centres_signature_is_over_the_text_after_its_domain() -> None:
    text = ensemble().dump()
    given = bytes.fromhex(statement.sign(text, CENTRE))
    CENTRE.public_key().verify(given, b"synofed ensemble 1\n" + text.encode(), ec.ECDSA(hashes.SHA256()))


def signed(folder: Path) -> dict[str, str]:
    """Kind -> its text, or SHA-256 or signature of it in hex."""
    site = site_in(folder)
    officer = policy_file.sign(site, KEY)
    unsigned_policy = policy_file._payload(site, officer.model_copy(update={"signed": "then"}))
    withdrawal = withdrawn().payload()
    context = Context(
        plan_hash="a" * 64, run="b" * 32, group=NAME, server_round=3, attempt="c" * 32, content="d" * 64
    )
    line = ledger.line(
        ledger.PRIVATE, {"b": 0.1, "a": [NAME, 1e-30]}, last=ledger.START, time="then", key=KEY
    )
    found: dict[str, str | bytes] = {
        "receipt 1": receipts.payload(receipt(1)),
        "receipt 2": receipts.payload(receipt(2)),
        "receipt 2, kept": receipts.dump(Kept(received="then", public_key=PUBLIC_KEY, receipt=receipt(2))),
        "receipt 1, kept": receipts.dump(Kept(received="then", public_key=PUBLIC_KEY, receipt=receipt(1))),
        "reply": Contents.of([({"b": 1, "a": [NAME, 0.1]}, b"\x00"), (["x"], b"")]).hash,
        "ledger": line,
        "log": logged(folder / "log"),
        "withdrawal": withdrawal,
        "withdrawal, signed": KEY.sign(withdrawal).hex(),
        "policy": unsigned_policy,
        "policy, hash": policy_file.policy_hash(site),
        "ensemble": ensemble().dump(),
        "registration": Registration.make(
            site="north", node_key=NAME, receipt_key=PUBLIC_KEY, version="1", code=SecretStr("e" * 64)
        ).dump(),
        "invitation": invitation().dump(),
        "fingerprint": keys_fingerprint(NAME, PUBLIC_KEY),
        "sum, binding": terms.binding(context, Terms(sites=4, survivors=3, colluders=1, length=5, bits=32)),
        "sum, statement": terms.statement("kind", {"b": NAME, "a": [1, 0.1]}),
        "sum, keys": identity.sign_keys(
            KEY, binding="b", site=NAME, mask_key=b"m" * 32, share_key=b"s" * 32
        ).hex(),
        "sum, survivors": identity.sign_survivors(KEY, lists="l" * 64).hex(),
    }
    plans = {f"plan {path.name}": settings.load(path).plan_hash() for path in plans_in(CONFIGS)}
    texts = {kind: one if isinstance(one, str) else one.decode() for kind, one in found.items()}
    return {**texts, **plans}


def plans_in(folder: Path) -> list[Path]:
    """The configurations that are plans; others compare plans."""
    return [path for path in sorted(folder.glob("*.toml")) if "[images" in path.read_text(encoding="utf-8")]


def receipt(format_: int) -> Receipt:
    """A receipt, signed."""
    unsigned = Receipt(
        site=NAME,
        campaign="c",
        plan_hash="a" * 64,
        request_id="r",
        server_round=2,
        group="g",
        reply_hash="b" * 64,
        sequence=3,
        log_head="c" * 64,
        policy_hash="d" * 64,
        version="1",
        ledger_sequence=4,
        ledger_head="e" * 64,
        format=format_,
    )
    return replace(unsigned, signature=KEY.sign(receipts.payload(unsigned)).hex())


def withdrawn() -> Withdrawal:
    """A patient's statement, not signed."""
    one = CampaignOfPatient(
        campaign=NAME, plan_hash="a" * 64, rounds=(1, 2), private_releases=2, epsilon=0.1, unbounded=False
    )
    return Withdrawal(
        site="north",
        patient=NAME,
        withdrawn="then",
        campaigns=(one,),
        epsilon=1e-07,
        delta=1e-05,
        unbounded=True,
        deleted_exams=3,
        deleted_pictures=4,
        ledger_entry=5,
        ledger_head="f" * 64,
        version="1",
        public_key=PUBLIC_KEY,
    )


def ensemble() -> Statement:
    """A finished campaign's."""
    one = NetworkStatement(
        weights="a" * 64, frozen={"z": "b" * 64, "a": "c" * 64}, best_round=7, auc=None, threshold=0.1
    )
    return Statement(
        campaign=NAME,
        plan_hash="d" * 64,
        version="1",
        status="COMPLETE_SUBSET",
        missing={"south": 2, "north": 1},
        networks={"tsh": one, "gs": one},
    )


def invitation() -> Invitation:
    """The centre's."""
    return Invitation.model_validate(
        {
            "federation": NAME,
            "site": "north",
            "address": "centre.example.org:8443",
            "ca_certificate": "pem",
            "code": "e" * 64,
            "expires": "2030-01-02T03:04:05Z",
        }
    )


def logged(path: Path) -> str:
    """The first line of a log, at no particular time."""
    log.append(path, "reply", {"b": 0.1, "a": [NAME]})
    return re.sub(r'"time":"[^"]*"', '"time":"then"', path.read_text(encoding="utf-8"))


def site_in(folder: Path) -> Site:
    """A site with a policy and peers, and with a secret that is known."""
    (folder / "store").mkdir()
    (folder / "store" / "secret").write_bytes(bytes(32))
    policy = '[policy]\nallow_secure_only = true\nmethods = ["b", "a"]\n'
    text = f'name = "north"\n{policy}[peers]\nsouth = "{PUBLIC_KEY}"\n'
    (folder / "site.toml").write_text(text, encoding="utf-8")
    return Site.open(folder)
