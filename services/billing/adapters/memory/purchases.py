"""The credits that an organization bought, in memory."""

from __future__ import annotations

from services.billing.adapters.memory.world import World
from services.billing.domain.invoices import InvoiceState
from services.billing.domain.purchases import CreditPurchase


class MemoryPurchases:
    """PurchaseBook over a copy of the world."""

    def __init__(self, world: World, organization_id: str) -> None:
        self._pages = world.pages[organization_id]

    async def get(self, invoice_id: str) -> CreditPurchase | None:
        """As PurchaseBook."""
        return self._pages.purchases.get(invoice_id)

    async def unpaid_count(self) -> int:
        """As PurchaseBook."""
        states = [self._pages.invoices[invoice_id].state for invoice_id in self._pages.purchases]
        return sum(state in (InvoiceState.FINALIZED, InvoiceState.PAST_DUE) for state in states)

    async def add(self, purchase: CreditPurchase) -> None:
        """As PurchaseBook."""
        self._pages.purchases[purchase.invoice_id] = purchase
