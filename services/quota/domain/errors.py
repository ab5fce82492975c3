"""What quota refuses."""

from __future__ import annotations

from kit.errors import Kind, Refused


class UnknownMeter(Refused):
    """There is no meter {meter!r}; ListMeters names them."""

    reason = "UNKNOWN_METER"


class InvalidQuantity(Refused):
    """consumptions: quantity {quantity} of {meter!r} is not in 0 to 2^53 - 1."""

    reason = "INVALID_QUANTITY"


class ReservationEnded(Refused):
    """The reservation {reservation_id!r} has ended or is ending: check again under another id."""

    kind = Kind.FAILED_PRECONDITION
    reason = "INVALID_STATE"
