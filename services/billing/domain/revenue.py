"""Revenue: what subscriptions bring in a month, and what usage brought in beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction

from kit.money import Money, currency_exponent
from services.billing.domain.catalog import Plan
from services.billing.domain.prices import FlatFee
from services.billing.domain.subscriptions import SubscriptionStatus

COMPARED_WITH = timedelta(days=7)
"""How long before a report the revenue is that it is compared with."""
OVERAGE_WITHIN = timedelta(days=30)
"""What was invoiced within so long before a report is its overage revenue."""
_MONTHS_A_YEAR = 12
_EARNING = frozenset({SubscriptionStatus.ACTIVE, SubscriptionStatus.PAST_DUE})
"""Whose prices count. A trial and a pause are not charged, and who is suspended does not pay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standings:
    """Subscriptions in force on one plan, in one status and currency, at one moment."""

    plan_id: str
    status: SubscriptionStatus
    currency_code: str
    count: int
    annual_amount: Decimal
    """What they come to in a year, in major units, exactly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoicedOverage:
    """What invoices of some time charged for usage, on one plan."""

    plan_id: str
    amount: Money


@dataclass(frozen=True, slots=True, kw_only=True)
class MeteredCustomers:
    """What the customers on one plan used of a meter in the last period that was closed for each of them."""

    plan_id: str
    meter: str
    customer_count: int
    quantity: int
    """Of all of them together, in base units."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TierRevenue:
    """What one plan brings in, in one currency."""

    plan_id: str
    monthly: Money
    overage: Money


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrencyRevenue:
    """What everything brings in, in one currency. Each sum is that of its tiers, to the unit."""

    monthly: Money
    monthly_before: Money
    overage: Money
    tiers: tuple[TierRevenue, ...]
    """By plan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """Who is on one plan."""

    plan_id: str
    counts: Mapping[SubscriptionStatus, int]
    metered: tuple[MeteredCustomers, ...]
    """By meter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RevenueReport:
    """How the business stands."""

    as_of: datetime
    currencies: tuple[CurrencyRevenue, ...]
    """By currency code."""
    tiers: tuple[Tier, ...]
    """By plan."""


def annual_amount(plan: Plan, currency_code: str) -> Decimal:
    """What a plan comes to in a year by its base price and flat fees, before discounts, taxes and usage, in major
    units. Of a year and not of a month, because a twelfth of a yearly price is no decimal.
    """
    book = plan.book(currency_code)
    base = Decimal(book.base_price.minor).scaleb(-currency_exponent(currency_code))
    fees = sum((charge.price.amount for charge in book.flat_fees if isinstance(charge.price, FlatFee)), Decimal(0))
    return base * (_MONTHS_A_YEAR // plan.interval.months) + fees * _MONTHS_A_YEAR


def report_revenue(
    *,
    as_of: datetime,
    now: Sequence[Standings],
    before: Sequence[Standings],
    overage: Sequence[InvoicedOverage],
    metered: Sequence[MeteredCustomers],
) -> RevenueReport:
    """now, before: who was subscribed at `as_of` and COMPARED_WITH before it; overage: of OVERAGE_WITHIN before it."""
    monthly, monthly_before = _monthly(now), _monthly(before)
    charged = _sums((each.plan_id, each.amount) for each in overage)
    codes = sorted({code for _, code in [*monthly, *monthly_before, *charged]})
    plan_ids = {each.plan_id for each in now} | {each.plan_id for each in metered}
    return RevenueReport(
        as_of=as_of,
        currencies=tuple(_of_currency(code, monthly, monthly_before, charged) for code in codes),
        tiers=tuple(_tier(plan_id, now, metered) for plan_id in sorted(plan_ids)),
    )


_Amounts = Mapping[tuple[str, str], Money]
"""By plan and currency."""


def _monthly(standings: Sequence[Standings]) -> _Amounts:
    annual: dict[tuple[str, str], Fraction] = {}
    for each in standings:
        if each.status in _EARNING:
            key = (each.plan_id, each.currency_code)
            annual[key] = annual.get(key, Fraction(0)) + Fraction(each.annual_amount)
    # Rounded once for a tier; sums are of what the tiers show, so that a list always adds up.
    return {key: Money.rounded(amount / _MONTHS_A_YEAR, key[1]) for key, amount in annual.items()}


def _sums(amounts: Iterable[tuple[str, Money]]) -> _Amounts:
    sums: dict[tuple[str, str], Money] = {}
    for plan_id, amount in amounts:
        key = (plan_id, amount.currency_code)
        sums[key] = sums.get(key, Money(0, amount.currency_code)) + amount
    return sums


def _of_currency(code: str, monthly: _Amounts, monthly_before: _Amounts, overage: _Amounts) -> CurrencyRevenue:
    nothing = Money(0, code)
    plan_ids = sorted({plan_id for plan_id, currency in [*monthly, *overage] if currency == code})
    return CurrencyRevenue(
        monthly=_total(monthly, code),
        monthly_before=_total(monthly_before, code),
        overage=_total(overage, code),
        tiers=tuple(
            TierRevenue(
                plan_id=plan_id,
                monthly=monthly.get((plan_id, code), nothing),
                overage=overage.get((plan_id, code), nothing),
            )
            for plan_id in plan_ids
        ),
    )


def _total(amounts: _Amounts, code: str) -> Money:
    return sum((amount for (_, currency), amount in amounts.items() if currency == code), Money(0, code))


def _tier(plan_id: str, now: Sequence[Standings], metered: Sequence[MeteredCustomers]) -> Tier:
    counts: dict[SubscriptionStatus, int] = {}
    for each in now:
        if each.plan_id == plan_id:
            counts[each.status] = counts.get(each.status, 0) + each.count
    of_plan = sorted((each for each in metered if each.plan_id == plan_id), key=lambda each: each.meter)
    return Tier(plan_id=plan_id, counts=counts, metered=tuple(of_plan))
