"""Revenue on the wire and in the domain."""

from __future__ import annotations

from fractions import Fraction

from kit.grpc.convert import moment_to_pb
from kit.money import Money, round_half_away
from services.billing.domain.revenue import (
    COMPARED_WITH,
    CurrencyRevenue,
    MeteredCustomers,
    RevenueReport,
    Tier,
    TierRevenue,
)
from services.billing.domain.subscriptions import SubscriptionStatus
from tollbook.billing.v1 import revenue_pb2


def revenue_report_to_pb(report: RevenueReport) -> revenue_pb2.RevenueReport:
    """The report."""
    return revenue_pb2.RevenueReport(
        as_of_time=moment_to_pb(report.as_of),
        compared_time=moment_to_pb(report.as_of - COMPARED_WITH),
        currencies=[_currency_to_pb(each) for each in report.currencies],
        tiers=[_tier_to_pb(each) for each in report.tiers],
    )


def _currency_to_pb(revenue: CurrencyRevenue) -> revenue_pb2.CurrencyRevenue:
    code = revenue.monthly.currency_code
    change = Money(revenue.monthly.minor - revenue.monthly_before.minor, code)
    return revenue_pb2.CurrencyRevenue(
        currency_code=code,
        monthly_recurring_revenue=str(revenue.monthly),
        monthly_recurring_revenue_before=str(revenue.monthly_before),
        monthly_recurring_revenue_change=str(change),
        overage_revenue=str(revenue.overage),
        tiers=[_tier_revenue_to_pb(each) for each in revenue.tiers],
    )


def _tier_revenue_to_pb(revenue: TierRevenue) -> revenue_pb2.TierRevenue:
    return revenue_pb2.TierRevenue(
        plan_id=revenue.plan_id,
        monthly_recurring_revenue=str(revenue.monthly),
        overage_revenue=str(revenue.overage),
    )


def _tier_to_pb(tier: Tier) -> revenue_pb2.Tier:
    def count(status: SubscriptionStatus) -> int:
        return tier.counts.get(status, 0)

    return revenue_pb2.Tier(
        plan_id=tier.plan_id,
        active_count=count(SubscriptionStatus.ACTIVE),
        trialing_count=count(SubscriptionStatus.TRIALING),
        past_due_count=count(SubscriptionStatus.PAST_DUE),
        suspended_count=count(SubscriptionStatus.SUSPENDED),
        paused_count=count(SubscriptionStatus.PAUSED),
        average_usage=[_average_to_pb(each) for each in tier.metered],
    )


def _average_to_pb(metered: MeteredCustomers) -> revenue_pb2.AverageUsage:
    return revenue_pb2.AverageUsage(
        meter=metered.meter,
        customer_count=metered.customer_count,
        quantity=round_half_away(Fraction(metered.quantity, metered.customer_count)),
    )
