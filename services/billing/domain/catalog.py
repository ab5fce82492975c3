"""Plans: what is sold, and what a newer catalog changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import Enum

from kit.money import Money, currency_exponent

FREE_PLAN = "free"
"""The plan of every organization that has no other."""


class LimitKind(Enum):
    """How a plan's limit counts."""

    PERIOD = "PERIOD"
    CONCURRENCY = "CONCURRENCY"


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """A kind of usage, as metering knows it."""

    name: str
    display_unit: str
    base_units_per_display_unit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanMeter:
    """How a plan treats one meter. Quantities are in the meter's base unit."""

    meter: str
    limit_kind: LimitKind
    limit_quantity: int | None
    """None: unlimited, still counted."""
    grace_percent: int
    included_quantity: int
    overage_unit_price: Decimal | None
    """The price of one display unit beyond what is included; None: never billed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One version of what is sold."""

    plan_id: str
    version: int
    """From 1; 0 before the plan is applied."""
    display_name: str
    monthly_price: Money
    meters: tuple[PlanMeter, ...]
    """By meter name."""
    features: Mapping[str, bool]

    def with_version(self, version: int) -> Plan:
        """The same content as another version."""
        return replace(self, version=version)


def can_bill_usage(plan: Plan) -> bool:
    """Whether usage can ever cost anything on this plan."""
    return any(meter.overage_unit_price is not None for meter in plan.meters)


@dataclass(frozen=True, slots=True)
class CatalogPlan:
    """The newest version of a plan, and whether it can be bought."""

    plan: Plan
    is_sold: bool


@dataclass(frozen=True, slots=True)
class CatalogChange:
    """What applying a catalog does."""

    sold: tuple[Plan, ...]
    """Every plan with its version from now on, cheapest first."""
    changed: tuple[Plan, ...]
    """Those of them that are new versions."""
    withdrawn: tuple[str, ...]
    """The ids of plans that are no longer sold."""


def change_catalog(plans: Sequence[Plan], known: Mapping[str, CatalogPlan]) -> CatalogChange:
    """Decides what a sound catalog changes. A plan whose content differs from its newest version gets the next one;
    selling a plan again whose content is the same changes no version.
    """
    sold: list[Plan] = []
    changed: list[Plan] = []
    for plan in plans:
        before = known.get(plan.plan_id)
        newest = before.plan.version if before else 0
        if before and plan.with_version(newest) == before.plan:
            sold.append(before.plan)
        else:
            sold.append(plan.with_version(newest + 1))
            changed.append(sold[-1])
    given = {plan.plan_id for plan in plans}
    withdrawn = tuple(sorted(name for name, entry in known.items() if entry.is_sold and name not in given))
    return CatalogChange(cheapest_first(sold), tuple(changed), withdrawn)


def cheapest_first(plans: Sequence[Plan]) -> tuple[Plan, ...]:
    """By monthly price, whatever the currency; plans of one price by id."""
    return tuple(sorted(plans, key=lambda plan: (_major(plan.monthly_price), plan.plan_id)))


def _major(price: Money) -> Decimal:
    return Decimal(price.minor).scaleb(-currency_exponent(price.currency_code))
