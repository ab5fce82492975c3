"""An organization as Stripe's customer, in memory."""

from __future__ import annotations

from services.billing.adapters.memory.world import World


class MemoryCustomer:
    """CustomerBook over a copy of the world."""

    def __init__(self, world: World, organization_id: str) -> None:
        self._pages = world.pages[organization_id]

    async def stripe_id(self) -> str:
        """As CustomerBook."""
        return self._pages.stripe_customer_id

    async def set_stripe_id(self, stripe_customer_id: str) -> None:
        """As CustomerBook."""
        self._pages.stripe_customer_id = self._pages.stripe_customer_id or stripe_customer_id

    async def generation(self) -> int:
        """As CustomerBook."""
        return self._pages.forgotten_customers

    async def forget_stripe_id(self, stripe_customer_id: str) -> None:
        """As CustomerBook."""
        if stripe_customer_id and self._pages.stripe_customer_id == stripe_customer_id:
            self._pages.stripe_customer_id = ""
            self._pages.forgotten_customers += 1
            self._pages.change(None)
