"""The proxy's TLS, and certificates that are renewed while it runs."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path

from common.errors import ConfigurationError

logger = logging.getLogger("synofed.proxy")


def tls(certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.2 or later with a certificate.

    Raises:
        ConfigurationError: if the files cannot be read or do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"Expected a certificate in {certificate} and its key in {key}: {error}. "
            f"move both away, and `synofed federation renew` makes new ones"
        ) from None
    return context


def upstream_tls(authority: Path) -> ssl.SSLContext:
    """What the SuperLink's certificate is checked against.

    Raises:
        ConfigurationError: if the file cannot be read.
    """
    try:
        return ssl.create_default_context(cafile=authority)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"Expected the SuperLink's authority in {authority}: {error}") from None


async def follow(context: ssl.SSLContext, certificate: Path, key: Path, *, every_s: float = 2.0) -> None:
    """Give new connections the certificate that is on disk, for ever.

    A pair that does not fit (it may be half replaced) is left alone until it does.
    """
    known = _stamp(certificate, key)
    while True:
        await asyncio.sleep(every_s)
        found = _stamp(certificate, key)
        if found is None or found == known:
            continue
        try:
            tls(certificate, key)  # a live context that took half of a pair could not go back
            context.load_cert_chain(certificate, key)
        except (ConfigurationError, OSError) as error:
            logger.warning("the new certificate is not used yet: %s", error)
        else:
            logger.info("the certificate was renewed")
        known = found


def _stamp(*paths: Path) -> tuple[tuple[int, int, int], ...] | None:
    try:
        found = [path.stat() for path in paths]
    except OSError:
        return None
    return tuple((one.st_ino, one.st_size, one.st_mtime_ns) for one in found)
