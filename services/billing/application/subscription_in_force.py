"""The subscription in force: every organization has one, on `free` if nobody sold it another."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from kit.clock import Clock
from kit.errors import InvalidState
from kit.ids import new_id
from services.billing.application.ports.books import Book, BookReader, Books
from services.billing.application.ports.catalog import Plans
from services.billing.application.ports.organizations import Organizations
from services.billing.application.ports.subscriptions import Act
from services.billing.application.schedule_closes import schedule_closes
from services.billing.domain import lifecycle
from services.billing.domain.catalog import FREE_PLAN, Plan
from services.billing.domain.periods import Period
from services.billing.domain.subscriptions import Subscription, current_period
from services.billing.domain.timeline import PlanRef, Timeline

_ACTOR = "service:billing"


@dataclass(frozen=True, slots=True)
class Standing:
    """A subscription, its current period and its timeline."""

    subscription: Subscription
    period: Period
    timeline: Timeline


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
        What was scheduled and has come is put in force, whoever sees it first: the same entry of the change log whether
        that is a caller or a worker. Raises OrganizationNotFound, InvalidState before the first catalog is applied, and
        DependencyUnavailable.
        """
        async with self._books.read(organization_id) as book:
            subscription = await book.subscriptions.in_force()
            if subscription is not None and not is_due(subscription, self._clock.now()):
                return await standing_of(book, subscription, self._clock.now())
        if subscription is None:
            return await self._begin_free(organization_id)
        return await self._advance(organization_id)

    async def _begin_free(self, organization_id: str) -> Standing:
        start = await self._organizations.create_time(organization_id)
        free = await newest_free(self._plans)
        async with self._books.open(organization_id) as book:
            now = self._clock.now()
            subscription = await book.subscriptions.in_force()
            if subscription is None:
                subscription = await begin_free(book, free, start=start, act=_by_time("begin_free", now))
            return await standing_of(book, subscription, now)

    async def _advance(self, organization_id: str) -> Standing:
        free = await newest_free(self._plans)
        async with self._books.open(organization_id) as book:
            now = self._clock.now()
            subscription = await book.subscriptions.in_force()
            if subscription is None:
                raise InvalidState(problem="The subscription is gone.")
            if is_due(subscription, now):
                subscription = await _put_in_force(book, subscription, free, now)
            return await standing_of(book, subscription, now)


def is_due(subscription: Subscription, now: datetime) -> bool:
    """Whether its timeline has something in force that the books do not have yet."""
    return subscription.next_change_time is not None and subscription.next_change_time <= now


async def standing_of(book: BookReader, subscription: Subscription, now: datetime) -> Standing:
    """The subscription with its timeline, and with the period that holds `now`."""
    timeline = await book.subscriptions.timeline(subscription.subscription_id)
    return Standing(
        subscription, current_period(start=subscription.start, anchor=subscription.anchor, moment=now), timeline
    )


async def newest_free(plans: Plans) -> Plan:
    """The plan of every organization that has no other. Raises InvalidState before the first catalog is applied."""
    entry = await plans.newest(FREE_PLAN)
    if entry is None:
        raise InvalidState(problem="No plan catalog has been applied yet.")
    return entry.plan


async def begin_free(book: Book, free: Plan, *, start: datetime, act: Act) -> Subscription:
    """Puts the organization on `free`, and ends what was in force where it starts."""
    timeline = lifecycle.begin(
        new_id("sub"),
        PlanRef(free.plan_id, free.version),
        currency_code=free.default_book.currency_code,
        start=start,
        trial_days=0,
        opening=start,
    )
    begun = await book.subscriptions.begin(timeline, act)
    # What it ends has its last invoices to come.
    await schedule_closes(book)
    return begun


async def _put_in_force(book: Book, subscription: Subscription, free: Plan, now: datetime) -> Subscription:
    timeline = await book.subscriptions.timeline(subscription.subscription_id)
    if timeline.end is not None and lifecycle.has_ended(timeline, now):
        return await begin_free(book, free, start=timeline.end, act=_by_time("end", now))
    return await book.subscriptions.change(timeline, subscription.standing, _by_time("begin_phase", now))


def _by_time(action: str, now: datetime) -> Act:
    return Act(action=action, actor=_ACTOR, request_id="", now=now)
