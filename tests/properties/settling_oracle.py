"""What an invoice comes to after its lines: taxes, prepaid credits, rounding. Written a second time, with nothing of
services/ or kit/: purses are emptied one by one, taxes and rounding are whole numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

INCREMENTS = {"USD": 1, "JPY": 1, "KWD": 10}


@dataclass
class Purse:
    """Prepaid credits, in minor units."""

    name: str
    left: int
    priority: int
    made: datetime
    expires: datetime | None


@dataclass(frozen=True)
class Outcome:
    """In minor units; what is paid by credits and what is put to them are both above zero."""

    taxes: tuple[int, ...]
    paid: int
    rounding: int
    to_credit: int
    charged: int


def settle(net: int, hundredths: Sequence[int], purses: list[Purse], now: datetime, *, increment: int) -> Outcome:
    """hundredths: of a percent, of each tax. The purses that pay are emptied."""
    taxes = tuple(_nearest_multiple(net * each, 10_000) // 10_000 for each in hundredths)
    rest = net + sum(taxes)
    if rest < 0:
        return Outcome(taxes, 0, 0, -rest, 0)
    paid = 0
    usable = [purse for purse in purses if purse.left and (purse.expires is None or now < purse.expires)]
    while usable and paid < rest:
        purse = usable.pop(_first(usable))
        taken = min(rest - paid, purse.left)
        purse.left -= taken
        paid += taken
    charged = _nearest_multiple(rest - paid, increment)
    return Outcome(taxes, paid, charged - (rest - paid), 0, charged)


def _first(purses: Sequence[Purse]) -> int:
    """The one of the lowest priority; of those the first to expire, then the oldest, then by name."""
    best = 0
    for place, purse in enumerate(purses):
        if _goes_before(purse, purses[best]):
            best = place
    return best


def _goes_before(one: Purse, other: Purse) -> bool:
    if one.priority != other.priority:
        return one.priority < other.priority
    if one.expires != other.expires:
        return other.expires is None or (one.expires is not None and one.expires < other.expires)
    return (one.made, one.name) < (other.made, other.name)


def _nearest_multiple(value: int, step: int) -> int:
    """A half goes away from zero."""
    below = abs(value) // step * step
    nearest = below + step if (abs(value) - below) * 2 >= step else below
    return nearest if value >= 0 else -nearest
