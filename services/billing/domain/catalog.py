"""Plans: what is sold, and what a newer catalog changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import Enum
from fractions import Fraction

from kit.money import Money, currency_exponent
from services.billing.domain.errors import CurrencyNotOffered
from services.billing.domain.prices import Charge, PerUnit

FREE_PLAN = "free"
"""The plan of every organization that has no other."""


class LimitKind(Enum):
    """How a plan's limit counts."""

    PERIOD = "PERIOD"
    CONCURRENCY = "CONCURRENCY"


class Interval(Enum):
    """How often the base price is due. Usage, limits and flat fees go by the month, whatever the interval."""

    MONTH = "MONTH"
    YEAR = "YEAR"

    @property
    def months(self) -> int:
        """How many monthly periods it covers."""
        return 12 if self is Interval.YEAR else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanMeter:
    """What a plan allows of one meter. Quantities are in the meter's base unit."""

    meter: str
    limit_kind: LimitKind
    limit_quantity: int | None
    """None: unlimited, still counted."""
    grace_percent: int
    included_quantity: int = 0
    """What a plan says it includes of a meter that it charges nothing for; a charge has an allowance of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceBook:
    """Everything that a plan charges, in one currency."""

    currency_code: str
    base_price: Money
    """Of one interval of the plan."""
    charges: tuple[Charge, ...] = ()
    """In the order of the lines of an invoice."""
    minimum: Money | None = None
    """What a month's usage comes to at least; None: to what it is."""

    @property
    def usage_charges(self) -> tuple[Charge, ...]:
        """The charges for what is used."""
        return tuple(charge for charge in self.charges if charge.meter)

    @property
    def flat_fees(self) -> tuple[Charge, ...]:
        """The charges that do not depend on usage."""
        return tuple(charge for charge in self.charges if not charge.meter)

    def per_unit_charge_of(self, meter: str) -> Charge | None:
        """What is charged for the meter, where that is one charge by the unit: what the short spelling can say."""
        match [charge for charge in self.usage_charges if charge.meter == meter]:
            case [Charge(price=PerUnit()) as charge]:
                return charge
        return None

    @property
    def is_free_of_charge(self) -> bool:
        """Whether nothing can ever be due by it."""
        return not (self.base_price.minor or self.charges) and self.minimum is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One version of what is sold."""

    plan_id: str
    version: int
    """From 1; 0 before the plan is applied."""
    display_name: str
    interval: Interval = Interval.MONTH
    trial_days: int = 0
    meters: tuple[PlanMeter, ...]
    """By meter name."""
    price_books: tuple[PriceBook, ...]
    """One for each currency that it is sold in. The first is for whoever names no currency."""
    features: Mapping[str, bool]

    def with_version(self, version: int) -> Plan:
        """The same content as another version."""
        return replace(self, version=version)

    @property
    def default_book(self) -> PriceBook:
        """The prices for whoever names no currency."""
        return self.price_books[0]

    @property
    def is_free_of_charge(self) -> bool:
        """Whether nothing can ever be due for it, in any currency."""
        return all(book.is_free_of_charge for book in self.price_books)

    def book(self, currency_code: str) -> PriceBook:
        """The prices in a currency; nothing costs nothing in every currency. Raises CurrencyNotOffered."""
        for book in self.price_books:
            if book.currency_code == currency_code:
                return book
        if self.is_free_of_charge:
            return PriceBook(currency_code=currency_code, base_price=Money(0, currency_code))
        offered = ", ".join(book.currency_code for book in self.price_books)
        raise CurrencyNotOffered(plan_id=self.plan_id, currency_code=currency_code, offered=offered)


def can_bill_usage(plan: Plan) -> bool:
    """Whether usage can ever cost anything on this plan."""
    return any(book.usage_charges for book in plan.price_books)


def per_unit_charge(meter: str, *, included_quantity: int, unit_price: Decimal) -> Charge:
    """The charge that a plan's short spelling stands for: the meter's own name and every unit at one price."""
    return Charge(
        charge_id=meter,
        display_name=display_name_of(meter),
        meter=meter,
        included_quantity=included_quantity,
        price=PerUnit(unit_price),
    )


def display_name_of(name: str) -> str:
    """`Agent minutes` for `agent_minutes`."""
    return name.replace("_", " ").capitalize()


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
    """By the default price of a month, whatever the currency; plans of one price by id."""
    return tuple(sorted(plans, key=lambda plan: (_monthly_major(plan), plan.plan_id)))


def _monthly_major(plan: Plan) -> Fraction:
    price = plan.default_book.base_price
    return Fraction(price.minor, 10 ** currency_exponent(price.currency_code) * plan.interval.months)
