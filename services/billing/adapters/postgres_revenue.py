"""The fleet's lists of revenue in Postgres, as the fleet role."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import text

from kit.money import Money
from kit.postgres.database import Database
from services.billing.domain.revenue import InvoicedOverage, MeteredCustomers, Standings
from services.billing.domain.subscriptions import SubscriptionStatus


class PostgresRevenueLists:
    """RevenueLists over the fleet role."""

    def __init__(self, fleet: Database) -> None:
        self._fleet = fleet

    async def standings(self, at: datetime) -> Sequence[Standings]:
        """As RevenueLists."""
        async with self._fleet.transaction() as connection:
            rows = await connection.execute(_STANDINGS, {"at": at})
            return [
                Standings(
                    plan_id=row.plan_id,
                    status=SubscriptionStatus(row.status),
                    currency_code=row.currency_code,
                    count=row.subscription_count,
                    annual_amount=row.annual_amount,
                )
                for row in rows
            ]

    async def overage(self, *, after: datetime, until: datetime) -> Sequence[InvoicedOverage]:
        """As RevenueLists."""
        async with self._fleet.transaction() as connection:
            rows = await connection.execute(_OVERAGE, {"after": after, "until": until})
            return [
                InvoicedOverage(plan_id=row.plan_id, amount=Money(int(row.amount_minor), row.currency_code))
                for row in rows
            ]

    async def metered(self, *, until: datetime) -> Sequence[MeteredCustomers]:
        """As RevenueLists."""
        async with self._fleet.transaction() as connection:
            rows = await connection.execute(_METERED, {"until": until})
            return [
                MeteredCustomers(
                    plan_id=row.plan_id,
                    meter=row.meter,
                    customer_count=row.customer_count,
                    quantity=int(row.quantity),
                )
                for row in rows
            ]


_STANDINGS = text("""
    WITH latest AS (
        SELECT DISTINCT ON (organization_id) organization_id, plan_id, status, currency_code, annual_amount
        FROM billing.revenue_standings WHERE since <= :at ORDER BY organization_id, sequence DESC)
    SELECT plan_id, status, currency_code, count(*) AS subscription_count, sum(annual_amount) AS annual_amount
    FROM latest GROUP BY plan_id, status, currency_code ORDER BY plan_id, status, currency_code
""")
_OVERAGE = text("""
    SELECT plan_id, currency_code, sum(amount_minor) AS amount_minor FROM billing.revenue_usage
    WHERE finalize_time > :after AND finalize_time <= :until
    GROUP BY plan_id, currency_code ORDER BY plan_id, currency_code
""")
# Corrections of a period count with it; the plan is that of the last invoice about it.
_METERED = text("""
    WITH known AS (
        SELECT organization_id, meter, period_start, finalize_time, plan_id, quantity,
            max(period_start) OVER (PARTITION BY organization_id, meter) AS last_start
        FROM billing.revenue_usage WHERE finalize_time <= :until),
    customers AS (
        SELECT organization_id, meter, sum(quantity) AS quantity,
            (array_agg(plan_id ORDER BY finalize_time DESC))[1] AS plan_id
        FROM known WHERE period_start = last_start GROUP BY organization_id, meter)
    SELECT plan_id, meter, count(*) AS customer_count, sum(quantity) AS quantity
    FROM customers GROUP BY plan_id, meter ORDER BY plan_id, meter
""")
