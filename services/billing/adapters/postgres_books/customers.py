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

    async def generation(self) -> int:
        """As CustomerBook."""
        return (await self._page.execute(_GENERATION, self._page.names())).scalar_one_or_none() or 0

    async def forget_stripe_id(self, stripe_customer_id: str) -> None:
        """As CustomerBook."""
        names = self._page.names(stripe_customer_id=stripe_customer_id)
        if (await self._page.execute(_FORGET_CUSTOMER, names)).rowcount:
            await self._page.append(kind="stripe_customer_gone", body={"stripe_customer_id": stripe_customer_id})

    async def set_stripe_id(self, stripe_customer_id: str) -> None:
        """As CustomerBook."""
        await self._page.execute(_SET_CUSTOMER, self._page.names(stripe_customer_id=stripe_customer_id))


_STRIPE_CUSTOMER = text("""
    SELECT stripe_customer_id FROM billing.stripe_customers WHERE organization_id = :organization_id
""")
_SET_CUSTOMER = text("""
    INSERT INTO billing.stripe_customers AS kept (organization_id, stripe_customer_id)
    VALUES (:organization_id, :stripe_customer_id) ON CONFLICT (organization_id) DO UPDATE
    SET stripe_customer_id = :stripe_customer_id WHERE kept.stripe_customer_id = ''
""")
_GENERATION = text("SELECT generation FROM billing.stripe_customers WHERE organization_id = :organization_id")
_FORGET_CUSTOMER = text("""
    UPDATE billing.stripe_customers SET stripe_customer_id = '', generation = generation + 1
    WHERE organization_id = :organization_id AND stripe_customer_id = :stripe_customer_id
""")
