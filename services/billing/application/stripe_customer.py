"""The customer at Stripe that an organization is, made at the first need."""

from __future__ import annotations

from datetime import datetime

from services.billing.application.ports.books import Books
from services.billing.application.ports.stripe import CustomersAtStripe
from services.billing.domain import limits


async def stripe_customer(
    books: Books,
    customers: CustomersAtStripe,
    organization_id: str,
    *,
    now: datetime,
    attempt_count: int = 1,
    found: str = "",
) -> str:
    """The one that is kept; else the one that was `found` there, or made, is kept from now on. Two at once agree on the
    first. Raises CollectionRefused and DependencyUnavailable.
    """
    async with books.read(organization_id) as reader:
        kept = await reader.customer.stripe_id()
        generation = await reader.customer.generation()
    if kept:
        return kept
    fresh = found or await customers.ensure(
        organization_id, since=now - limits.CUSTOMER_MADE_BACK, attempt_count=attempt_count, generation=generation
    )
    async with books.open(organization_id) as book:
        await book.customer.set_stripe_id(fresh)
        # Somebody else's attempt may have been first: everything of an organization goes to the one that is kept.
        return await book.customer.stripe_id()
