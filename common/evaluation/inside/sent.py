"""What a site sends as canonical JSON, read at the centre."""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError

from common import signed_json
from common.errors import UpdateError
from common.sections.section import Section

Sent = TypeVar("Sent", bound=Section)


def parse(kind: type[Sent], text: str, *, longest: int, what: str) -> Sent:
    """Read what a site sent.

    Args:
        kind: of section.
        text: as it came.
        longest: letters that it may have.
        what: it is, in the error message.

    Raises:
        UpdateError: if it cannot be what a site of this version sends.
    """
    try:
        if len(text) > longest:
            raise ValueError("too long")
        return kind.model_validate(signed_json.parse(text))
    except (ValidationError, ValueError, TypeError, RecursionError):
        raise UpdateError(f"Expected {what}, got something else") from None
