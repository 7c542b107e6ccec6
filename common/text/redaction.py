"""Secrets taken out of a text before it is printed or logged, whoever wrote the text.

The second line of defence: secrets are :class:`pydantic.SecretStr`, and do not get into messages in the first place.
What other libraries raise may repeat a URL with its login, or a key's lines.
"""

from __future__ import annotations

import re

HIDDEN = "***"

_LOGIN = re.compile(r"(?<=://)\S*(?=@)")
"""Up to the last ``@``: passwords that hold one, or a slash, are not cut in half."""
_KEY = re.compile(
    r"(-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----).*?(-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.DOTALL
)
_HEADER = re.compile(r"(?i)\b((?:proxy-)?authorization\W{1,5}(?:basic|bearer)\s+)[\w.~+/=-]+")
_NAMED = re.compile(
    r"(?i)(['\"]?\b(?:code|pass(?:word|phrase)|secret|token)['\"]?\s*[:=]\s*['\"]?)[^\s'\",}<>]{8,}"
)
"""``"code": "..."`` of an invitation, ``token=...`` of a process."""


def redacted(text: str) -> str:
    """A text without logins in URLs, private keys, and values that are called codes, passwords or tokens."""
    text = _KEY.sub(rf"\1{HIDDEN}\2", text)
    text = _LOGIN.sub(HIDDEN, text)
    text = _HEADER.sub(rf"\1{HIDDEN}", text)
    return _NAMED.sub(rf"\1{HIDDEN}", text)
