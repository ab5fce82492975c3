"""Collect invoices: hands finalized invoices to the collector. Closing a period never waits for it."""

from __future__ import annotations

import asyncio

import structlog

from kit.clock import Clock
from kit.errors import Refused
from services.billing.application.ports.books import Books
from services.billing.application.ports.collection import CollectionList, Collector, DueInvoice
from services.billing.domain import limits
from services.billing.domain.errors import CollectionRefused
from services.billing.domain.retries import retry_pause

log = structlog.get_logger()


class CollectInvoices:
    """Works the list of uncollected invoices off."""

    def __init__(self, due: CollectionList, books: Books, collector: Collector, clock: Clock) -> None:
        self._due = due
        self._books = books
        self._collector = collector
        self._clock = clock

    async def __call__(self) -> int:
        """Hands over what is due and can be claimed; answers how many it claimed. What fails is due again after a
        pause; what the collector refuses is parked with the reason.
        """
        claimed = await self._due.claim(now=self._clock.now(), count=limits.CLAIMED_AT_ONCE)
        await asyncio.gather(*(self._collect(due) for due in claimed))
        return len(claimed)

    async def _collect(self, due: DueInvoice) -> None:
        try:
            async with asyncio.timeout(limits.CLAIM_WORK.total_seconds()):
                await self._hand_over(due)
        except CollectionRefused as refusal:
            await self._park(due, str(refusal))
        except (Refused, TimeoutError) as error:
            log.warning("invoice_retries", invoice_id=due.invoice_id, attempt=due.attempt_count, error=str(error))
            await self._retry(due, str(error))
        except Exception as error:
            # A defect of ours, on this invoice; the others do not wait for it.
            log.exception("invoice_failed", invoice_id=due.invoice_id, attempt=due.attempt_count)
            await self._retry(due, f"{type(error).__name__}: {error}")

    async def _retry(self, due: DueInvoice, error: str) -> None:
        at = self._clock.now() + retry_pause(due.attempt_count)
        await self._due.retry(due, at=at, error=error[: limits.ERROR_TEXT_MAX])

    async def _park(self, due: DueInvoice, reason: str) -> None:
        log.error("invoice_parked", invoice_id=due.invoice_id, reason=reason)
        await self._due.park(due, reason=reason[: limits.ERROR_TEXT_MAX])

    async def _hand_over(self, due: DueInvoice) -> None:
        async with self._books.read(due.organization_id) as reader:
            invoice = await reader.invoices.get(due.invoice_id)
            customer_id = await reader.customer.stripe_id()
        if not customer_id:
            customer_id = await self._collector.ensure_customer(due.organization_id, attempt_count=due.attempt_count)
            async with self._books.open(due.organization_id) as book:
                await book.customer.set_stripe_id(customer_id)
                # Another invoice's attempt may have been first: all of an organization's go to the one that is kept.
                customer_id = await book.customer.stripe_id()
        collected = await self._collector.collect(invoice, customer_id, attempt_count=due.attempt_count)
        async with self._books.open(due.organization_id) as book:
            await book.invoices.set_collected(due.invoice_id, collected.stripe_invoice_id)
        log.info("invoice_collected", invoice_id=due.invoice_id, stripe_id=collected.stripe_invoice_id)
