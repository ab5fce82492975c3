"""New ids, which sort by the time they were made (UUIDv7, RFC 9562) and say what they name; and the ids of tenants."""

from __future__ import annotations

import re
import secrets
import time
from uuid import UUID

ORGANIZATION_ID_RULE = "1 to 64 lower-case letters, digits, `_` or `-`"
_ORGANIZATION_ID = re.compile(r"[a-z0-9_-]{1,64}")


def is_organization_id(text: str) -> bool:
    """Whether the text has the shape of an organization's id: ORGANIZATION_ID_RULE."""
    return _ORGANIZATION_ID.fullmatch(text) is not None


def new_uuid() -> UUID:
    """A new UUIDv7: 48 bits of Unix milliseconds, then 74 random bits."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds & (2**48 - 1)) << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return UUID(int=value)


def new_id(prefix: str) -> str:
    """A new id such as `inv_0192f0c1…`: the prefix names the kind of thing."""
    return f"{prefix}_{new_uuid().hex}"
