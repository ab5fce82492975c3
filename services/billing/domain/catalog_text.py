"""A catalog as it is written: prices are still text, nothing is checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from services.billing.domain.catalog import Interval, LimitKind


@dataclass(frozen=True, slots=True)
class FlatFeeText:
    """So much a month."""

    amount: str


@dataclass(frozen=True, slots=True)
class PerUnitText:
    """Every unit at one price."""

    unit_price: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TierText:
    """A stretch of quantities."""

    up_to: int | None
    unit_price: str
    flat_price: str = ""


@dataclass(frozen=True, slots=True)
class GraduatedText:
    """Each unit at the price of its tier."""

    tiers: tuple[TierText, ...]


@dataclass(frozen=True, slots=True)
class VolumeText:
    """All units at the price of the last one's tier."""

    tiers: tuple[TierText, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageText:
    """So much for every package that is begun."""

    size: int
    price: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PercentageText:
    """A share of a meter that counts money."""

    percent: str
    exchange_rate: str = ""


PriceText = FlatFeeText | PerUnitText | GraduatedText | VolumeText | PackageText | PercentageText


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargeText:
    """Something that is charged."""

    charge_id: str
    display_name: str = ""
    meter: str = ""
    included_quantity: int = 0
    price: PriceText | None
    """None: it was left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceBookText:
    """What a plan charges in one currency."""

    currency_code: str
    base_price: str
    charges: tuple[ChargeText, ...] = ()
    minimum: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanMeterText:
    """How a plan treats one meter."""

    meter: str
    limit_kind: LimitKind | None
    limit_quantity: int | None
    grace_percent: int
    included_quantity: int = 0
    overage_unit_price: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanText:
    """A plan, in the short spelling or, with price_books, in the long one."""

    plan_id: str
    display_name: str
    monthly_price: str = ""
    currency_code: str = ""
    interval: Interval | None = Interval.MONTH
    """None: one that is not known."""
    trial_days: int = 0
    meters: tuple[PlanMeterText, ...]
    price_books: tuple[PriceBookText, ...] = ()
    features: Mapping[str, bool]
