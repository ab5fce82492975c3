"""Create subscription: puts an organization on a plan."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from kit.clock import Clock, unix_microseconds
from kit.errors import AlreadyExists, InvalidField
from kit.ids import new_id
from services.billing.application.find_wanted_plan import CustomTerms, FindWantedPlan, WantedPlan
from services.billing.application.ports.books import Book, Books
from services.billing.application.ports.subscriptions import Act
from services.billing.application.schedule_closes import schedule_closes
from services.billing.application.settle_standing import settle_standing
from services.billing.application.subscription_in_force import Standing, SubscriptionInForce, standing_of
from services.billing.application.tell_customers import tell_of_trial
from services.billing.domain import lifecycle, limits
from services.billing.domain.catalog import FREE_PLAN
from services.billing.domain.requests import request_digest, require_request_id
from services.billing.domain.subscriptions import start_of_subscription
from services.billing.domain.timeline import Timeline


class CreateSubscription:
    """Sells a plan."""

    def __init__(
        self, books: Books, find_wanted_plan: FindWantedPlan, subscription_in_force: SubscriptionInForce, clock: Clock
    ) -> None:
        self._books = books
        self._find_wanted_plan = find_wanted_plan
        self._subscription_in_force = subscription_in_force
        self._clock = clock

    async def __call__(
        self,
        organization_id: str,
        plan_id: str,
        *,
        start_time: datetime | None,
        currency_code: str = "",
        trial_days: int | None = None,
        terms: CustomTerms | None = None,
        is_opened_at_once: bool = False,
        request_id: str,
        actor: str,
    ) -> Standing:
        """Puts the organization on the newest version of the plan, or on terms in its place. Supersedes `free`.

        start_time None: now. currency_code empty: the one agreed with the customer, else the plan's first. trial_days
        None: the plan's, once in an organization's life. is_opened_at_once: its opening is invoiced now and not a while
        later, for what was bought and paid already. The same request again answers the subscription it made.

        Raises AlreadyExists when a plan other than `free` is in force, NotFound for an unknown plan, InvalidState for
        one that is not sold, InvalidField for a start_time ahead, too far back or within a time that is billed already,
        CurrencyNotOffered, InvalidCatalog, RequestIdReused, OrganizationNotFound and DependencyUnavailable.
        """
        require_request_id(request_id)
        if trial_days is not None and not 0 <= trial_days <= limits.TRIAL_DAYS_MAX:
            raise InvalidField(field="trial_days", problem=f"not in 0 to {limits.TRIAL_DAYS_MAX}")
        start_us = None if start_time is None else unix_microseconds(start_time)
        said = [currency_code, trial_days, terms.content if terms else None]
        # What nothing is said of stays out of the digest: so it is what it was before that could be said.
        more = [said] if any(each not in ("", None) for each in said) else []
        digest = request_digest("CreateSubscription", organization_id, plan_id, start_us, *more)
        wanted = await self._find_wanted_plan(plan_id, terms)
        # First the organization's history begins, with `free`: so it is the same whoever asked about it before.
        await self._subscription_in_force(organization_id)
        async with self._books.open(organization_id) as book:
            now = self._clock.now()
            made = await book.requests.answer_to(request_id, digest)
            if made is not None:
                return await standing_of(book, await book.subscriptions.get(made), now)
            wanted.require_sold()
            await _require_free(book)
            start = start_of_subscription(start_time, now)
            before = await book.subscriptions.timelines()
            _require_not_billed(before, start)
            agreed = (await book.profile.current()).terms.currency_code
            currency = currency_code or agreed or wanted.plan.default_book.currency_code
            timeline = lifecycle.begin(
                new_id("sub"),
                wanted.ref,
                currency_code=wanted.plan.book(currency).currency_code,
                start=start,
                trial_days=_trial_days(trial_days, wanted, before),
                opening=now if is_opened_at_once else now + limits.CLOSE_AFTER,
            )
            if wanted.ref.custom_id:
                await book.custom_plans.add(wanted.ref.custom_id, wanted.plan)
            act = Act(action="create", actor=actor, request_id=request_id, now=now)
            begun = await book.subscriptions.begin(timeline, act)
            # Who owes for an earlier one owes still: canceling and buying again is no way out of a suspension.
            await settle_standing(book, actor=actor, now=now)
            subscription = await book.subscriptions.get(begun.subscription_id)
            await tell_of_trial(book, timeline, now=now)
            await schedule_closes(book)
            await book.requests.remember(request_id, digest, subscription.subscription_id)
            return await standing_of(book, subscription, now)


async def _require_free(book: Book) -> None:
    current = await book.subscriptions.in_force()
    if current is not None and current.plan_id != FREE_PLAN:
        raise AlreadyExists(what="subscription", name=current.subscription_id)


def _require_not_billed(before: Sequence[Timeline], start: datetime) -> None:
    billed = (each.end for each in before if each.phases[0].plan.plan_id != FREE_PLAN)
    if any(end is not None and start < end for end in billed):
        raise InvalidField(field="subscription.start_time", problem="lies within a subscription that is billed already")


def _trial_days(said: int | None, wanted: WantedPlan, before: Sequence[Timeline]) -> int:
    if said is not None:
        return said
    has_had_one = any(each.start < each.anchor for each in before)
    return 0 if has_had_one else wanted.plan.trial_days
