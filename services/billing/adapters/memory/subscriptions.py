"""Subscriptions in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kit.errors import NotFound
from services.billing.adapters.memory.world import Scheduled, World
from services.billing.application.ports.due_changes import DueChange
from services.billing.application.ports.entitlements import EntitlementEntry
from services.billing.application.ports.subscriptions import Act
from services.billing.domain import lifecycle
from services.billing.domain.subscriptions import PaymentStanding, Subscription, SubscriptionStatus
from services.billing.domain.timeline import Timeline


class MemorySubscriptions:
    """SubscriptionBook over a copy of the world."""

    def __init__(self, world: World, organization_id: str) -> None:
        self._world = world
        self._pages = world.pages[organization_id]
        self._organization_id = organization_id

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

    async def timeline(self, subscription_id: str) -> Timeline:
        """As SubscriptionBook."""
        if subscription_id not in self._pages.timelines:
            raise NotFound(what="subscription", name=subscription_id)
        return self._pages.timelines[subscription_id]

    async def timelines(self) -> Sequence[Timeline]:
        """As SubscriptionBook."""
        return list(self._pages.timelines.values())

    async def begin(self, timeline: Timeline, act: Act) -> Subscription:
        """As SubscriptionBook."""
        current = await self.in_force()
        if current is not None:
            before = self._pages.timelines[current.subscription_id]
            self._keep(
                replace(current, status=SubscriptionStatus.CANCELED, next_change_time=None),
                lifecycle.ended(before, timeline),
            )
        fresh = lifecycle.as_of(timeline, PaymentStanding.GOOD, act.now, organization_id=self._organization_id)
        return self._keep(replace(fresh, entitlement_version=self._entitle(fresh)), timeline)

    async def change(self, timeline: Timeline, standing: PaymentStanding, act: Act) -> Subscription:
        """As SubscriptionBook."""
        before = self._pages.subscriptions[timeline.subscription_id]
        after = lifecycle.as_of(timeline, standing, act.now, organization_id=self._organization_id)
        if lifecycle.entitles_alike(before, after):
            self._pages.change(None)
            return self._keep(replace(after, entitlement_version=before.entitlement_version), timeline)
        return self._keep(replace(after, entitlement_version=self._entitle(after)), timeline)

    def _entitle(self, subscription: Subscription) -> int:
        entry = EntitlementEntry(
            version=len(self._pages.changes) + 1,
            plan_id=subscription.plan_id,
            plan_version=subscription.plan_version,
            custom_id=subscription.custom_id,
            status=subscription.status,
            start=subscription.start,
            anchor=subscription.anchor,
        )
        self._pages.change(entry)
        return entry.version

    def _keep(self, subscription: Subscription, timeline: Timeline) -> Subscription:
        self._pages.subscriptions[subscription.subscription_id] = subscription
        self._pages.timelines[subscription.subscription_id] = timeline
        if subscription.next_change_time is None:
            self._world.scheduled.pop(self._organization_id, None)
        else:
            scheduled = Scheduled(DueChange(self._organization_id, 0), subscription.next_change_time)
            self._world.scheduled[self._organization_id] = scheduled
        return self._known_at_stripe(subscription)

    def _known_at_stripe(self, subscription: Subscription) -> Subscription:
        return replace(subscription, stripe_customer_id=self._pages.stripe_customer_id)
