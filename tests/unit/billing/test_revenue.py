"""Revenue, from what the lists say."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from kit.errors import InvalidField
from kit.money import Money
from kit.testing.clock import FakeClock
from services.billing.adapters.memory.revenue import MemoryRevenueLists
from services.billing.application.report_revenue import ReportRevenue
from services.billing.domain.catalog import Interval, Plan, PriceBook
from services.billing.domain.prices import Charge, FlatFee
from services.billing.domain.revenue import InvoicedOverage, MeteredCustomers, Standings, annual_amount
from services.billing.domain.subscriptions import SubscriptionStatus

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def standings(
    plan_id: str, count: int, annual: str, *, status: SubscriptionStatus = SubscriptionStatus.ACTIVE, code: str = "USD"
) -> Standings:
    return Standings(plan_id=plan_id, status=status, currency_code=code, count=count, annual_amount=Decimal(annual))


def support(amount: str) -> Charge:
    return Charge(
        charge_id="support", display_name="Support", meter="", included_quantity=0, price=FlatFee(Decimal(amount))
    )


def plan(interval: Interval, base: Money, *fees: Charge) -> Plan:
    book = PriceBook(currency_code=base.currency_code, base_price=base, charges=fees)
    return Plan(
        plan_id="p", version=1, display_name="P", interval=interval, meters=(), price_books=(book,), features={}
    )


@pytest.mark.parametrize(
    ("sold", "annual"),
    [
        (plan(Interval.MONTH, Money(4_900, "USD")), "588.00"),
        (plan(Interval.YEAR, Money(10_000, "USD")), "100.00"),
        (plan(Interval.YEAR, Money(10_000, "JPY"), support("500.5")), "16006.0"),
        (plan(Interval.MONTH, Money(1_234, "KWD"), support("0.001"), support("0.002")), "14.844"),
    ],
)
def test_a_year_of_a_plan_is_its_price_and_its_fees(sold: Plan, annual: str) -> None:
    assert annual_amount(sold, sold.default_book.currency_code) == Decimal(annual)


async def test_a_report_compares_with_a_week_ago_and_adds_up_to_the_unit() -> None:
    week_ago = [standings("starter", 1, "588")]
    # Thirds of a cent: a total that was rounded by itself would not be the sum of its tiers.
    today = [standings("starter", 2, "1176.04"), standings("pro", 1, "1788.04"), standings("year", 1, "100")]
    lists = MemoryRevenueLists(standing=[(NOW - timedelta(days=9), week_ago), (NOW - timedelta(days=6), today)])
    [usd] = (await ReportRevenue(lists, FakeClock(NOW))(None)).currencies
    assert (usd.monthly_before, usd.monthly) == (Money(4_900, "USD"), Money(9_800 + 14_900 + 833, "USD"))
    assert sum((tier.monthly.minor for tier in usd.tiers), 0) == usd.monthly.minor


async def test_only_what_is_paid_for_counts_and_everybody_is_counted() -> None:
    status = SubscriptionStatus
    annual = {each: str(12 * 10**place) for place, each in enumerate(status)}
    today = [standings("pro", 1, annual[each], status=each) for each in status if each is not status.CANCELED]
    lists = MemoryRevenueLists(standing=[(NOW - timedelta(days=1), today)])
    report = await ReportRevenue(lists, FakeClock(NOW))(None)
    earning = [status.ACTIVE, status.PAST_DUE]
    expected = sum(100 * int(annual[each]) // 12 for each in earning)
    assert report.currencies[0].monthly == Money(expected, "USD")
    assert report.currencies[0].monthly_before == Money(0, "USD")
    assert report.tiers[0].counts == {each: 1 for each in status if each is not status.CANCELED}


@pytest.mark.parametrize("moment", [datetime(1, 1, 1, tzinfo=UTC), NOW + timedelta(microseconds=1)])
async def test_a_report_of_before_anything_was_sold_or_of_what_lies_ahead_is_refused(moment: datetime) -> None:
    with pytest.raises(InvalidField, match="as_of_time"):
        await ReportRevenue(MemoryRevenueLists(), FakeClock(NOW))(moment)


async def test_currencies_are_never_added_up() -> None:
    today = [standings("pro", 1, "12"), standings("pro", 1, "12000", code="JPY")]
    overage = InvoicedOverage(plan_id="pro", amount=Money(7, "KWD"))
    lists = MemoryRevenueLists(standing=[(NOW, today)], charged=[(NOW, overage)])
    report = await ReportRevenue(lists, FakeClock(NOW))(None)
    assert [(each.monthly, each.overage) for each in report.currencies] == [
        (Money(1_000, "JPY"), Money(0, "JPY")),
        (Money(0, "KWD"), Money(7, "KWD")),
        (Money(100, "USD"), Money(0, "USD")),
    ]
    assert report.tiers[0].counts == {SubscriptionStatus.ACTIVE: 2}


async def test_overage_is_that_of_thirty_days_by_tier() -> None:
    one = InvoicedOverage(plan_id="pro", amount=Money(500, "USD"))
    charged = [
        (NOW - timedelta(days=30), one),
        (NOW - timedelta(days=30) + timedelta(microseconds=1), replace(one, amount=Money(-20, "USD"))),
        (NOW, replace(one, plan_id="starter")),
        (NOW + timedelta(microseconds=1), one),
    ]
    [usd] = (await ReportRevenue(MemoryRevenueLists(charged=charged), FakeClock(NOW))(None)).currencies
    assert [(tier.plan_id, tier.overage.minor) for tier in usd.tiers] == [("pro", -20), ("starter", 500)]
    assert usd.overage == Money(480, "USD")


async def test_what_customers_used_is_told_by_tier() -> None:
    used = [
        MeteredCustomers(plan_id="pro", meter=meter, customer_count=3, quantity=100)
        for meter in ("tokens", "agent_minutes")
    ]
    report = await ReportRevenue(MemoryRevenueLists(used=used), FakeClock(NOW))(None)
    assert [each.meter for each in report.tiers[0].metered] == ["agent_minutes", "tokens"]


async def test_nothing_is_reported_of_the_future() -> None:
    with pytest.raises(InvalidField, match="lies ahead"):
        await ReportRevenue(MemoryRevenueLists(), FakeClock(NOW))(NOW + timedelta(microseconds=1))
