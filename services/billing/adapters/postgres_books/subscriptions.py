"""Subscriptions in Postgres."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy import Row, text

from kit.clock import unix_microseconds
from kit.errors import NotFound
from services.billing.adapters.postgres_books.customers import PostgresCustomer
from services.billing.adapters.postgres_books.entitlements import KIND
from services.billing.adapters.postgres_books.page import Page
from services.billing.domain.subscriptions import Subscription, SubscriptionStatus


class PostgresSubscriptions:
    """SubscriptionBook over one transaction."""

    def __init__(self, page: Page) -> None:
        self._page = page

    async def in_force(self) -> Subscription | None:
        """As SubscriptionBook."""
        row = (await self._page.execute(_IN_FORCE, self._page.names())).one_or_none()
        return None if row is None else _subscription_from_row(row)

    async def get(self, subscription_id: str) -> Subscription:
        """As SubscriptionBook."""
        names = self._page.names(subscription_id=subscription_id)
        row = (await self._page.execute(_SUBSCRIPTION, names)).one_or_none()
        if row is None:
            raise NotFound(what="subscription", name=subscription_id)
        return _subscription_from_row(row)

    async def begin(self, subscription: Subscription, *, actor: str, request_id: str) -> Subscription:
        """As SubscriptionBook."""
        ended = (await self._page.execute(_END_SUBSCRIPTION, self._page.names())).scalar_one_or_none()
        body = {
            "subscription_id": subscription.subscription_id,
            "supersedes": ended,
            "plan_id": subscription.plan_id,
            "plan_version": subscription.plan_version,
            "status": subscription.status.value,
            "anchor_us": unix_microseconds(subscription.anchor),
            "actor": actor,
            "request_id": request_id,
        }
        position = await self._page.append(kind=KIND, body=body)
        begun = replace(subscription, entitlement_version=position.sequence)
        names = self._page.names(
            subscription_id=begun.subscription_id,
            plan_id=begun.plan_id,
            plan_version=begun.plan_version,
            status=begun.status.value,
            anchor=begun.anchor,
            entitlement_version=begun.entitlement_version,
        )
        await self._page.execute(_BEGIN_SUBSCRIPTION, names)
        return replace(begun, stripe_customer_id=await PostgresCustomer(self._page).stripe_id())


def _subscription_from_row(row: Row[Any]) -> Subscription:
    return Subscription(
        subscription_id=row.subscription_id,
        organization_id=row.organization_id,
        plan_id=row.plan_id,
        plan_version=row.plan_version,
        status=SubscriptionStatus(row.status),
        anchor=row.anchor,
        entitlement_version=row.entitlement_version,
        stripe_customer_id=row.stripe_customer_id,
    )


_SUBSCRIPTION_COLUMNS = """
    SELECT organization_id, subscription_id, plan_id, plan_version, status, anchor, entitlement_version,
        coalesce(customers.stripe_customer_id, '') AS stripe_customer_id
    FROM billing.subscriptions LEFT JOIN billing.stripe_customers AS customers USING (organization_id)
    WHERE organization_id = :organization_id
"""
_IN_FORCE = text(f"{_SUBSCRIPTION_COLUMNS} AND status <> 'CANCELED'")
_SUBSCRIPTION = text(f"{_SUBSCRIPTION_COLUMNS} AND subscription_id = :subscription_id")
_END_SUBSCRIPTION = text("""
    UPDATE billing.subscriptions SET status = 'CANCELED', end_time = now()
    WHERE organization_id = :organization_id AND status <> 'CANCELED' RETURNING subscription_id
""")
_BEGIN_SUBSCRIPTION = text("""
    INSERT INTO billing.subscriptions (
        organization_id, subscription_id, plan_id, plan_version, status, anchor, entitlement_version)
    VALUES (:organization_id, :subscription_id, :plan_id, :plan_version, :status, :anchor, :entitlement_version)
""")
