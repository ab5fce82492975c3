"""What usage costs: charges and their prices, in exact fractions of the currency's major unit.

Nothing is rounded here. Whoever makes an invoice line of a difference of two of these rounds it, once.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from services.billing.domain.meters import Meter

_NOTHING = Fraction(0)


@dataclass(frozen=True, slots=True)
class FlatFee:
    """A fee for every monthly period, whatever is used in it."""

    amount: Decimal


@dataclass(frozen=True, slots=True)
class PerUnit:
    """Every unit at one price."""

    unit_price: Decimal
    """Of one display unit of the meter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """A stretch of quantities with prices of its own."""

    up_to: int | None
    """The last base unit that belongs to it, counted beyond the allowance; None: all that follow."""
    unit_price: Decimal
    """Of one display unit of the meter."""
    flat_price: Decimal = Decimal(0)
    """Once, as soon as anything falls into the tier."""


@dataclass(frozen=True, slots=True)
class Graduated:
    """Each unit at the price of the tier that it falls into."""

    tiers: tuple[Tier, ...]


@dataclass(frozen=True, slots=True)
class Volume:
    """All units at the price of the tier that the last of them falls into. So one more unit can make all of it cheaper:
    what a tier begins with may cost less than what the one before ends with.
    """

    tiers: tuple[Tier, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """So much for every package that is begun."""

    size: int
    """In base units."""
    price: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentage:
    """A share of a meter that counts money, such as `provider_cost`."""

    percent: Decimal
    exchange_rate: Decimal | None = None
    """What one display unit of the meter is in the book's currency, agreed with the plan: no rate of the day. None: the
    meter counts that currency.
    """


UsagePrice = PerUnit | Graduated | Volume | Package | Percentage
Price = FlatFee | UsagePrice


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """Something that a plan charges beside its base price."""

    charge_id: str
    """Unique within its price book; what invoices know it by, through all versions of a plan."""
    display_name: str
    meter: str
    """What is counted; empty for a flat fee, and only then."""
    included_quantity: int
    """The allowance in base units: the first of every period, free of this charge. 0 for a flat fee."""
    price: Price


def price_of(charge: Charge, meter: Meter, quantity: int) -> Fraction:
    """What `quantity` base units cost when they are counted from the start of the period, the allowance first: in major
    units, exactly. What lies between two counts costs the difference of the two, so the parts of a period sum to the
    whole however it is parted. A flat fee costs nothing by quantity.
    """
    charged = charged_quantity(charge, quantity)
    ratio = meter.base_units_per_display_unit
    match charge.price:
        case FlatFee():
            return _NOTHING
        case PerUnit(unit_price):
            return _units_at(charged, unit_price, ratio)
        case Graduated(tiers):
            return _graduated(tiers, charged, ratio)
        case Volume(tiers):
            return _volume(tiers, charged, ratio)
        case Package(size=size, price=price):
            return -(-charged // size) * Fraction(price)
        case Percentage(percent=percent, exchange_rate=exchange_rate):
            share = _units_at(charged, percent, ratio) / 100
            return share if exchange_rate is None else share * Fraction(exchange_rate)


def charged_quantity(charge: Charge, quantity: int) -> int:
    """How many of `quantity` base units lie beyond the allowance."""
    return max(0, quantity - charge.included_quantity)


def _units_at(base_units: int, unit_price: Decimal, ratio: int) -> Fraction:
    return Fraction(base_units, ratio) * Fraction(unit_price)


def _graduated(tiers: tuple[Tier, ...], charged: int, ratio: int) -> Fraction:
    price, begin = _NOTHING, 0
    for tier in tiers:
        if charged <= begin:
            break
        end = charged if tier.up_to is None else min(charged, tier.up_to)
        price += Fraction(tier.flat_price) + _units_at(end - begin, tier.unit_price, ratio)
        begin = end
    return price


def _volume(tiers: tuple[Tier, ...], charged: int, ratio: int) -> Fraction:
    if not charged:
        return _NOTHING
    tier = next(tier for tier in tiers if tier.up_to is None or charged <= tier.up_to)
    return Fraction(tier.flat_price) + _units_at(charged, tier.unit_price, ratio)
