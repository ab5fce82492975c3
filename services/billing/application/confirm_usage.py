"""Confirm usage: tell the ledger which events no invoice needs any more."""

from __future__ import annotations

from collections.abc import Sequence

from kit.clock import Clock
from services.billing.application.ports.books import Books
from services.billing.application.ports.catalog import Plans
from services.billing.application.ports.usage import InvoicedLedger, LedgerHead
from services.billing.domain.catalog import can_bill_usage
from services.billing.domain.closing import InvoicedUsage, invoiced_usage

CONFIRMED_AT_ONCE = 500


class ConfirmUsage:
    """Confirms the ledger of every organization."""

    def __init__(self, books: Books, plans: Plans, ledger: InvoicedLedger, clock: Clock) -> None:
        self._books = books
        self._plans = plans
        self._ledger = ledger
        self._clock = clock

    async def __call__(self, heads: Sequence[LedgerHead]) -> None:
        """heads: where the ledgers end. Raises DependencyUnavailable; what was confirmed until then stays so."""
        billing: dict[tuple[str, int], bool] = {}
        confirmed: dict[str, InvoicedUsage] = {}
        for head in heads:
            confirmed[head.organization_id] = await self._invoiced(head, billing)
            if len(confirmed) == CONFIRMED_AT_ONCE:
                await self._ledger.confirm(confirmed)
                confirmed = {}
        if confirmed:
            await self._ledger.confirm(confirmed)

    async def _invoiced(self, head: LedgerHead, billing: dict[tuple[str, int], bool]) -> InvoicedUsage:
        async with self._books.read(head.organization_id) as book:
            closings = await book.invoices.closings()
        for each in closings:
            version = (each.plan_id, each.plan_version)
            if version not in billing:
                billing[version] = can_bill_usage(await self._plans.version(*version))
        billed = [each for each in closings if billing[each.plan_id, each.plan_version]]
        return invoiced_usage(billed, head=head.sequence, now=self._clock.now())
