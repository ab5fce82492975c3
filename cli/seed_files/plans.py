"""The plan catalog as people write it: quantities in the meter's display unit, prices as decimals."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import Path

from cli.seed_files.strict_yaml import Entry, FileRefused, read_yaml
from kit.money import Money, UnknownCurrency, currency_exponent, parse_decimal

_QUANTITY_MAX = 2**53 - 1
_GRACE_PERCENT_MAX = 100
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_NAME_RULE = "must be lower-case letters, digits and _, beginning with a letter, at most 64 of them"
_DISPLAY_NAME_BYTES_MAX = 200
_UNLIMITED = "unlimited"
# Where every organization begins.
_FIRST_PLAN = "free"


class CatalogError(Exception):
    """The catalog cannot be applied; the message names the file and, where known, line, plan and field."""


class Counting(Enum):
    """How a plan's limit counts; the values are the words of the file."""

    PERIOD = "period"
    CONCURRENCY = "concurrency"


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantity:
    """A number of display units, and where it is written."""

    display_units: Decimal
    entry: Entry

    def in_base_units(self, base_units_per_display_unit: int) -> int:
        """Exactly so many base units. Raises CatalogError for a fraction of one, or too many."""
        # A product of decimals would be rounded to the context's digits.
        scaled = Fraction(self.display_units) * base_units_per_display_unit
        if scaled.denominator != 1:
            problem = f"{self.display_units} is not a whole number of the meter's base unit"
            raise CatalogError(str(self.entry.refused(problem)))
        if scaled > _QUANTITY_MAX:
            raise CatalogError(str(self.entry.refused(f"{self.display_units} is more than 2^53 - 1 base units")))
        return scaled.numerator


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
    monthly_price: Money
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
    currency_code = _currency(fields["currency"])
    features = list(fields["features"].entries())
    for name, entry in fields["features"].entries().items():
        _name(name, entry)
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
    _name(plan_id, entry)
    fields = entry.fields(required=("name", "monthly_price", "meters"), optional=("features",))
    switched_on = _features(fields["features"], features) if "features" in fields else set()
    display_name = fields["name"].text()
    if len(display_name.encode()) > _DISPLAY_NAME_BYTES_MAX:
        raise fields["name"].refused(f"longer than {_DISPLAY_NAME_BYTES_MAX} bytes")
    return Plan(
        plan_id=plan_id,
        display_name=display_name,
        monthly_price=_money(fields["monthly_price"], currency_code),
        meters=tuple(
            _meter(name, meter.named(f"plan {plan_id}, meter {name}"))
            for name, meter in fields["meters"].entries().items()
        ),
        features={name: name in switched_on for name in features},
    )


def _meter(name: str, entry: Entry) -> PlanMeter:
    _name(name, entry)
    known = entry.fields(required=("counts", "limit"), optional=("grace_percent", "included", "overage_price"))
    counting = _counting(known["counts"])
    if counting is Counting.CONCURRENCY:
        entry.fields(required=("counts", "limit"))
    limit = None if known["limit"].text() == _UNLIMITED else _quantity(known["limit"])
    return PlanMeter(
        meter=name,
        counting=counting,
        limit=limit,
        grace_percent=_grace_percent(entry, known, counting=counting, limit=limit),
        included=_quantity(known["included"]) if "included" in known else None,
        overage_price=_price(known["overage_price"]) if "overage_price" in known else None,
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
    text = written.text()
    if not (text.isascii() and text.isdigit() and int(text) <= _GRACE_PERCENT_MAX):
        raise written.refused(f"{text!r} is not a whole number from 0 to {_GRACE_PERCENT_MAX}")
    return int(text)


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


def _currency(entry: Entry) -> str:
    code = entry.text()
    try:
        currency_exponent(code)
    except UnknownCurrency:
        raise entry.refused(f"{code!r} is not a currency that can be billed, such as USD") from None
    return code


def _money(entry: Entry, currency_code: str) -> Money:
    try:
        amount = Money.parse(entry.text(), currency_code)
    except ValueError as error:
        raise entry.refused(str(error)) from None
    if amount.minor < 0:
        raise entry.refused(f"{entry.text()} is negative")
    return amount


def _quantity(entry: Entry) -> Quantity:
    return Quantity(display_units=_price(entry), entry=entry)


def _price(entry: Entry) -> Decimal:
    try:
        value = parse_decimal(entry.text())
    except ValueError as error:
        raise entry.refused(str(error)) from None
    if value < 0:
        raise entry.refused(f"{entry.text()} is negative")
    return value


def _name(name: str, entry: Entry) -> None:
    if not _NAME.fullmatch(name):
        raise entry.refused(f"the name {name!r} {_NAME_RULE}")
