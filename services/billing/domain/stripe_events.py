"""What Stripe tells us, as far as we act on it."""

from __future__ import annotations

import json
from dataclasses import dataclass

from kit.errors import InvalidField, LimitExceeded
from services.billing.domain import limits

_THIN = "v2.core.event"
"""What Stripe's events of the second kind call themselves: they name an object of another API, which is not here."""
_TEXT_MAX = 255
"""Longer than any id or type at Stripe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeEvent:
    """An event as it arrived."""

    event_id: str
    type: str
    object_id: str
    """The object that it is about; empty when it names none."""
    lane: str
    """Events of one lane are handled one after the other: the customer's id; where it names none, the object's; where
    it names none either, the event's own.
    """
    payload: bytes = b""


def read_event(payload: bytes) -> StripeEvent:
    """The event in a body whose signature is good. Raises InvalidField when it is no event, LimitExceeded when it is
    too large.
    """
    if len(payload) > limits.WEBHOOK_PAYLOAD_BYTES_MAX:
        raise LimitExceeded(what="payload bytes", actual=len(payload), maximum=limits.WEBHOOK_PAYLOAD_BYTES_MAX)
    try:
        body = json.loads(payload)
    except (ValueError, RecursionError):
        raise InvalidField(field="payload", problem="not JSON") from None
    event_id, event_type = _text(body, "id"), _text(body, "type")
    if not event_id or not event_type:
        raise InvalidField(field="payload", problem="not a Stripe event")
    if _text(body, "object") == _THIN:
        raise InvalidField(field="payload", problem="a thin event (v2); this endpoint takes snapshot events (v1)")
    data = body.get("data")
    about = data.get("object") if isinstance(data, dict) else None
    customer = _text(about, "id") if _text(about, "object") == "customer" else _text(about, "customer")
    return StripeEvent(
        event_id=event_id,
        type=event_type,
        object_id=_text(about, "id"),
        lane=customer or _text(about, "id") or event_id,
        payload=payload,
    )


def _text(holder: object, name: str) -> str:
    value = holder.get(name) if isinstance(holder, dict) else None
    usable = isinstance(value, str) and len(value) <= _TEXT_MAX and value.isascii() and value.isprintable()
    return value if usable and isinstance(value, str) else ""
