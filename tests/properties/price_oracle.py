"""What usage costs, written a second time: from what the contract says of prices and not from billing's code.

Prices are plain tuples, sums are telescoped, and nothing of services/ or kit/ is imported.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from fractions import Fraction

# (up_to or None, unit price, flat price), prices as decimal strings.
TierTuple = tuple[int | None, str, str]


def owed_by_unit(unit_price: str, charged: int, ratio: int) -> Fraction:
    """Every unit at one price."""
    return Fraction(unit_price) * charged / ratio


def owed_graduated(tiers: Sequence[TierTuple], charged: int, ratio: int) -> Fraction:
    """Each tier as a change of the price before it, for all units beyond where it begins."""
    total, price_before, begin = Fraction(0), Fraction(0), 0
    for up_to, unit_price, flat_price in tiers:
        beyond = charged - begin
        if beyond > 0:
            total += Fraction(flat_price) + (Fraction(unit_price) - price_before) * beyond / ratio
        price_before, begin = Fraction(unit_price), begin if up_to is None else up_to
    return total


def owed_one_by_one(tiers: Sequence[TierTuple], charged: int, ratio: int) -> Fraction:
    """As owed_graduated, counted out unit by unit: slow, and too simple to be wrong."""
    total, entered = Fraction(0), set()
    for unit in range(1, charged + 1):
        number = next(n for n, (up_to, _, _) in enumerate(tiers) if up_to is None or unit <= up_to)
        if number not in entered:
            entered.add(number)
            total += Fraction(tiers[number][2])
        total += Fraction(tiers[number][1]) / ratio
    return total


def owed_by_volume(tiers: Sequence[TierTuple], charged: int, ratio: int) -> Fraction:
    """All units at the price of the last one's tier."""
    if charged == 0:
        return Fraction(0)
    ends = [up_to for up_to, _, _ in tiers if up_to is not None]
    _, unit_price, flat_price = tiers[bisect_left(ends, charged)]
    return Fraction(flat_price) + Fraction(unit_price) * charged / ratio


def owed_by_package(size: int, price: str, charged: int) -> Fraction:
    """So much for every package that is begun."""
    whole, rest = divmod(charged, size)
    return Fraction(price) * (whole + bool(rest))


def owed_by_percentage(percent: str, exchange_rate: str | None, charged: int, ratio: int) -> Fraction:
    """A share of money that was counted."""
    return Fraction(percent) * Fraction(exchange_rate or "1") * charged / (100 * ratio)


def minor_units(major: Fraction, decimals: int) -> int:
    """The nearest minor unit, a half away from zero."""
    scaled = major * 10**decimals
    whole, rest = divmod(abs(scaled.numerator), scaled.denominator)
    nearest: int = whole + (2 * rest >= scaled.denominator)
    return nearest if scaled >= 0 else -nearest
