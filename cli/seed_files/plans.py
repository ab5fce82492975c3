"""The plan catalog as people write it: quantities in the meter's display unit, prices as decimals."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from pathlib import Path

from cli.seed_files.amounts import (
    CatalogError,
    Quantity,
    read_amount,
    read_display_name,
    read_quantity,
    read_rate,
    read_whole_number,
    require_currency,
    require_name,
)
from cli.seed_files.price_books import PriceBook, read_price_books
from cli.seed_files.strict_yaml import Entry, FileRefused, read_yaml
from kit.money import Money

__all__ = ["Catalog", "CatalogError", "Counting", "Interval", "Plan", "PlanMeter", "Quantity", "read_catalog"]

_GRACE_PERCENT_MAX = 100
_TRIAL_DAYS_MAX = 365
_UNLIMITED = "unlimited"
# Where every organization begins.
_FIRST_PLAN = "free"


class Counting(Enum):
    """How a plan's limit counts; the values are the words of the file."""

    PERIOD = "period"
    CONCURRENCY = "concurrency"


class Interval(Enum):
    """How often a plan's base price is due; the values are the words of the file."""

    MONTH = "month"
    YEAR = "year"


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanMeter:
    """How a plan treats one meter."""

    meter: str
    counting: Counting
    limit: Quantity | None
    """None: unlimited, still counted."""
    grace_percent: int
    included: Quantity | None
    """None: nothing is included."""
    overage_price: Decimal | None
    """Of one display unit; None: never billed."""
    entry: Entry


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """One plan."""

    plan_id: str
    display_name: str
    interval: Interval
    trial_days: int
    monthly_price: Money | None
    """None: price_books say what it costs."""
    price_books: tuple[PriceBook, ...]
    meters: tuple[PlanMeter, ...]
    features: dict[str, bool]
    """Every feature of the catalog, and whether the plan switches it on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Catalog:
    """All plans that are sold."""

    path: Path
    plans: tuple[Plan, ...]


def read_catalog(path: Path) -> Catalog:
    """The catalog in a file. Raises CatalogError. Only a running suite knows whether its meters exist."""
    try:
        return _catalog(path, read_yaml(path))
    except FileRefused as refusal:
        raise CatalogError(str(refusal)) from None


def _catalog(path: Path, root: Entry) -> Catalog:
    fields = root.fields(required=("currency", "features", "plans"))
    currency_code = fields["currency"].text()
    require_currency(currency_code, fields["currency"])
    features = list(fields["features"].entries())
    for name, entry in fields["features"].entries().items():
        require_name(name, entry)
        # What the feature is, for the reader of the file.
        entry.text()
    plans = tuple(
        _plan(plan_id, entry.named(f"plan {plan_id}"), currency_code, features)
        for plan_id, entry in fields["plans"].entries().items()
    )
    if _FIRST_PLAN not in {plan.plan_id for plan in plans}:
        raise fields["plans"].refused(f"{_FIRST_PLAN!r} missing: every organization begins on it")
    return Catalog(path=path, plans=plans)


def _plan(plan_id: str, entry: Entry, currency_code: str, features: list[str]) -> Plan:
    require_name(plan_id, entry)
    is_short = "prices" not in entry.entries()
    price = "monthly_price" if is_short else "prices"
    fields = entry.fields(required=("name", price, "meters"), optional=("features", "trial_days", "interval"))
    interval = _interval(fields["interval"]) if "interval" in fields else Interval.MONTH
    if is_short and interval is Interval.YEAR:
        raise fields["interval"].refused("the price of a year is written under prices, by currency")
    switched_on = _features(fields["features"], features) if "features" in fields else set()
    return Plan(
        plan_id=plan_id,
        display_name=read_display_name(fields["name"]),
        interval=interval,
        trial_days=read_whole_number(fields["trial_days"], _TRIAL_DAYS_MAX) if "trial_days" in fields else 0,
        monthly_price=read_amount(fields[price], currency_code) if is_short else None,
        price_books=() if is_short else read_price_books(fields[price]),
        meters=tuple(
            _meter(name, meter.named(f"plan {plan_id}, meter {name}"), is_short=is_short)
            for name, meter in fields["meters"].entries().items()
        ),
        features={name: name in switched_on for name in features},
    )


def _interval(entry: Entry) -> Interval:
    try:
        return Interval(entry.text())
    except ValueError:
        known = ", ".join(interval.value for interval in Interval)
        raise entry.refused(f"{entry.text()!r} is none of {known}") from None


def _meter(name: str, entry: Entry, *, is_short: bool) -> PlanMeter:
    require_name(name, entry)
    # With prices in full, allowance and price are the charge's: said twice, one of them would be wrong one day.
    short = ("included", "overage_price") if is_short else ()
    known = entry.fields(required=("counts", "limit"), optional=("grace_percent", *short))
    counting = _counting(known["counts"])
    if counting is Counting.CONCURRENCY:
        entry.fields(required=("counts", "limit"))
    limit = None if known["limit"].text() == _UNLIMITED else read_quantity(known["limit"])
    return PlanMeter(
        meter=name,
        counting=counting,
        limit=limit,
        grace_percent=_grace_percent(entry, known, counting=counting, limit=limit),
        included=read_quantity(known["included"]) if "included" in known else None,
        overage_price=read_rate(known["overage_price"]) if "overage_price" in known else None,
        entry=entry,
    )


def _grace_percent(entry: Entry, known: dict[str, Entry], *, counting: Counting, limit: Quantity | None) -> int:
    has_band = counting is Counting.PERIOD and limit is not None
    written = known.get("grace_percent")
    if written is None:
        if has_band:
            raise entry.refused("grace_percent missing: say 0 for a hard stop at the limit")
        return 0
    if not has_band:
        raise written.refused("there is no grace band above an unlimited meter")
    return read_whole_number(written, _GRACE_PERCENT_MAX)


def _counting(entry: Entry) -> Counting:
    try:
        return Counting(entry.text())
    except ValueError:
        known = ", ".join(counting.value for counting in Counting)
        raise entry.refused(f"{entry.text()!r} is none of {known}") from None


def _features(entry: Entry, known: list[str]) -> set[str]:
    found: set[str] = set()
    for item in entry.items():
        name = item.text()
        if name not in known:
            raise item.refused(f"{name!r} is not described under features at the top of the file")
        if name in found:
            raise item.refused(f"{name!r} is there twice")
        found.add(name)
    return found
