"""An organization's subscriptions."""

from __future__ import annotations

from typing import Protocol

from services.billing.domain.subscriptions import Subscription


class SubscriptionReader(Protocol):
    """The subscriptions in one organization's books."""

    async def in_force(self) -> Subscription | None:
        """The one subscription in force; None before the first."""
        ...

    async def get(self, subscription_id: str) -> Subscription:
        """One subscription, in force or not. Raises NotFound."""
        ...


class SubscriptionBook(SubscriptionReader, Protocol):
    """The same, open for writing."""

    async def begin(self, subscription: Subscription, *, actor: str, request_id: str) -> Subscription:
        """Puts a subscription in force and ends the one that was. Answers it with its entitlement_version: the number
        of the entry that says so in the change log.
        """
        ...
