"""One look at the centre: whether it is reached, who certified it, and what its clock says.

Nothing but ``GET /health`` is sent. Where the certificate is not trusted, a second look asks only who issued it, so
that a proxy of the hospital that replaces certificates can be named.
"""

from __future__ import annotations

import json
import math
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
from cryptography import x509

from client.connection.tls import explain_tls, failure, tls_context
from common.errors import ConnectionLostError

WAIT_S = 10.0
DATE_RESOLUTION = timedelta(seconds=1)
"""Of the ``Date`` header."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What answered.

    Attributes:
        certificate: that it showed.
        ahead_s: how far this machine's clock is ahead of its own, at least and to a second; ``None``: it told none.
        status: HTTP status of its answer.
        proxy: whether it is synofed's proxy.
        superlink: whether the SuperLink behind it is up.
        seconds: until the answer was there.
    """

    certificate: x509.Certificate
    ahead_s: float | None
    status: int
    proxy: bool
    superlink: bool
    seconds: float


def look(address: str, ca_certificate: Path, *, forward_proxy: str = "", wait_s: float = WAIT_S) -> Seen:
    """Ask the centre for its health.

    Args:
        address: of the centre, ``HOST:PORT``.
        ca_certificate: the only authority that is trusted, PEM.
        forward_proxy: of the hospital, a URL; empty: as the environment says.
        wait_s: how long each step may take.

    Raises:
        ConnectionLostError: saying what keeps the site from the centre, and who can mend it.
    """
    try:
        return _ask(address, tls_context(ca_certificate), forward_proxy, wait_s)
    except (httpx.HTTPError, OSError) as error:
        explained = explain_tls(error, address=address)
        more = _who_is_there(error, address, forward_proxy, wait_s)
        raise ConnectionLostError(f"{explained}{more}") from error
    except (httpx.InvalidURL, ValueError):  # its text repeats a part of the URL
        raise ConnectionLostError(
            f"Expected a forward proxy as http://[USER:PASSWORD@]HOST:PORT in network.proxy of site.toml or in "
            f"HTTPS_PROXY, got something else: {address} was not asked"
        ) from None


def issuer(certificate: x509.Certificate) -> str:
    """Who issued a certificate, in letters that can be printed."""
    return certificate.issuer.rfc4514_string().encode("ascii", "backslashreplace").decode()[:200]


def _ask(address: str, context: ssl.SSLContext, forward_proxy: str, wait_s: float) -> Seen:
    with httpx.Client(
        verify=context, proxy=forward_proxy or None, trust_env=not forward_proxy, timeout=wait_s
    ) as client:
        began = datetime.now(UTC)
        with client.stream("GET", f"https://{address}/health") as response:
            came = datetime.now(UTC)
            tls = response.extensions["network_stream"].get_extra_info("ssl_object")
            certificate = x509.load_der_x509_certificate(tls.getpeercert(True))
            body = next(response.iter_bytes(4096), b"")
    health = _health(body)
    return Seen(
        certificate=certificate,
        ahead_s=_ahead_s(response.headers.get("date"), began, came),
        status=response.status_code,
        proxy="proxy" in health,
        superlink=health.get("superlink") == "up",
        seconds=(came - began).total_seconds(),
    )


def _health(body: bytes) -> dict[str, object]:
    try:
        content = json.loads(body)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _ahead_s(date: str | None, began: datetime, came: datetime) -> float | None:
    """How far this clock is at least off from a ``Date`` header, which is cut to whole seconds.

    The header was written at some time between question and answer: a slow answer is no clock that is off.
    """
    try:
        said = parsedate_to_datetime(date or "")
    except ValueError:
        return None
    if said.tzinfo is None:
        return None
    between = (began + (came - began) / 2 - said - DATE_RESOLUTION / 2).total_seconds()
    unknown = (came - began).total_seconds() / 2
    return math.copysign(max(0.0, abs(between) - unknown), between)


def _who_is_there(error: Exception, address: str, forward_proxy: str, wait_s: float) -> str:
    """What a certificate that is not trusted says of itself, and the clock of who showed it."""
    kind = failure(error)
    if kind not in ("wrong_authority", "other_host", "expired", "not_yet_valid"):
        return ""
    untrusting = ssl.create_default_context()
    untrusting.check_hostname = False
    untrusting.verify_mode = ssl.CERT_NONE
    try:
        seen = _ask(address, untrusting, forward_proxy, wait_s)
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError):
        return ""
    if kind in ("wrong_authority", "other_host"):
        return f". The certificate that was seen is of {_subject(seen)}, issued by {issuer(seen.certificate)}"
    if seen.ahead_s is None:
        return ""
    side = "ahead of" if seen.ahead_s > 0 else "behind"
    return f". This clock is {abs(seen.ahead_s):.0f} s {side} that of who answered"


def _subject(seen: Seen) -> str:
    try:
        names = seen.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return seen.certificate.subject.rfc4514_string().encode("ascii", "backslashreplace").decode()[:200]
    found = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    return ", ".join(found).encode("ascii", "backslashreplace").decode()[:200]
