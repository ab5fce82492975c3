"""Act on subscription: what every command to a subscription has in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from kit.clock import Clock
from kit.errors import InvalidState
from services.billing.application.find_plan import FindPlan
from services.billing.application.find_wanted_plan import WantedPlan
from services.billing.application.ports.books import Book, Books
from services.billing.application.ports.catalog import Plans
from services.billing.application.ports.subscriptions import Act
from services.billing.application.schedule_closes import schedule_closes
from services.billing.application.subscription_in_force import (
    Standing,
    SubscriptionInForce,
    begin_free,
    is_due,
    newest_free,
    standing_of,
)
from services.billing.application.tell_customers import tell_of_change, tell_of_end
from services.billing.domain import lifecycle
from services.billing.domain.catalog import FREE_PLAN, Plan
from services.billing.domain.lifecycle import Command
from services.billing.domain.subscriptions import Subscription
from services.billing.domain.timeline import Timeline

_ATTEMPTS = 5
"""How often somebody else may change the subscription between our look and our turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request for a change, and who makes it."""

    organization_id: str
    request_id: str
    digest: bytes
    actor: str


@dataclass(frozen=True, slots=True)
class Situation:
    """What a command is decided by."""

    timeline: Timeline
    plan: Plan
    """The terms in force."""
    now: datetime


Decide = Callable[[Situation], Timeline]


class ActOnSubscription:
    """Does one thing to the subscription in force."""

    def __init__(self, books: Books, plans: Plans, subscription_in_force: SubscriptionInForce, clock: Clock) -> None:
        self._books = books
        self._plans = plans
        self._find_plan = FindPlan(books, plans)
        self._subscription_in_force = subscription_in_force
        self._clock = clock

    async def __call__(
        self, asked: Asked, command: Command, decide: Decide, *, wanted: WantedPlan | None = None
    ) -> Standing:
        """The subscription with the timeline that `decide` answers, and with what of it holds already in force. Terms
        of the organization's own that are wanted are kept with it. The same request again answers the subscription it
        changed, as it is now.

        Raises InvalidState when its status does not allow the command or it is `free`, RequestIdReused, what `decide`
        raises, OrganizationNotFound and DependencyUnavailable.
        """
        for _ in range(_ATTEMPTS):
            # Terms are looked up before the books are opened, which keep one writer at a time.
            seen = await self._subscription_in_force(asked.organization_id)
            plan = await self._find_plan(asked.organization_id, seen.subscription.plan_ref)
            free = await newest_free(self._plans)
            async with self._books.open(asked.organization_id) as book:
                now = self._clock.now()
                made = await book.requests.answer_to(asked.request_id, asked.digest)
                if made is not None:
                    return await standing_of(book, await book.subscriptions.get(made), now)
                if await book.subscriptions.in_force() != seen.subscription or is_due(seen.subscription, now):
                    continue
                _require(command, seen.subscription)
                timeline = decide(Situation(seen.timeline, plan, now))
                act = Act(action=command.name.lower(), actor=asked.actor, request_id=asked.request_id, now=now)
                await _keep_terms(book, wanted)
                changed = await _write(book, seen.subscription, timeline, free, act)
                if timeline != seen.timeline:
                    await _tell(book, command, timeline, wanted.plan if wanted else plan, act)
                await book.requests.remember(asked.request_id, asked.digest, changed.subscription_id)
                return await standing_of(book, changed, now)
        raise InvalidState(problem="The subscription keeps changing; try again.")


def _require(command: Command, subscription: Subscription) -> None:
    if subscription.plan_id == FREE_PLAN:
        raise InvalidState(problem=f"The organization is on {FREE_PLAN!r}: there is nothing to {command.value}.")
    lifecycle.require_allowed(command, subscription.status)


async def _tell(book: Book, command: Command, timeline: Timeline, plan: Plan, act: Act) -> None:
    match command:
        case Command.CHANGE_PLAN:
            await tell_of_change(book, timeline, plan.display_name, request_id=act.request_id, now=act.now)
        case Command.CANCEL:
            await tell_of_end(book, timeline, plan.display_name, request_id=act.request_id, now=act.now)
        case _:
            # Whoever pauses or resumes sees it at once, and it costs nothing by itself.
            pass


async def _keep_terms(book: Book, wanted: WantedPlan | None) -> None:
    if wanted is not None and wanted.ref.custom_id:
        await book.custom_plans.add(wanted.ref.custom_id, wanted.plan)


async def _write(book: Book, current: Subscription, timeline: Timeline, free: Plan, act: Act) -> Subscription:
    if timeline.end is not None and lifecycle.has_ended(timeline, act.now):
        await begin_free(book, free, start=timeline.end, act=act)
        return await book.subscriptions.get(current.subscription_id)
    changed = await book.subscriptions.change(timeline, current.standing, act)
    await schedule_closes(book)
    return changed
