"""Letting sites in and out: invitations, registration requests, revocation.

Every function can be called again after a kill. Nothing here touches a site other than the one that is named.
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import AwareDatetime, SecretStr, TypeAdapter, ValidationError

from common.enrolment import Code, Invitation, Registration, SiteName, keys_fingerprint, spoken
from common.errors import ConfigurationError, VerificationError
from common.machine import atomic
from common.sections.section import Section
from common.version import VERSION
from server.federation import certificates
from server.federation.home import Home
from server.federation.registry import RegisteredSite, Registry, lock

CODE_DAYS = 14


class _Code(Section):
    code: Code
    expires: AwareDatetime


def invite(home: Path, site: str, *, now: datetime) -> Invitation:
    """Invite a site; inviting it again replaces its code.

    Raises:
        ConfigurationError: if the name cannot be used, or the site takes part already.
    """
    paths = Home(home)
    federation = paths.federation()
    name = _site_name(site)
    ca_certificate = certificates.certificate_pem(certificates.read_authority(paths).certificate).decode()
    code = _Code(code=SecretStr(secrets.token_hex(32)), expires=_seconds(now + timedelta(days=CODE_DAYS)))
    with lock(home):
        registry = Registry.open(home)
        known = registry.alike(name) or RegisteredSite(name=name, status="invited")
        if known.name != name:
            raise ConfigurationError(f"Expected another name than {name!r}: there is a site {known.name!r}")
        if known.status == "registered":
            raise ConfigurationError(
                f"{name} is registered since {known.registered_at}: if it lost its keys or its machine, run "
                f"synofed federation revoke {name} first"
            )
        paths.make(paths.codes)
        atomic.write(_code_path(paths, name), code.model_dump_json().encode(), mode=0o600)
        invited = replace(known, status="invited", node_key="", receipt_key="", invited_at=_iso(now))
        registry.with_site(invited).write(home)
    return Invitation(
        federation=federation.name,
        site=name,
        address=federation.address,
        ca_certificate=ca_certificate,
        code=code.code,
        expires=code.expires,
    )


def accept(home: Path, request: str, *, fingerprint: str = "", now: datetime) -> RegisteredSite:
    """Register a site with the keys of its request; a request that was accepted before changes nothing.

    Args:
        home: the centre's.
        request: the text of the site's ``request.json``.
        fingerprint: of the site's keys as it read it out; not compared if empty.
        now: the present, with its time zone.

    Raises:
        VerificationError: if the request does not fit an invitation that is still good.
        ConfigurationError: if the home cannot be used.
    """
    paths = Home(home)
    paths.federation()
    registration = Registration.parse(request)
    _check_fingerprint(registration, fingerprint)
    with lock(home):
        registry = Registry.open(home)
        site = registry.site(registration.site)
        if site is not None and site.status == "registered":
            _check_same_keys(site, registration)
        else:
            invited = _invited(site, registration.site)
            registration.check(_code(paths, invited.name, now=now))
            _check_version(registration)
            _check_new_keys(registry, registration)
            site = replace(
                invited,
                status="registered",
                node_key=registration.node_key,
                receipt_key=registration.receipt_key,
                registered_at=_iso(now),
            )
            registry.with_site(site).write(home)
        _code_path(paths, site.name).unlink(missing_ok=True)
    return site


def revoke(home: Path, name: str, *, now: datetime) -> RegisteredSite:
    """Shut a site out, and its keys for ever; it may be invited again and come back with new ones.

    Raises:
        ConfigurationError: if there is no such site.
    """
    paths = Home(home)
    paths.federation()
    with lock(home):
        registry = Registry.open(home)
        site = registry.site(name)
        if site is None:
            known = ", ".join(one.name for one in registry.sites()) or "none"
            raise ConfigurationError(f"Expected a site of the registry ({known}), got {name!r}")
        _code_path(paths, name).unlink(missing_ok=True)
        if site.status == "revoked":
            return site
        revoked = replace(site, status="revoked", revoked_at=_iso(now))
        registry.with_revoked(revoked).write(home)
    return revoked


def _code_path(paths: Home, site: str) -> Path:
    return paths.codes / f"{site}.json"


def _code(paths: Home, site: str, *, now: datetime) -> SecretStr:
    """The code of a site's latest invitation.

    Raises:
        VerificationError: if there is none, or it has expired.
    """
    path = _code_path(paths, site)
    again = f"run synofed federation invite {site} again, and have the site run synofed site init with it"
    try:
        kept = _Code.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        raise VerificationError(f"Expected the code of {site}'s invitation at {path}: {again}") from None
    if kept.expires <= now:
        raise VerificationError(
            f"The invitation of {site} expired on {kept.expires:%Y-%m-%d %H:%M %Z}: {again}"
        )
    return kept.code


def _check_fingerprint(registration: Registration, spoken_by_site: str) -> None:
    told = "".join(spoken_by_site.lower().replace(":", " ").split())
    if told and len(told) != len(registration.fingerprint):
        raise VerificationError(
            f"Expected a fingerprint of {len(registration.fingerprint)} digits, got {len(told)}: have the site read "
            f"out all of it"
        )
    if told and told != registration.fingerprint:
        raise VerificationError(
            f"Expected keys with fingerprint {spoken(told)}, the request has {spoken(registration.fingerprint)}: "
            f"somebody else may have written it. Invite {registration.site} again over another channel"
        )


def _invited(site: RegisteredSite | None, name: str) -> RegisteredSite:
    """The site, if it was invited and not revoked since.

    Raises:
        VerificationError: if not.
    """
    if site is None:
        raise VerificationError(
            f"Expected the request of an invited site, got one of {name}: run synofed federation invite {name}"
        )
    if site.status == "revoked":
        raise VerificationError(
            f"{name} was revoked on {site.revoked_at}: to let it in again, run synofed federation invite {name}"
        )
    return site


def _check_same_keys(site: RegisteredSite, registration: Registration) -> None:
    if (site.node_key, site.receipt_key) != (registration.node_key, registration.receipt_key):
        raise VerificationError(
            f"{site.name} is registered with other keys (fingerprint "
            f"{spoken(keys_fingerprint(site.node_key, site.receipt_key))}): if it lost them, run synofed "
            f"federation revoke {site.name}, then invite it again"
        )


def _check_version(registration: Registration) -> None:
    if registration.version != VERSION:
        raise VerificationError(
            f"Expected synofed {VERSION} at {registration.site}, as at the centre, got {registration.version}: "
            f"install the same version at both, then have the site run synofed site init again"
        )


def _check_new_keys(registry: Registry, registration: Registration) -> None:
    keys = {registration.node_key, registration.receipt_key}
    if keys & registry.revoked_keys():
        raise VerificationError(
            f"The request of {registration.site} has a key that was revoked, and revoked keys stay so: have the "
            f"site move its folder keys aside, and run synofed site init again"
        )
    for other in registry.registered():
        if keys & {other.node_key, other.receipt_key}:
            raise VerificationError(
                f"The request of {registration.site} has a key of {other.name}: every site makes its own, with "
                f"synofed site init in a folder of its own"
            )


def _site_name(name: str) -> str:
    try:
        return str(TypeAdapter(SiteName).validate_python(name))
    except ValidationError:
        raise ConfigurationError(
            f"Expected a site's name of up to 64 letters, digits, dots, dashes and underscores that begins with "
            f"a letter or digit, got {name!r}"
        ) from None


def _seconds(when: datetime) -> datetime:
    return when.replace(microsecond=0)


def _iso(when: datetime) -> str:
    return when.isoformat(timespec="seconds")
