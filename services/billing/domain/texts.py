"""What people write, before it is kept and printed."""

from __future__ import annotations

import re

from kit.errors import InvalidField

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def require_name(field: str, name: str) -> None:
    """Raises InvalidField unless it is 1 to 64 letters, digits, `_` or `-`: what may be typed, and stand in a URL."""
    if not _NAME.fullmatch(name):
        raise InvalidField(field=field, problem="1 to 64 letters, digits, `_` or `-`")


def require_text(field: str, text: str, bytes_max: int, *, is_required: bool = True) -> None:
    """Raises InvalidField unless the text is printable, on one line, without blanks around it, and at most that long;
    empty only where it is not required.
    """
    if is_required and not text:
        raise InvalidField(field=field, problem="required")
    if len(text.encode(errors="replace")) > bytes_max:
        raise InvalidField(field=field, problem=f"longer than {bytes_max} bytes")
    if not text.isprintable() or text != text.strip():
        raise InvalidField(field=field, problem="not one line of printable text without blanks around it")
