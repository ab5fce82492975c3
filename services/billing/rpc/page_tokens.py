"""Pages: how large, and the tokens that name the next one, opaque to callers."""

from __future__ import annotations

import base64
import binascii

from kit.errors import InvalidField, LimitExceeded

_SEPARATOR = "\n"


def page_size_of(page_size: int, *, default: int, maximum: int) -> int:
    """How many a page may have; 0 means the default. Raises LimitExceeded and InvalidField."""
    if page_size < 0:
        raise InvalidField(field="page_size", problem="negative")
    if page_size > maximum:
        raise LimitExceeded(what="page_size", actual=page_size, maximum=maximum)
    return page_size or default


def token_of(*parts: str) -> str:
    """The token of the page after the place that the parts name."""
    return base64.urlsafe_b64encode(_SEPARATOR.join(parts).encode()).decode()


def parts_of(token: str, count: int) -> tuple[str, ...] | None:
    """The parts of a token, printable; None for the first page. Raises InvalidField."""
    if not token:
        return None
    try:
        parts = base64.b64decode(token, altchars=b"-_", validate=True).decode().split(_SEPARATOR)
    except (binascii.Error, ValueError):
        parts = []
    if len(parts) != count or not all(part.isprintable() for part in parts):
        raise invalid_token()
    return tuple(parts)


def invalid_token() -> InvalidField:
    """The refusal of a token that is none of ours."""
    return InvalidField(field="page_token", problem="not one that this method gave")
