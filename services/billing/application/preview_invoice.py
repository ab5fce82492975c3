"""Preview invoice: what the current period would be invoiced at, if it closed now."""

from __future__ import annotations

from services.billing.application.make_cut import MakeCut
from services.billing.application.ports.books import Books
from services.billing.application.subscription_in_force import SubscriptionInForce
from services.billing.domain.closing import Cut, CutKind
from services.billing.domain.invoices import Invoice


class PreviewInvoice:
    """Drafts without keeping."""

    def __init__(self, books: Books, subscription_in_force: SubscriptionInForce, make_cut: MakeCut) -> None:
        self._books = books
        self._subscription_in_force = subscription_in_force
        self._make_cut = make_cut

    async def __call__(self, organization_id: str) -> Invoice:
        """A draft: of closing the period early, or, when it was, of closing it at its end. Raises OrganizationNotFound
        and DependencyUnavailable.
        """
        standing = await self._subscription_in_force(organization_id)
        subscription_id, start = standing.subscription.subscription_id, standing.period.start
        async with self._books.read(organization_id) as book:
            made = {close.cut for close in await book.closes.of(subscription_id)}
        early = Cut(CutKind.EARLY, start)
        cut = Cut(CutKind.PERIOD, start) if early in made else early
        return await self._make_cut.draft(organization_id, subscription_id, cut)
