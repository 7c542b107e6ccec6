"""The connection to the centre: whom it trusts, and what it means when it fails."""

from __future__ import annotations

import re
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from common.errors import ConnectionLostError
from common.text.redaction import redacted

Failure = Literal[
    "proxy_login",
    "proxy_refused",
    "expired",
    "not_yet_valid",
    "other_host",
    "wrong_authority",
    "no_tls",
    "cut",
    "unknown_host",
    "refused",
    "timeout",
    "unreachable",
    "unknown",
]

# What Python, OpenSSL and httpx say, as messages or as names of exceptions; the first that is found counts.
_SIGNS: tuple[tuple[Failure, str], ...] = (
    ("proxy_login", r"407 |Proxy Authentication Required"),
    ("expired", r"certificate has expired"),
    ("not_yet_valid", r"certificate is not yet valid"),
    ("other_host", r"Hostname mismatch|IP address mismatch|certificate is not valid for"),
    ("wrong_authority", r"CERTIFICATE_VERIFY_FAILED|certificate verify failed|SSLCertVerificationError"),
    ("no_tls", r"WRONG_VERSION_NUMBER|wrong version number|record layer failure|HTTP_REQUEST|NOT_SSL"),
    ("cut", r"SSLEOFError|UNEXPECTED_EOF|EOF occurred|reset by peer|ConnectionReset|disconnected without"),
    ("proxy_refused", r"ProxyError|(?m:^[45][0-9]{2} [A-Z][A-Za-z ]+$)"),  # a line that says nothing else
    ("unknown_host", r"gaierror|Name or service not known|name resolution|nodename nor servname"),
    ("refused", r"ConnectionRefusedError|Connection refused"),
    ("timeout", r"Timeout|timed out"),
    ("unreachable", r"Network is unreachable|No route to host|Host is unreachable"),
)

_MEANINGS: dict[Failure, str] = {
    "proxy_login": (
        "The hospital's forward proxy wants a login to let us through to {address}: write it into "
        "network.proxy in site.toml, as http://USER:PASSWORD@HOST:PORT"
    ),
    "proxy_refused": (
        "The hospital's forward proxy does not let us through to {address}: ask its administrators to permit "
        "CONNECT to that address, and check network.proxy in site.toml"
    ),
    "expired": (
        "The certificate of {address} has expired by this machine's clock, which says {clock}. If the clock is "
        "right, the centre has to run synofed federation renew; if not, set the clock"
    ),
    "not_yet_valid": (
        "The certificate of {address} is not valid yet by this machine's clock, which says {clock}: set the "
        "clock, best by a time server (NTP)"
    ),
    "other_host": (
        "The certificate that {address} shows is for another host: compare the address in federation.json with "
        "the centre. If it is right there, the centre has to write it into federation.toml and run synofed "
        "federation renew"
    ),
    "wrong_authority": (
        "The certificate that {address} shows is not of this federation's authority. Either a proxy or firewall "
        "here replaces certificates: ask its administrators to except {address}; or another server answers; or "
        "the centre was set up anew: ask it for a new invitation. Never trust it by hand"
    ),
    "no_tls": (
        "What answers at {address} does not speak TLS: compare the address in federation.json with the centre, "
        "which must not run with --insecure"
    ),
    "cut": (
        "The connection to {address} was cut while it began: the centre restarts, or a firewall here cuts TLS "
        "that it cannot inspect. Try again; if it stays so, ask for {address} to be permitted"
    ),
    "unknown_host": (
        "The name in {address} is not known here: check it in federation.json, and this machine's DNS. Where "
        "only a forward proxy knows names, set network.proxy in site.toml"
    ),
    "refused": (
        "Nothing listens at {address}, or a firewall refuses: ask the centre whether it runs (synofed "
        "federation up), and the hospital's administrators whether outbound connections there are permitted"
    ),
    "timeout": (
        "{address} does not answer: most often a firewall that drops outbound connections. Ask for {address} to "
        "be permitted, or set network.proxy in site.toml"
    ),
    "unreachable": "There is no route from this machine to {address}: check its network, then try again",
    "unknown": "The connection to {address} failed: {text}",
}


def tls_context(ca_certificate: Path) -> ssl.SSLContext:
    """TLS 1.2 or later that trusts one authority and nothing that the machine trusts otherwise.

    Args:
        ca_certificate: the authority's certificate, PEM.

    Raises:
        ConnectionLostError: if there is none.
    """
    try:
        return ssl.create_default_context(cafile=str(ca_certificate))
    except (OSError, ssl.SSLError):
        raise ConnectionLostError(
            f"Expected the authority's certificate at {ca_certificate}: run synofed site init again"
        ) from None


def failure(error: BaseException | str) -> Failure:
    """What kept a connection from being made.

    Args:
        error: of :mod:`ssl`, :mod:`socket` or httpx, or the text that another process printed of one.
    """
    text = error if isinstance(error, str) else _chain(error)
    return next((kind for kind, signs in _SIGNS if re.search(signs, text)), "unknown")


def explain_tls(error: BaseException | str, *, address: str = "the centre") -> ConnectionLostError:
    """The same as an error that says what to do, for those at the site.

    Args:
        error: as for :func:`failure`.
        address: ``HOST:PORT`` of the centre.
    """
    clock = datetime.now(UTC).isoformat(sep=" ", timespec="minutes")
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    meaning = _MEANINGS[failure(error)]
    return ConnectionLostError(meaning.format(address=address, clock=clock, text=redacted(text)))


def _chain(error: BaseException) -> str:
    """Names and messages of an exception and of those that led to it."""
    parts: list[str] = []
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        parts.append(f"{type(one).__name__}: {one}")
        one = one.__cause__ or one.__context__
    return "\n".join(parts)
