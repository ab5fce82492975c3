"""The credits that an organization bought."""

from __future__ import annotations

from typing import Protocol

from services.billing.domain.purchases import CreditPurchase


class PurchaseReader(Protocol):
    """The purchases in one organization's books."""

    async def get(self, invoice_id: str) -> CreditPurchase | None:
        """What the invoice sells; None when it sells no credits, also for another organization's."""
        ...

    async def unpaid_count(self) -> int:
        """How many were not paid yet and are still asked for."""
        ...


class PurchaseBook(PurchaseReader, Protocol):
    """The same, open for writing."""

    async def add(self, purchase: CreditPurchase) -> None:
        """Keeps what an invoice of this transaction sells."""
        ...
