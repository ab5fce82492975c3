"""What is asked of a reservation once it was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from kit.errors import InvalidField, LimitExceeded
from services.quota.domain.checks import (
    Check,
    Consumption,
    is_request_id,
    validate_consumptions,
    validate_reserve,
    validate_subject,
)
from services.quota.domain.errors import InvalidQuantity
from services.quota.domain.maxima import CONSUMPTIONS_MAX, QUANTITY_MAX


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a committed reservation came to, by meter; what is 0 is left out."""

    held: Mapping[str, int]
    """What no usage event has drawn yet, and stays held until one does."""
    overrun: Mapping[str, int]
    """What was used beyond all that was ever reserved."""
    expire_us: int | None
    """When what is still held is freed; None: nothing is."""


def validate_extension(target: Check) -> None:
    """Raises InvalidField, LimitExceeded or InvalidQuantity unless the target is sound. It may name no consumptions."""
    require_reservation_id(target.request_id)
    validate_reserve(target.reserve_us)
    validate_subject(target.subject)
    if target.consumptions:
        validate_consumptions(target.consumptions)


def validate_actuals(actuals: Mapping[str, int]) -> None:
    """Raises LimitExceeded or InvalidQuantity unless they could have been reserved."""
    if len(actuals) > CONSUMPTIONS_MAX:
        raise LimitExceeded(what="actuals", actual=len(actuals), maximum=CONSUMPTIONS_MAX)
    for meter, quantity in actuals.items():
        if not 0 <= quantity <= QUANTITY_MAX:
            raise InvalidQuantity(quantity=quantity, meter=meter[:128])


def require_reservation_id(reservation_id: str) -> None:
    """Raises InvalidField unless a reservation can have the id."""
    if not is_request_id(reservation_id):
        raise InvalidField(field="reservation_id", problem="1 to 128 letters, digits or `_ - . :`")


def growth(target: Check, held: Mapping[str, int]) -> Check:
    """What a reservation that holds so much needs more, to hold at least the target. A gate stays one."""
    consumptions = tuple(
        Consumption(each.meter, None if each.quantity is None else max(0, each.quantity - held.get(each.meter, 0)))
        for each in target.consumptions
    )
    return replace(target, consumptions=consumptions)


def settle(actuals: Mapping[str, int], *, held: Mapping[str, int], drawn: Mapping[str, int]) -> dict[str, int]:
    """What stays held of a reservation that came to the actuals: what of them the ledger has not drawn yet, and no more
    than was held. A meter that is not named was not used.
    """
    return {meter: min(kept, max(0, actuals.get(meter, 0) - drawn.get(meter, 0))) for meter, kept in held.items()}


def overrun(actuals: Mapping[str, int], *, granted: Mapping[str, int]) -> dict[str, int]:
    """What the actuals are beyond what was granted, where they are."""
    beyond = {meter: actual - granted.get(meter, 0) for meter, actual in sorted(actuals.items())}
    return {meter: quantity for meter, quantity in beyond.items() if quantity > 0}
