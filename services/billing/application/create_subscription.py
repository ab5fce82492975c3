"""Create subscription: puts an organization on a plan."""

from __future__ import annotations

from datetime import datetime

from kit.clock import Clock, unix_microseconds
from kit.errors import AlreadyExists, InvalidState, NotFound
from kit.ids import new_id
from services.billing.application.ports.books import Book, Books
from services.billing.application.ports.catalog import Plans
from services.billing.application.subscription_in_force import Standing, SubscriptionInForce
from services.billing.domain.catalog import FREE_PLAN, CatalogPlan
from services.billing.domain.periods import period_at
from services.billing.domain.requests import request_digest, require_request_id
from services.billing.domain.subscriptions import Subscription, SubscriptionStatus, start_of_subscription


class CreateSubscription:
    """Sells a plan."""

    def __init__(self, books: Books, plans: Plans, subscription_in_force: SubscriptionInForce, clock: Clock) -> None:
        self._books = books
        self._plans = plans
        self._subscription_in_force = subscription_in_force
        self._clock = clock

    async def __call__(
        self, organization_id: str, plan_id: str, *, start_time: datetime | None, request_id: str, actor: str
    ) -> Standing:
        """Puts the organization on the newest version of the plan; start_time None means now. Supersedes `free`.

        The same request again answers the subscription it made. Raises AlreadyExists when a plan other than `free` is
        in force, NotFound for an unknown plan, InvalidState for one that is not sold, InvalidField for a start_time
        ahead or too far back, RequestIdReused, OrganizationNotFound and DependencyUnavailable.
        """
        require_request_id(request_id)
        start_us = None if start_time is None else unix_microseconds(start_time)
        digest = request_digest("CreateSubscription", organization_id, plan_id, start_us)
        entry = await self._plans.newest(plan_id)
        # First the organization's history begins, with `free`: so it is the same whoever asked about it before.
        await self._subscription_in_force(organization_id)
        async with self._books.open(organization_id) as book:
            made = await book.requests.answer_to(request_id, digest)
            if made is not None:
                subscription = await book.subscriptions.get(made)
            else:
                fresh = self._fresh(organization_id, plan_id, entry, start_time)
                subscription = await _supersede_free(book, fresh, actor=actor, request_id=request_id)
                await book.requests.remember(request_id, digest, subscription.subscription_id)
        return Standing(subscription, period_at(subscription.anchor, self._clock.now()))

    def _fresh(
        self, organization_id: str, plan_id: str, entry: CatalogPlan | None, start_time: datetime | None
    ) -> Subscription:
        if entry is None:
            raise NotFound(what="plan", name=plan_id[:64])
        if not entry.is_sold:
            raise InvalidState(problem=f"The plan {plan_id!r} is no longer sold.")
        return Subscription(
            subscription_id=new_id("sub"),
            organization_id=organization_id,
            plan_id=plan_id,
            plan_version=entry.plan.version,
            status=SubscriptionStatus.ACTIVE,
            anchor=start_of_subscription(start_time, self._clock.now()),
        )


async def _supersede_free(book: Book, fresh: Subscription, *, actor: str, request_id: str) -> Subscription:
    current = await book.subscriptions.in_force()
    if current is not None and current.plan_id != FREE_PLAN:
        raise AlreadyExists(what="subscription", name=current.subscription_id)
    return await book.subscriptions.begin(fresh, actor=actor, request_id=request_id)
