"""Ids that sort by the time they were made (UUID version 7, RFC 9562) and say what they name."""

from __future__ import annotations

import secrets
import time
from uuid import UUID


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
