"""What a catalog changes, in words, for whoever is about to apply it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from fractions import Fraction

from kit.money import Money, format_decimal
from services.billing.domain.catalog import CatalogChange, CatalogPlan, Interval, Plan, PlanMeter, PriceBook
from services.billing.domain.meters import Meter
from services.billing.domain.prices import (
    Charge,
    FlatFee,
    Graduated,
    Package,
    Percentage,
    PerUnit,
    Tier,
    Volume,
)

_DECIMALS_MAX = 12


class PlanDiffKind(Enum):
    """What happens to a plan."""

    ADDED = "ADDED"
    CHANGED = "CHANGED"
    WITHDRAWN = "WITHDRAWN"
    SOLD_AGAIN = "SOLD_AGAIN"
    """At the version that it had."""


@dataclass(frozen=True, slots=True)
class FieldDiff:
    """One field before and after; empty where it is not there."""

    field: str
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanDiff:
    """What changes of one plan."""

    plan_id: str
    kind: PlanDiffKind
    version_before: int
    """0 for a new plan."""
    version_after: int
    fields: tuple[FieldDiff, ...]
    """Of a new plan everything; nothing where the version stays."""


def diff_catalog(
    change: CatalogChange, known: Mapping[str, CatalogPlan], meters: Mapping[str, Meter]
) -> tuple[PlanDiff, ...]:
    """By plan id; nothing for a plan that stays as it is. known: every plan's newest version before the change."""
    changed = {plan.plan_id for plan in change.changed}
    diffs: list[PlanDiff] = []
    for plan in change.sold:
        before = known.get(plan.plan_id)
        if before is None:
            diffs.append(_diff(PlanDiffKind.ADDED, None, plan, meters))
        elif plan.plan_id in changed:
            diffs.append(_diff(PlanDiffKind.CHANGED, before.plan, plan, meters))
        elif not before.is_sold:
            diffs.append(_diff(PlanDiffKind.SOLD_AGAIN, before.plan, plan, meters))
    for plan_id in change.withdrawn:
        newest = known[plan_id].plan
        diffs.append(_diff(PlanDiffKind.WITHDRAWN, newest, newest, meters))
    return tuple(sorted(diffs, key=lambda diff: diff.plan_id))


def _diff(kind: PlanDiffKind, before: Plan | None, after: Plan, meters: Mapping[str, Meter]) -> PlanDiff:
    old = dict(_described(before, meters)) if before else {}
    new = dict(_described(after, meters))
    names = [*old, *(name for name in new if name not in old)]
    return PlanDiff(
        plan_id=after.plan_id,
        kind=kind,
        version_before=before.version if before else 0,
        version_after=after.version,
        fields=tuple(
            FieldDiff(name, old.get(name, ""), new.get(name, ""))
            for name in names
            if old.get(name, "") != new.get(name, "")
        ),
    )


def _described(plan: Plan, meters: Mapping[str, Meter]) -> Iterator[tuple[str, str]]:
    # Everything that a version holds: a field that was left out here would change without being shown.
    yield "name", plan.display_name
    yield "interval", plan.interval.value.lower()
    yield "trial_days", str(plan.trial_days)
    for each in plan.meters:
        yield from _meter(f"meters.{each.meter}", each, meters)
    yield "currencies", ", ".join(book.currency_code for book in plan.price_books)
    for book in plan.price_books:
        yield from _book(f"prices.{book.currency_code}", book, plan.interval, meters)
    for feature, is_on in plan.features.items():
        yield f"features.{feature}", "on" if is_on else "off"


def _meter(at: str, each: PlanMeter, meters: Mapping[str, Meter]) -> Iterator[tuple[str, str]]:
    unlimited = each.limit_quantity is None
    yield f"{at}.counts", each.limit_kind.value.lower()
    yield f"{at}.limit", "unlimited" if unlimited else _quantity(each.limit_quantity or 0, each.meter, meters)
    yield f"{at}.grace_percent", str(each.grace_percent)
    if each.included_quantity:
        yield f"{at}.included", _quantity(each.included_quantity, each.meter, meters)


def _book(at: str, book: PriceBook, interval: Interval, meters: Mapping[str, Meter]) -> Iterator[tuple[str, str]]:
    yield f"{at}.base", f"{_amount(book.base_price)} a {interval.value.lower()}"
    if book.minimum is not None:
        yield f"{at}.minimum", f"{_amount(book.minimum)} a month"
    if book.charges:
        yield f"{at}.charges", ", ".join(charge.charge_id for charge in book.charges)
    for charge in book.charges:
        name = f"{at}.charges.{charge.charge_id}"
        yield f"{name}.name", charge.display_name
        if charge.meter:
            yield f"{name}.meter", charge.meter
            yield f"{name}.included", _quantity(charge.included_quantity, charge.meter, meters)
        yield f"{name}.price", _price(charge, book.currency_code, meters)


def _price(charge: Charge, currency_code: str, meters: Mapping[str, Meter]) -> str:
    match charge.price:
        case FlatFee(amount):
            return f"{_rate(amount, currency_code)} a month"
        case PerUnit(unit_price):
            return f"{_rate(unit_price, currency_code)} per {_unit(charge.meter, meters)}"
        case Graduated(tiers) | Volume(tiers):
            kind = "graduated" if isinstance(charge.price, Graduated) else "volume"
            return f"{kind}: {_tiers(tiers, charge.meter, currency_code, meters)}"
        case Package(size=size, price=price):
            return f"{_rate(price, currency_code)} per {_quantity(size, charge.meter, meters)} begun"
        case Percentage(percent=percent, exchange_rate=exchange_rate):
            share = f"{format_decimal(percent)} % of {charge.meter}"
            if exchange_rate is None:
                return share
            return f"{share}, 1 {_unit(charge.meter, meters)} = {_rate(exchange_rate, currency_code)}"


def _tiers(tiers: tuple[Tier, ...], meter: str, currency_code: str, meters: Mapping[str, Meter]) -> str:
    return "; ".join(
        ("above" if tier.up_to is None else f"up to {_quantity(tier.up_to, meter, meters)}")
        + f" {_rate(tier.unit_price, currency_code)} per {_unit(meter, meters)}"
        + (f" and {_rate(tier.flat_price, currency_code)} once" if tier.flat_price else "")
        for tier in tiers
    )


def _amount(money: Money) -> str:
    return f"{money} {money.currency_code}"


def _rate(rate: Decimal, currency_code: str) -> str:
    return f"{format_decimal(rate)} {currency_code}"


def _unit(meter: str, meters: Mapping[str, Meter]) -> str:
    return meters[meter].display_unit if meter in meters else "base unit"


def _quantity(quantity: int, meter: str, meters: Mapping[str, Meter]) -> str:
    ratio = meters[meter].base_units_per_display_unit if meter in meters else 1
    if quantity * 10**_DECIMALS_MAX % ratio:
        # Exact or not at all: two quantities that look the same would hide a change.
        return f"{quantity}/{ratio} {_unit(meter, meters)}"
    scaled = Fraction(quantity, ratio) * 10**_DECIMALS_MAX
    whole, point, decimals = format_decimal(Decimal(scaled.numerator).scaleb(-_DECIMALS_MAX)).partition(".")
    return f"{int(whole):,}".replace(",", " ") + f"{point}{decimals} {_unit(meter, meters)}"
