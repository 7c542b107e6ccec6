"""The commands that set up the centre and let sites in and out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich import box

from common.enrolment import (
    LIMIT_BYTES,
    Invitation,
    certificate_fingerprint,
    keys_fingerprint,
    spoken,
)
from common.errors import ConfigurationError, DataError
from common.machine import atomic
from common.text.terminal import Console, Table
from server.federation import enrolment
from server.federation import provision as provisioning
from server.federation.provision import Validity
from server.federation.registry import RegisteredSite, Registry

HomeOption = Annotated[
    Path, typer.Option("--home", envvar="SYNOFED_HOME", help="The centre's folder.", show_default=True)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
DEFAULT_HOME = Path("federation")


def provision(
    name: Annotated[str, typer.Option(help="The federation's name, as sites and their officers see it.")],
    address: Annotated[str, typer.Option(metavar="HOST:PORT", help="Address that hospitals connect to.")],
    home: HomeOption = DEFAULT_HOME,
    listen: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            help="Where the proxy listens; default: the address's port on all interfaces.",
        ),
    ] = "",
    superlink_port: Annotated[int, typer.Option(help="The SuperLink's port, on loopback only.")] = 28000,
    as_json: JsonOption = False,
) -> None:
    """Create the certificate authority, the server's certificate and the registry. Existing ones are kept."""
    now = _now()
    done = provisioning.provision(
        home, name=name, address=address, listen=listen, superlink_port=superlink_port, now=now
    )
    validity = provisioning.validity(home, now=now)
    if as_json:
        content = {
            "home": str(home),
            "name": done.federation.name,
            "address": done.federation.address,
            "ca_fingerprint": done.ca_fingerprint,
            "made": done.made,
            "kept": done.kept,
        }
        _print_json(content, validity)
        return
    lines = [f"{done.federation.name}: hospitals connect to {done.federation.address}"]
    lines += [f"Made {', '.join(done.made)} in {home}"] if done.made else []
    lines += [f"Kept {', '.join(done.kept)} in {home}, as they were"] if done.kept else []
    lines += [f"Fingerprint of the authority: {spoken(done.ca_fingerprint)}"]
    if done.made:
        lines += [
            f"Keep a copy of {home / 'ca'} offline: whoever has ca.key can pass for the centre, and without it "
            f"no certificate can be renewed.",
            f"Next: synofed federation invite SITE{_home_argument(home)}",
        ]
    _print(lines, validity)


def invite(
    site: Annotated[str, typer.Argument(metavar="SITE", help="The site's name in the federation.")],
    out: Annotated[
        Path | None, typer.Option(help="Invitation file to write; default: SITE.invitation.json.")
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Write the one file that a site needs to join. Inviting a site again invalidates its previous invitation."""
    now = _now()
    path = out or Path(f"{site}.invitation.json")
    _check_replaceable(path)
    invitation = enrolment.invite(home, site, now=now)
    try:
        atomic.write(path, invitation.dump().encode(), mode=0o600)
    except OSError as error:
        raise DataError(
            f"Expected to write the invitation to {path}: {error.strerror}. Invite again"
        ) from None
    validity = provisioning.validity(home, now=now)
    fingerprint = certificate_fingerprint(invitation.ca_certificate)
    if as_json:
        content = {"site": site, "file": str(path), "expires": invitation.expires.isoformat()}
        _print_json({**content, "ca_fingerprint": fingerprint}, validity)
        return
    lines = [
        f"{path} lets {site} join until {invitation.expires:%Y-%m-%d %H:%M} UTC. It holds a one-time code: send it "
        f"over a channel that you both trust.",
        f"The site runs: synofed site start {path.name}",
        f"Have the site compare this fingerprint by telephone: {spoken(fingerprint)}",
        f"When its request.json is here: synofed federation accept request.json{_home_argument(home)}",
    ]
    _print(lines, validity)


def accept(
    request: Annotated[Path, typer.Argument(metavar="REQUEST", help="The site's request.json.")],
    fingerprint: Annotated[
        str, typer.Option(help="Fingerprint of the site's keys, as the site read it out; refuse any other.")
    ] = "",
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Register a site with the keys in its request. Accepting the same request again changes nothing."""
    now = _now()
    site = enrolment.accept(home, _read(request), fingerprint=fingerprint, now=now)
    validity = provisioning.validity(home, now=now)
    if as_json:
        _print_json(_described(site), validity)
        return
    lines = [f"{site.name} is registered since {site.registered_at}."]
    if not fingerprint:
        lines.append(
            f"Compare by telephone the fingerprint of its keys: {spoken(_fingerprint(site))}. If the site has "
            f"another, run synofed federation revoke {site.name}{_home_argument(home)}"
        )
    _print(lines, validity)


def revoke(
    site: Annotated[str, typer.Argument(metavar="SITE", help="The site's name.")],
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Shut a site out and bar its keys for good. Other sites are not affected."""
    now = _now()
    revoked = enrolment.revoke(home, site, now=now)
    validity = provisioning.validity(home, now=now)
    if as_json:
        _print_json(_described(revoked), validity)
        return
    lines = [
        f"{site} is revoked since {revoked.revoked_at}. To let it in again: synofed federation invite {site}"
    ]
    _print(lines, validity)


def sites(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """List the sites, and how long the certificates remain valid."""
    validity = provisioning.validity(home, now=_now())
    known = Registry.open(home).sites()
    if as_json:
        _print_json({"sites": [_described(site) for site in known]}, validity)
        return
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("site", "status", "invited", "registered", "revoked", "keys"):
        table.add_column(column)
    for site in known:
        dates = (when[:10] for when in (site.invited_at, site.registered_at, site.revoked_at))
        table.add_row(site.name, site.status, *dates, spoken(_fingerprint(site)[:16]))
    if known:
        Console().print(table)
    _print([] if known else ["No sites yet: synofed federation invite SITE"], validity)


def renew(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Renew the server's certificate. Sites need do nothing; a running service picks it up."""
    validity = provisioning.renew(home, now=_now())
    if as_json:
        _print_json({"home": str(home)}, validity)
        return
    _print([f"The server's certificate in {home} is renewed."], validity)


def _print(lines: list[str], validity: Validity) -> None:
    days = f"Days left: server's certificate {validity.server_days}, authority {validity.authority_days}"
    warnings = [f"Warning: {warning}" for warning in validity.warnings]
    typer.echo("\n".join([*lines, days, *warnings]))


def _print_json(content: Mapping[str, object], validity: Validity) -> None:
    typer.echo(json.dumps({**content, **asdict(validity), "warnings": validity.warnings}))


def _described(site: RegisteredSite) -> dict[str, object]:
    return {**asdict(site), "fingerprint": _fingerprint(site)}


def _fingerprint(site: RegisteredSite) -> str:
    """Of a site's keys; empty while it has none."""
    return keys_fingerprint(site.node_key, site.receipt_key) if site.node_key else ""


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(LIMIT_BYTES + 1).decode()
    except OSError as error:
        raise DataError(f"Expected a site's request at {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"Expected a site's request.json in {path}, got a file that is not text") from None


def _check_replaceable(path: Path) -> None:
    """Whether a file may become an invitation: it is absent, or a former one."""
    try:
        if path.exists():
            Invitation.parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ConfigurationError):
        raise ConfigurationError(f"Expected no other file at {path}: name another with --out") from None


def _home_argument(home: Path) -> str:
    return "" if home == DEFAULT_HOME else f" --home {home}"


def _now() -> datetime:
    return datetime.now(UTC)
