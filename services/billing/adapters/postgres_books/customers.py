"""An organization as Stripe's customer, in Postgres."""

from __future__ import annotations

from sqlalchemy import text

from services.billing.adapters.postgres_books.page import Page


class PostgresCustomer:
    """CustomerBook over one transaction."""

    def __init__(self, page: Page) -> None:
        self._page = page

    async def stripe_id(self) -> str:
        """As CustomerBook."""
        return (await self._page.execute(_STRIPE_CUSTOMER, self._page.names())).scalar_one_or_none() or ""

    async def set_stripe_id(self, stripe_customer_id: str) -> None:
        """As CustomerBook."""
        await self._page.execute(_SET_CUSTOMER, self._page.names(stripe_customer_id=stripe_customer_id))


_STRIPE_CUSTOMER = text("""
    SELECT stripe_customer_id FROM billing.stripe_customers WHERE organization_id = :organization_id
""")
_SET_CUSTOMER = text("""
    INSERT INTO billing.stripe_customers (organization_id, stripe_customer_id)
    VALUES (:organization_id, :stripe_customer_id) ON CONFLICT (organization_id) DO NOTHING
""")
