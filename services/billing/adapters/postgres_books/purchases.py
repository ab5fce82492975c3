"""The credits that an organization bought, in Postgres."""

from __future__ import annotations

from sqlalchemy import text

from kit.money import Money
from services.billing.adapters.postgres_books.page import Page
from services.billing.domain.purchases import CreditPurchase


class PostgresPurchases:
    """PurchaseBook over one transaction."""

    def __init__(self, page: Page) -> None:
        self._page = page

    async def get(self, invoice_id: str) -> CreditPurchase | None:
        """As PurchaseBook."""
        row = (await self._page.execute(_PURCHASE, self._page.names(invoice_id=invoice_id))).one_or_none()
        if row is None:
            return None
        return CreditPurchase(
            invoice_id=row.invoice_id,
            amount=Money(int(row.amount_minor), row.currency_code),
            valid_days=row.valid_days,
        )

    async def unpaid_count(self) -> int:
        """As PurchaseBook."""
        count: int = (await self._page.execute(_UNPAID_COUNT, self._page.names())).scalar_one()
        return count

    async def add(self, purchase: CreditPurchase) -> None:
        """As PurchaseBook."""
        names = self._page.names(
            invoice_id=purchase.invoice_id,
            currency_code=purchase.amount.currency_code,
            amount_minor=purchase.amount.minor,
            valid_days=purchase.valid_days,
        )
        await self._page.execute(_ADD, names)


_PURCHASE = text("""
    SELECT invoice_id, currency_code, amount_minor, valid_days FROM billing.credit_purchases
    WHERE organization_id = :organization_id AND invoice_id = :invoice_id
""")
_UNPAID_COUNT = text("""
    SELECT count(*) FROM billing.credit_purchases AS purchase
        JOIN billing.invoices AS invoice USING (organization_id, invoice_id)
    WHERE organization_id = :organization_id AND invoice.state IN ('FINALIZED', 'PAST_DUE')
""")
_ADD = text("""
    INSERT INTO billing.credit_purchases (organization_id, invoice_id, currency_code, amount_minor, valid_days)
    VALUES (:organization_id, :invoice_id, :currency_code, :amount_minor, :valid_days)
""")
