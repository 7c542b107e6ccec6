"""The way to the centre: reached or why not, its certificate's days, this machine's clock."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509

from client.check.report import Finding, ok, problem, warning
from client.connection import enrolment
from client.connection.connection import Seen, look
from client.connection.enrolment import Enrolment
from client.site.site import Site
from common.enrolment import authority
from common.errors import ConnectionLostError, SynofedError

AHEAD_S = 5.0
"""Flower refuses signatures of a site whose clock is further ahead of the centre's,"""
BEHIND_S = 305.0
"""or further behind."""
NEAR_AHEAD_S = 3.0
NEAR_BEHIND_S = 60.0
SOON_DAYS = 30


def findings(site: Site, *, now: datetime) -> Iterator[Finding]:
    """Connection, certificates and clock of an enrolled site."""
    if not (site.folder / "federation.json").exists():
        yield warning(
            "connection",
            "The site is not enrolled yet, so there is no centre to look for",
            "Run synofed site init with the centre's invitation, then this check again",
        )
        return
    try:
        enrolled = Enrolment.open(site.folder)
    except SynofedError as error:
        yield problem("connection", error)
        return
    yield ok(
        "connection",
        f"The authority's certificate has the fingerprint of the invitation, {enrolled.ca_fingerprint:.16}",
    )
    place = enrolment.ca_certificate(site.folder)
    yield _ends("authority's", _authority(place), now=now)
    try:
        seen = look(enrolled.address, place, forward_proxy=site.file.network.proxy.get_secret_value())
    except ConnectionLostError as error:
        yield problem("connection", error)
        return
    yield _reached(seen, enrolled.address)
    yield _ends("centre's", seen.certificate, now=now)
    yield clock(seen.ahead_s)


def clock(ahead_s: float | None) -> Finding:
    """What the difference between two clocks means.

    Args:
        ahead_s: how far this machine's is ahead of the centre's, in seconds, known to one second.
    """
    if ahead_s is None:
        return warning("connection", "The centre told no time: the clock could not be compared")
    side = "ahead of" if ahead_s > 0 else "behind"
    said = f"This machine's clock is {abs(ahead_s):.0f} s {side} the centre's"
    window = f"The centre refuses a clock more than {AHEAD_S:g} s ahead or {BEHIND_S:g} s behind"
    advice = "Set the clock, best by a time server (NTP)"
    if not -BEHIND_S <= ahead_s <= AHEAD_S:
        return problem(
            "connection", ConnectionLostError, f"{said}. {window}", advice, ahead_s=round(ahead_s, 1)
        )
    if not -NEAR_BEHIND_S <= ahead_s <= NEAR_AHEAD_S:
        return warning("connection", f"{said}. {window}", advice, ahead_s=round(ahead_s, 1))
    return ok("connection", "This machine's clock agrees with the centre's", ahead_s=round(ahead_s, 1))


def _reached(seen: Seen, address: str) -> Finding:
    if not seen.proxy:
        return problem(
            "connection",
            ConnectionLostError,
            f"{address} answers with the right certificate, but it is not synofed's proxy (status {seen.status})",
            "Compare the address in federation.json with the centre",
            status=seen.status,
        )
    if not seen.superlink:
        return warning(
            "connection",
            f"{address} is reached, but the SuperLink behind it is down",
            "The centre has to look at it; a site that is joined connects as soon as it is back",
            status=seen.status,
        )
    return ok("connection", f"{address} is reached and up, in {seen.seconds:.1f} s", status=seen.status)


def _ends(whose: str, certificate: x509.Certificate, *, now: datetime) -> Finding:
    days = (certificate.not_valid_after_utc - now) // timedelta(days=1)
    if days < 0:
        said = f"The {whose} certificate has ended, {-days} days ago by this machine's clock"
        return problem("connection", ConnectionLostError, said, "Ask the centre to renew it", days=days)
    said = f"The {whose} certificate is good for another {days} days"
    if days < SOON_DAYS:
        return warning("connection", said, "Ask the centre to renew it", days=days)
    return ok("connection", said, days=days)


def _authority(place: Path) -> x509.Certificate:
    return authority(place.read_text(encoding="ascii"))
