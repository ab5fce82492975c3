"""Handle Stripe events: acts on what is in the inbox, by what Stripe says now and never by what the event said."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from kit.clock import Clock
from kit.errors import NotFound, Refused
from services.billing.application.ports.books import Books
from services.billing.application.ports.stripe_events import DueEvent, StripeInbox
from services.billing.application.stripe_events.effects import Effect, Handler, Nothing
from services.billing.domain import limits
from services.billing.domain.errors import CollectionRefused
from services.billing.domain.retries import retry_pause

log = structlog.get_logger()


class _ClaimLost(Exception):
    """Somebody else has the event by now; what was done about it is undone."""


class HandleStripeEvents:
    """Works the inbox off."""

    def __init__(self, inbox: StripeInbox, books: Books, handlers: Mapping[str, Handler], clock: Clock) -> None:
        self._inbox = inbox
        self._books = books
        self._handlers = handlers
        self._clock = clock

    async def __call__(self) -> int:
        """Handles what is due and can be claimed; answers how many it claimed. An event whose handling fails is due
        again after a pause, without end: an event is marked handled together with its effect or not at all.
        """
        claimed = await self._inbox.claim(now=self._clock.now(), count=limits.CLAIMED_AT_ONCE)
        await asyncio.gather(*(self._handle(due) for due in claimed))
        return len(claimed)

    async def _handle(self, due: DueEvent) -> None:
        try:
            async with asyncio.timeout(limits.CLAIM_WORK.total_seconds()):
                await self._act(due)
        except _ClaimLost:
            log.warning("stripe_event_claim_lost", event_id=due.event_id)
        except (Refused, CollectionRefused, TimeoutError) as error:
            log.warning("stripe_event_retries", event_id=due.event_id, attempt=due.attempt_count, error=str(error))
            await self._retry(due, str(error))
        except Exception as error:
            # A defect of ours, or something unheard of at Stripe; the other lanes do not wait for it.
            log.exception("stripe_event_failed", event_id=due.event_id, attempt=due.attempt_count)
            await self._retry(due, f"{type(error).__name__}: {error}")

    async def _retry(self, due: DueEvent, error: str) -> None:
        at = self._clock.now() + retry_pause(due.attempt_count)
        await self._inbox.retry(due, at=at, error=error[: limits.ERROR_TEXT_MAX])

    async def _act(self, due: DueEvent) -> None:
        handler = self._handlers.get(due.type)
        found = Nothing("no effect") if handler is None else await handler(due)
        if isinstance(found, Nothing):
            return await self._note(due, found.outcome)
        try:
            outcome = await self._write(due, found)
        except NotFound:
            return await self._note(due, "not ours")
        log.info("stripe_event_handled", event_id=due.event_id, type=due.type, outcome=outcome)
        return None

    async def _write(self, due: DueEvent, effect: Effect) -> str:
        async with self._books.open(effect.organization_id) as book:
            outcome = (await effect.apply(book))[: limits.ERROR_TEXT_MAX]
            if not await book.stripe_events.set_handled(due.event_id, attempt_count=due.attempt_count, outcome=outcome):
                raise _ClaimLost
        return outcome

    async def _note(self, due: DueEvent, outcome: str) -> None:
        await self._inbox.set_handled(due, now=self._clock.now(), outcome=outcome[: limits.ERROR_TEXT_MAX])
        log.info("stripe_event_handled", event_id=due.event_id, type=due.type, outcome=outcome)
