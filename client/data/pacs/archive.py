"""Where a hospital's archive is, whom it trusts, and how one logs in."""

from __future__ import annotations

import base64
import ipaddress
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

from common.errors import ConfigurationError

LOGIN_VARIABLE = "SYNOFED_DICOMWEB_LOGIN"
BEARER = "bearer "


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """A DICOMweb service.

    Attributes:
        url: of the service, without a slash at the end.
        authorization: value of that header; empty: none is sent.
        ca: authorities to trust in place of the public ones.
    """

    url: str
    authorization: SecretStr
    ca: Path | None


def archive(
    url: str, *, login: Path | None, ca: Path | None, plain_http: bool, environment: Mapping[str, str]
) -> Archive:
    """Check what was said of an archive.

    Args:
        url: of its DICOMweb service.
        login: file of its owner alone that holds ``USER:PASSWORD`` or ``Bearer TOKEN``; without it the variable.
        ca: file of certificates.
        plain_http: whether ``http://`` may lead to another machine.
        environment: in which ``SYNOFED_DICOMWEB_LOGIN`` may stand.

    Raises:
        ConfigurationError: if one of them cannot be used; no login is in the message.
    """
    _check_address(url, plain_http=plain_http)
    if ca is not None:
        try:
            ssl.create_default_context(cafile=ca)
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"Expected certificates in PEM at --ca {ca} ({error})") from None
    said = _owners_line(login) if login is not None else environment.get(LOGIN_VARIABLE, "").strip()
    return Archive(url=url.rstrip("/"), authorization=SecretStr(_authorization(said)), ca=ca)


def _check_address(url: str, *, plain_http: bool) -> None:
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fits = False
    if not fits or parts.query or parts.fragment or "@" in url or not url.isascii() or not url.isprintable():
        raise ConfigurationError(
            f"Expected --dicomweb https://HOST[:PORT]/PATH without a login, for example https://pacs/dicom-web: that "
            f"belongs into --login FILE or {LOGIN_VARIABLE}"
        )
    if parts.scheme == "http" and not plain_http and not _is_this_machine(parts.hostname or ""):
        raise ConfigurationError(
            "Expected https:// in --dicomweb: over http:// the hospital's whole network can read pictures and login; "
            "--plain-http permits it all the same"
        )


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _owners_line(path: Path) -> str:
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigurationError(f"Expected {path} to be readable by its owner only: chmod 600 {path}")
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is no text"
        raise ConfigurationError(f"Expected USER:PASSWORD or Bearer TOKEN in {path} ({reason})") from None


def _authorization(said: str) -> str:
    if not said:
        return ""
    bearer = said[: len(BEARER)].casefold() == BEARER
    if not said.isprintable() or (not said.isascii() if bearer else ":" not in said):
        raise ConfigurationError("Expected a login as USER:PASSWORD or Bearer TOKEN, on one line")
    if bearer:
        return f"Bearer {said[len(BEARER) :].strip()}"
    return f"Basic {base64.b64encode(said.encode()).decode('ascii')}"
