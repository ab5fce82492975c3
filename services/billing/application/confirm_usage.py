"""Confirm usage: tell the ledger which events no invoice needs any more."""

from __future__ import annotations

from collections.abc import Sequence

from kit.clock import Clock
from services.billing.application.find_plan import FindPlan
from services.billing.application.ports.books import BookReader, Books
from services.billing.application.ports.usage import InvoicedLedger, LedgerHead
from services.billing.domain.catalog import can_bill_usage
from services.billing.domain.closing import Closing, InvoicedUsage, invoiced_usage
from services.billing.domain.timeline import PlanRef

CONFIRMED_AT_ONCE = 500


class ConfirmUsage:
    """Confirms the ledger of every organization."""

    def __init__(self, books: Books, find_plan: FindPlan, ledger: InvoicedLedger, clock: Clock) -> None:
        self._books = books
        self._find_plan = find_plan
        self._ledger = ledger
        self._clock = clock

    async def __call__(self, heads: Sequence[LedgerHead]) -> None:
        """heads: where the ledgers end. Raises DependencyUnavailable; what was confirmed until then stays so."""
        confirmed: dict[str, InvoicedUsage] = {}
        billing: dict[PlanRef, bool] = {}
        for head in heads:
            confirmed[head.organization_id] = await self._invoiced(head, billing)
            if len(confirmed) == CONFIRMED_AT_ONCE:
                await self._ledger.confirm(confirmed)
                confirmed = {}
        if confirmed:
            await self._ledger.confirm(confirmed)

    async def _invoiced(self, head: LedgerHead, billing: dict[PlanRef, bool]) -> InvoicedUsage:
        async with self._books.read(head.organization_id) as book:
            closings = await _closings(book)
        for plan in {phase.plan for closing in closings for phase in closing.timeline.phases} - billing.keys():
            billing[plan] = can_bill_usage(await self._find_plan(head.organization_id, plan))
        billed = [each for each in closings if any(billing[phase.plan] for phase in each.timeline.phases)]
        return invoiced_usage(billed, head=head.sequence, now=self._clock.now())


async def _closings(book: BookReader) -> Sequence[Closing]:
    return [
        Closing(timeline=timeline, closes=tuple(await book.closes.of(timeline.subscription_id)))
        for timeline in await book.subscriptions.timelines()
    ]
