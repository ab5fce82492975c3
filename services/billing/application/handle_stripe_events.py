"""Handle Stripe events: acts on what is in the inbox, by what Stripe says now and never by what the event said."""

from __future__ import annotations

import asyncio

import structlog

from kit.clock import Clock
from kit.errors import NotFound, Refused
from services.billing.application.ports.books import Books
from services.billing.application.ports.collection import Collector
from services.billing.application.ports.stripe_events import DueEvent, StripeInbox
from services.billing.domain import limits
from services.billing.domain.errors import CollectionRefused
from services.billing.domain.retries import retry_pause
from services.billing.domain.stripe_events import PAYMENT_TYPES, StripeInvoice

log = structlog.get_logger()


class _ClaimLost(Exception):
    """Somebody else has the event by now; what was done about it is undone."""


class HandleStripeEvents:
    """Works the inbox off."""

    def __init__(self, inbox: StripeInbox, books: Books, collector: Collector, clock: Clock) -> None:
        self._inbox = inbox
        self._books = books
        self._collector = collector
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
        if due.type not in PAYMENT_TYPES:
            return await self._note(due, "no effect")
        found = await self._collector.look_up(due.object_id) if due.object_id else None
        if found is None:
            return await self._note(due, "no such invoice at Stripe")
        if not found.organization_id or not found.invoice_id:
            return await self._note(due, "not an invoice of ours")
        if not found.is_paid:
            return await self._note(due, "not paid at Stripe")
        try:
            outcome = await self._mark_paid(due, found)
        except NotFound:
            return await self._note(due, "not an invoice of ours")
        log.info("stripe_event_handled", event_id=due.event_id, outcome=outcome)
        return None

    async def _mark_paid(self, due: DueEvent, found: StripeInvoice) -> str:
        async with self._books.open(found.organization_id) as book:
            invoice = await book.invoices.get(found.invoice_id)
            if (found.total_minor, found.currency_code) == (invoice.total.minor, invoice.total.currency_code):
                await book.invoices.set_paid(invoice.invoice_id, found.stripe_invoice_id)
                outcome = "paid"
            else:
                outcome = "the total at Stripe is not the invoice's"
                log.error("stripe_total_differs", invoice_id=invoice.invoice_id, stripe_id=found.stripe_invoice_id)
            if not await book.stripe_events.set_handled(due.event_id, attempt_count=due.attempt_count, outcome=outcome):
                raise _ClaimLost
        return outcome

    async def _note(self, due: DueEvent, outcome: str) -> None:
        await self._inbox.set_handled(due, now=self._clock.now(), outcome=outcome)
        log.info("stripe_event_handled", event_id=due.event_id, outcome=outcome)
