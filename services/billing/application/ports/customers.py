"""An organization as Stripe's customer."""

from __future__ import annotations

from typing import Protocol


class CustomerReader(Protocol):
    """The customer in one organization's books."""

    async def stripe_id(self) -> str:
        """The organization's customer at Stripe; empty until known there."""
        ...

    async def generation(self) -> int:
        """How many customers of the organization were deleted at Stripe."""
        ...


class CustomerBook(CustomerReader, Protocol):
    """The same, open for writing."""

    async def set_stripe_id(self, stripe_customer_id: str) -> None:
        """Keeps the organization's customer at Stripe; the first one stays, until it is forgotten."""
        ...

    async def forget_stripe_id(self, stripe_customer_id: str) -> None:
        """Forgets the customer, if it is this one: it was deleted at Stripe."""
        ...
