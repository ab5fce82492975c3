"""The subscription in force: every organization has one, on `free` if nobody sold it another."""

from __future__ import annotations

from dataclasses import dataclass

from kit.clock import Clock
from kit.errors import InvalidState
from kit.ids import new_id
from services.billing.application.ports.books import Books
from services.billing.application.ports.catalog import Plans
from services.billing.application.ports.organizations import Organizations
from services.billing.domain.catalog import FREE_PLAN
from services.billing.domain.periods import Period, period_at
from services.billing.domain.subscriptions import Subscription, SubscriptionStatus

_ACTOR = "service:billing"


@dataclass(frozen=True, slots=True)
class Standing:
    """A subscription and its current period."""

    subscription: Subscription
    period: Period


class SubscriptionInForce:
    """Finds an organization's subscription."""

    def __init__(self, books: Books, plans: Plans, organizations: Organizations, clock: Clock) -> None:
        self._books = books
        self._plans = plans
        self._organizations = organizations
        self._clock = clock

    async def __call__(self, organization_id: str) -> Standing:
        """The subscription in force and the period that holds this instant.

        An organization without one is put on `free` as of its making, whoever asks first and however many ask at once.
        Raises OrganizationNotFound, InvalidState before the first catalog is applied, and DependencyUnavailable.
        """
        async with self._books.read(organization_id) as book:
            subscription = await book.subscriptions.in_force()
        if subscription is None:
            subscription = await self._begin_free(organization_id)
        return Standing(subscription, period_at(subscription.anchor, self._clock.now()))

    async def _begin_free(self, organization_id: str) -> Subscription:
        anchor = await self._organizations.create_time(organization_id)
        free = await self._plans.newest(FREE_PLAN)
        if free is None:
            raise InvalidState(problem="No plan catalog has been applied yet.")
        async with self._books.open(organization_id) as book:
            existing = await book.subscriptions.in_force()
            if existing is not None:
                return existing
            fresh = Subscription(
                subscription_id=new_id("sub"),
                organization_id=organization_id,
                plan_id=FREE_PLAN,
                plan_version=free.plan.version,
                status=SubscriptionStatus.ACTIVE,
                anchor=anchor,
            )
            return await book.subscriptions.begin(fresh, actor=_ACTOR, request_id="")
