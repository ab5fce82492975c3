"""The caller's ids of requests: the same id with the same content is answered as the first time."""

from __future__ import annotations

import hashlib
import json

from kit.errors import InvalidField
from services.billing.domain import limits


def require_request_id(request_id: str) -> None:
    """Raises InvalidField unless it is 1 to 128 bytes of printable text."""
    size = len(request_id.encode())
    if not 1 <= size <= limits.REQUEST_ID_BYTES_MAX or not request_id.isprintable():
        raise InvalidField(field="request_id", problem=f"1 to {limits.REQUEST_ID_BYTES_MAX} bytes of printable text")


def request_digest(method: str, *content: object) -> bytes:
    """What a request asks for, as sent: never what the server fills in, which a retry would fill in differently.
    The content is text, integers, booleans, None and lists of them.
    """
    return hashlib.sha256(json.dumps([method, *content], ensure_ascii=True).encode()).digest()
