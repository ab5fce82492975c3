"""Hand over credit notes: tells the collector what is due no longer, and what is to be paid back."""

from __future__ import annotations

import asyncio

import structlog

from kit.clock import Clock
from kit.errors import DependencyUnavailable, Refused
from services.billing.application.ports.books import Books
from services.billing.application.ports.credit_notes import CreditNoteCollector, CreditNoteList, DueCreditNote
from services.billing.domain import limits
from services.billing.domain.errors import CollectionRefused
from services.billing.domain.invoices import InvoiceState
from services.billing.domain.retries import retry_pause

log = structlog.get_logger()


class HandOverCreditNotes:
    """Works the list of credit notes off that the collector has not done yet."""

    def __init__(self, due: CreditNoteList, books: Books, collector: CreditNoteCollector, clock: Clock) -> None:
        self._due = due
        self._books = books
        self._collector = collector
        self._clock = clock

    async def __call__(self) -> int:
        """Hands over what is due and can be claimed; answers how many it claimed. What fails, and what waits for its
        invoice to be there, is due again after a pause; what the collector refuses is parked with the reason.
        """
        claimed = await self._due.claim(now=self._clock.now(), count=limits.CLAIMED_AT_ONCE)
        await asyncio.gather(*(self._work_on(due) for due in claimed))
        return len(claimed)

    async def _work_on(self, due: DueCreditNote) -> None:
        name = due.credit_note_id
        try:
            async with asyncio.timeout(limits.CLAIM_WORK.total_seconds()):
                await self._hand_over(due)
        except CollectionRefused as refusal:
            await self._park(due, str(refusal))
        except (Refused, TimeoutError) as error:
            log.warning("credit_note_retries", credit_note_id=name, attempt=due.attempt_count, error=str(error))
            await self._retry(due, str(error))
        except Exception as error:
            # A defect of ours, on this one; the others do not wait for it.
            log.exception("credit_note_failed", credit_note_id=name, attempt=due.attempt_count)
            await self._retry(due, f"{type(error).__name__}: {error}")

    async def _retry(self, due: DueCreditNote, error: str) -> None:
        at = self._clock.now() + retry_pause(due.attempt_count)
        await self._due.retry(due, at=at, error=error[: limits.ERROR_TEXT_MAX])

    async def _park(self, due: DueCreditNote, reason: str) -> None:
        log.error("credit_note_parked", credit_note_id=due.credit_note_id, reason=reason)
        await self._due.park(due, reason=reason[: limits.ERROR_TEXT_MAX])

    async def _hand_over(self, due: DueCreditNote) -> None:
        async with self._books.read(due.organization_id) as book:
            note = await book.credit_notes.get(due.credit_note_id)
            invoice = await book.invoices.get(note.invoice_id)
        if invoice.state is InvoiceState.VOID:
            # Nothing of it is due, nor was paid; Stripe takes no credit note for such a one.
            async with self._books.open(due.organization_id) as book:
                await book.credit_notes.set_collected(due.credit_note_id, "")
            return
        if not invoice.stripe_invoice_id:
            raise DependencyUnavailable(dependency=f"The invoice {invoice.number} at Stripe")
        made = await self._collector.take_back(note, invoice.stripe_invoice_id, attempt_count=due.attempt_count)
        async with self._books.open(due.organization_id) as book:
            await book.credit_notes.set_collected(due.credit_note_id, made)
        log.info("credit_note_handed_over", credit_note_id=due.credit_note_id, stripe_id=made)
