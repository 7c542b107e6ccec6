"""Whether the policy in ``site.toml`` may be followed: at an enrolled site the privacy officer has signed it.

``policy.sig`` is over the policy, the site's name and a serial number that only goes up; ``keys/officer.pub`` says
whose signature counts. Every policy that a request meets for the first time is entered in the log in full.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field, ValidationError

from client.files import atomic
from client.log import chain
from client.log.audit import OFFICER, POLICY
from client.site import keys, officer, site_toml
from client.site.policy import NEWEST, Policy
from client.site.site import Site, SiteFile
from common import signed_json
from common.errors import PolicyError, SynofedError
from common.sections.section import Section

DOMAIN = b"synofed policy 1\n"
"""Stands before what is signed, so that a signature can never pass for one over something else."""
NAME = "policy.sig"
SIGN = "have the privacy officer sign it: `synofed site policy sign FOLDER --key officer.pem`"


class Signature(Section):
    """``policy.sig``."""

    site: str
    serial: Annotated[int, Field(ge=1)]
    signed: str
    """When, ISO 8601."""
    public_key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of the officer, Ed25519 in hex."""
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


def policy_hash(site: Site) -> str:
    """HMAC-SHA-256 of the policy with the site's secret: a plain hash would let others try out policies."""
    text = json.dumps(_signed(site), sort_keys=True)
    return hmac.new(keys.site_secret(site.folder), b"policy\n" + text.encode(), hashlib.sha256).hexdigest()


def _signed(site: Site) -> dict[str, object]:
    """The policy, and the peers' keys where there are any: what the site's protection rests on."""
    policy: dict[str, object] = site.policy.model_dump(mode="json")
    return {**policy, "peers": dict(sorted(site.file.peers.items()))} if site.file.peers else policy


def enrolled(site: Site) -> bool:
    """Whether the site belongs to a federation, so that its policy needs a signature."""
    return (site.folder / "federation.json").exists()


def admit(site: Site) -> None:
    """Check that the policy counts, and enter it in the log if it is new.

    Raises:
        PolicyError: if an enrolled site's policy is not signed, or not by its officer, or is an older one put back.
        VerificationError: if the log or the officer's public key is damaged.
        StorageError: if the log cannot be written.
    """
    if not enrolled(site):
        last = chain.last(site.folder / chain.NAME)
        if last is None or last.content.get("policy_hash") != policy_hash(site):
            _enter(site, serial=0)
        return
    _enter(site, serial=check(site).serial)


def check(site: Site) -> Signature:
    """The signature of an enrolled site's policy, which pins the officer's key if it is the first.

    Raises:
        PolicyError: as :func:`admit`.
        VerificationError: if the log or the officer's public key is damaged.
        StorageError: if the first officer's key cannot be pinned.
    """
    signature = _read(site)
    _verify(site, signature)
    check_officer(site, signature.public_key)
    _check_serial(site, signature.serial)
    return signature


def sign(site: Site, key: Ed25519PrivateKey, *, new_officer: bool = False) -> Signature:
    """Sign the policy as it stands in ``site.toml`` and enter it in the log.

    A policy of an older version is given the newest, in ``site.toml`` too; from then on its settings mean what they
    mean there.

    Args:
        site: the site.
        key: of its privacy officer; the first one is the site's from then on.
        new_officer: whether the key takes the place of another's, which the log will tell.

    Raises:
        PolicyError: if another key is the officer's.
        ConfigurationError: if the policy's version cannot be written into ``site.toml``.
        StorageError: if the signature cannot be written.
    """
    public_key = key.public_key().public_bytes_raw().hex()
    if new_officer:
        officer.pin(site.folder, public_key)
        chain.append_new(site.folder / chain.NAME, OFFICER, {"public_key": public_key})
    check_officer(site, public_key)
    site = _renewed(site)
    signature = signed(site, key, serial=next_serial(site))
    _keep(site, signature)
    return signature


def signed(site: Site, key: Ed25519PrivateKey, *, serial: int) -> Signature:
    """A signature over a site's policy; no file is read or written.

    Args:
        site: whose name, policy and peers are signed.
        key: of the officer.
        serial: of the policy, higher than all before.
    """
    unsigned = Signature(
        site=site.name,
        serial=serial,
        signed=datetime.now(UTC).isoformat(timespec="seconds"),
        public_key=key.public_key().public_bytes_raw().hex(),
        signature="0" * 128,
    )
    return unsigned.model_copy(update={"signature": signed_json.sign(_payload(site, unsigned), key)})


def accept(site: Site, policy: Policy, signature: Signature) -> Site:
    """Put a policy that the officer has signed elsewhere into force; the first officer's key is pinned.

    ``site.toml`` is written first: between it and the signature every request is refused.

    Args:
        site: as ``site.toml`` stands.
        policy: that takes the place of the one in it.
        signature: over it.

    Returns:
        The site as it is now.

    Raises:
        PolicyError: if the signature is of another policy, of another officer, or not of the next serial.
        ConfigurationError: if the policy cannot be written into ``site.toml``.
        StorageError: if something cannot be written.
    """
    file = site.file.model_copy(update={"policy": policy})
    _verify(Site(folder=site.folder, file=file), signature)
    if signature.serial != next_serial(site):
        raise PolicyError(
            f"Expected serial {next_serial(site)}, got {signature.serial}: another policy was signed meanwhile"
        )
    check_officer(site, signature.public_key)
    site = put(site, policy)
    _keep(site, signature)
    return site


def put(site: Site, policy: Policy) -> Site:
    """Write a policy into ``site.toml``; where it needs a signature, nothing runs until it has one.

    Raises:
        ConfigurationError: if it cannot be written there.
        StorageError: if the file cannot be written.
    """
    before, after = _settings(site.policy), _settings(policy)
    changed = {name: value for name, value in after.items() if before[name] != value}
    return site_toml.set_values(
        site, "policy", changed, expected=site.file.model_copy(update={"policy": policy})
    )


def state(site: Site) -> str:
    """Whether the policy counts, and by whose signature, in a sentence."""
    if not enrolled(site):
        return "This site belongs to no federation: its policy needs no signature."
    try:
        signature = check(site)
    except SynofedError as error:
        return f"Every request is refused: {error}"
    return f"Signed at {signature.signed} with key {officer.spoken(signature.public_key)}, serial {signature.serial}."


def next_serial(site: Site) -> int:
    """What the next policy is signed as."""
    entered = _entered(site)
    return (entered[0] if entered is not None else 0) + 1


def last_signed(site: Site) -> tuple[SiteFile, Signature] | None:
    """The policy that was signed last, as the log has it, and its signature; ``None``: none that fits.

    Raises:
        VerificationError: if the log is damaged.
    """
    try:
        signature = _read(site)
    except PolicyError:
        return None
    entered = next(
        (
            entry
            for entry in chain.newest(site.folder / chain.NAME, "event", POLICY)
            if entry.content.get("serial") == signature.serial
        ),
        None,
    )
    if entered is None or not isinstance(entered.content["policy"], dict):
        return None
    content = dict(entered.content["policy"])
    peers = content.pop("peers", {})
    try:
        file = SiteFile.model_validate({"name": site.name, "policy": content, "peers": peers})
        _verify(Site(folder=site.folder, file=file), signature)
    except (ValidationError, PolicyError):
        return None
    return file, signature


def fits(file: SiteFile, signature: Signature) -> bool:
    """Whether a signature is over the policy of a ``site.toml``; no file is read."""
    payload = _payload(Site(folder=Path(), file=file), signature)
    return signature.site == file.name and signed_json.fits(
        signature.signature, payload, signature.public_key
    )


def _settings(policy: Policy) -> dict[str, object]:
    return {name: getattr(policy, name) for name in type(policy).model_fields}


def _keep(site: Site, signature: Signature) -> None:
    atomic.write(site.folder / NAME, (signature.model_dump_json(indent=2) + "\n").encode())
    _enter(site, serial=signature.serial)


def _renewed(site: Site) -> Site:
    if site.policy.version == NEWEST:
        return site
    policy = site.policy.model_copy(update={"version": NEWEST})
    expected = site.file.model_copy(update={"policy": policy})
    return site_toml.add_line(site, "policy", f"version = {NEWEST}", expected=expected)


def _payload(site: Site, signature: Signature) -> bytes:
    own = {"policy": _signed(site), "site": site.name}
    content = signature.model_dump(exclude={"signature"}) | own
    return DOMAIN + signed_json.canonical(content).encode()


def _read(site: Site) -> Signature:
    place = site.folder / NAME
    try:
        return Signature.model_validate_json(place.read_bytes())
    except FileNotFoundError:
        raise PolicyError(f"Expected the policy to be signed, there is no {place}: {SIGN}") from None
    except (OSError, ValidationError):
        raise PolicyError(
            f"Expected a signature of the policy in {place}, got something else: {SIGN}"
        ) from None


def _verify(site: Site, signature: Signature) -> None:
    if not fits(site.file, signature):
        raise PolicyError(
            f"The policy of {site.name} is not the one that was signed at {signature.signed}: undo the change in "
            f"site.toml, or {SIGN}"
        )


def check_officer(site: Site, public_key: str) -> None:
    """Whether a key is the officer's: the first one is pinned; from then on file and log say whose counts.

    Raises:
        PolicyError: if it is another's.
        VerificationError: if the log or the pinned key is damaged.
        StorageError: if the first key cannot be pinned.
    """
    log = site.folder / chain.NAME
    pinned = officer.pinned(site.folder)
    entered = next(chain.newest(log, "event", OFFICER), None)
    if pinned is None and entered is None:
        officer.pin(site.folder, public_key)
        chain.append_new(log, OFFICER, {"public_key": public_key})
        return
    known = str(entered.content.get("public_key")) if entered is not None else str(pinned)
    if pinned != known:
        raise PolicyError(
            f"Expected the officer's key in {officer.path(site.folder)} to be the one in the log, got another or "
            f"none: restore it from a backup, or sign with --new-officer"
        )
    if entered is None:
        chain.append_new(log, OFFICER, {"public_key": known})
    if public_key != known:
        raise PolicyError(
            f"Expected the policy to be signed with the officer's key {officer.spoken(known)}, got "
            f"{officer.spoken(public_key)}: sign with that key, or with --new-officer where the officer changed"
        )


def _check_serial(site: Site, serial: int) -> None:
    entered = _entered(site)
    if entered is None or serial > entered[0]:
        return
    if serial < entered[0]:
        raise PolicyError(
            f"Expected the policy with serial {entered[0]} or a later one, got {serial}: an older site.toml and "
            f"policy.sig were put back; bring the newest back, or {SIGN}"
        )
    if entered[1] != policy_hash(site):
        raise PolicyError(f"Serial {serial} was given to another policy: {SIGN}")


def _entered(site: Site) -> tuple[int, str] | None:
    """Serial and hash of the policy that the log tells of last."""
    entry = next(chain.newest(site.folder / chain.NAME, "event", POLICY), None)
    if entry is None:
        return None
    serial = entry.content.get("serial")
    return serial if isinstance(serial, int) else 0, str(entry.content.get("policy_hash"))


def _enter(site: Site, *, serial: int) -> None:
    details = {
        "serial": serial,
        "policy_hash": policy_hash(site),
        "policy": _signed(site),
    }
    chain.append_new(site.folder / chain.NAME, POLICY, details)
