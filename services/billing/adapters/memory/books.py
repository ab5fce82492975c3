"""The books in memory."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kit.feed import Head
from kit.head_watch import Look
from services.billing.adapters.memory.closes import MemoryCloses
from services.billing.adapters.memory.coupons import MemoryRedemptions
from services.billing.adapters.memory.credit_notes import MemoryCreditNotes
from services.billing.adapters.memory.credits import MemoryCredits
from services.billing.adapters.memory.custom_plans import MemoryCustomPlans
from services.billing.adapters.memory.customers import MemoryCustomer
from services.billing.adapters.memory.dunning import MemoryDunning
from services.billing.adapters.memory.entitlements import MemoryEntitlements
from services.billing.adapters.memory.handled_events import MemoryStripeEvents
from services.billing.adapters.memory.invoices import MemoryInvoices
from services.billing.adapters.memory.mails import MemoryMails
from services.billing.adapters.memory.payments import MemoryPayments
from services.billing.adapters.memory.profile import MemoryProfile
from services.billing.adapters.memory.purchases import MemoryPurchases
from services.billing.adapters.memory.reconciliation import MemoryReconciliation
from services.billing.adapters.memory.requests import MemoryRequests
from services.billing.adapters.memory.subscriptions import MemorySubscriptions
from services.billing.adapters.memory.world import World


class MemoryBook:
    """Book, and BookReader, over a copy of the world: one sub-book a noun."""

    def __init__(self, world: World, organization_id: str) -> None:
        self.subscriptions = MemorySubscriptions(world, organization_id)
        self.custom_plans = MemoryCustomPlans(world, organization_id)
        self.entitlements = MemoryEntitlements(world, organization_id)
        self.invoices = MemoryInvoices(world, organization_id)
        self.closes = MemoryCloses(world, organization_id)
        self.customer = MemoryCustomer(world, organization_id)
        self.profile = MemoryProfile(world, organization_id)
        self.coupons = MemoryRedemptions(world, organization_id)
        self.credits = MemoryCredits(world, organization_id)
        self.purchases = MemoryPurchases(world, organization_id)
        self.credit_notes = MemoryCreditNotes(world, organization_id)
        self.reconciliation = MemoryReconciliation(world, organization_id)
        self.requests = MemoryRequests(world, organization_id)
        self.payments = MemoryPayments(world, organization_id)
        self.dunning = MemoryDunning(world, organization_id)
        self.mails = MemoryMails(world, organization_id)
        self.stripe_events = MemoryStripeEvents(world)


class MemoryBooks:
    """Books and EntitlementHeads over dictionaries. One writer at a time, on a copy that
    becomes the truth when the books are closed.
    """

    def __init__(self) -> None:
        self._world = World()
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def read(self, organization_id: str) -> AsyncIterator[MemoryBook]:
        """As Books."""
        yield MemoryBook(copy.deepcopy(self._world), organization_id)

    @asynccontextmanager
    async def open(self, organization_id: str) -> AsyncIterator[MemoryBook]:
        """As Books."""
        async with self._turn:
            world = copy.deepcopy(self._world)
            yield MemoryBook(world, organization_id)
            self._world = world

    async def heads(self, mark: str) -> Look:
        """As EntitlementHeads; always every head, whatever the mark."""
        written = self._world.pages.items()
        return Look([Head(key, pages.changes[-1].position) for key, pages in written if pages.changes], mark)

    @asynccontextmanager
    async def everything(self) -> AsyncIterator[World]:
        """All organizations, with everything to oneself."""
        async with self._turn:
            yield self._world
