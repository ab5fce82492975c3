"""Subscriptions in memory."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from kit.errors import NotFound
from services.billing.adapters.memory.world import World
from services.billing.application.ports.entitlements import EntitlementEntry
from services.billing.domain.subscriptions import Subscription, SubscriptionStatus


class MemorySubscriptions:
    """SubscriptionBook over a copy of the world."""

    def __init__(self, world: World, organization_id: str) -> None:
        self._pages = world.pages[organization_id]

    async def in_force(self) -> Subscription | None:
        """As SubscriptionBook."""
        for subscription in self._pages.subscriptions.values():
            if subscription.status is not SubscriptionStatus.CANCELED:
                return self._known_at_stripe(subscription)
        return None

    async def get(self, subscription_id: str) -> Subscription:
        """As SubscriptionBook."""
        if subscription_id not in self._pages.subscriptions:
            raise NotFound(what="subscription", name=subscription_id)
        return self._known_at_stripe(self._pages.subscriptions[subscription_id])

    async def begin(self, subscription: Subscription, *, actor: str, request_id: str) -> Subscription:  # noqa: ARG002
        """As SubscriptionBook."""
        current = await self.in_force()
        if current is not None:
            ended = replace(current, status=SubscriptionStatus.CANCELED)
            self._pages.subscriptions[current.subscription_id] = ended
            self._pages.ends[current.subscription_id] = datetime.now(UTC)
        version = len(self._pages.changes) + 1
        entry = EntitlementEntry(
            version=version,
            plan_id=subscription.plan_id,
            plan_version=subscription.plan_version,
            status=subscription.status,
            anchor=subscription.anchor,
        )
        self._pages.change(entry)
        begun = replace(subscription, entitlement_version=version)
        self._pages.subscriptions[begun.subscription_id] = begun
        return self._known_at_stripe(begun)

    def _known_at_stripe(self, subscription: Subscription) -> Subscription:
        return replace(subscription, stripe_customer_id=self._pages.stripe_customer_id)
