"""The books of every organization in Postgres, as the tenant role.

Opening an organization's books locks its row of billing.change_heads: writers of one organization take turns, and what
one of them reads stays true until its transaction ends. Readers see one instant and wait for nobody.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import text

from kit.postgres.database import Database
from services.billing.adapters.postgres_books.closes import PostgresCloses
from services.billing.adapters.postgres_books.coupons import PostgresRedemptions
from services.billing.adapters.postgres_books.credit_notes import PostgresCreditNotes
from services.billing.adapters.postgres_books.credits import PostgresCredits
from services.billing.adapters.postgres_books.custom_plans import PostgresCustomPlans
from services.billing.adapters.postgres_books.customers import PostgresCustomer
from services.billing.adapters.postgres_books.dunning import PostgresDunning
from services.billing.adapters.postgres_books.entitlements import PostgresEntitlements
from services.billing.adapters.postgres_books.invoices import PostgresInvoices
from services.billing.adapters.postgres_books.mails import PostgresMails
from services.billing.adapters.postgres_books.page import Page
from services.billing.adapters.postgres_books.payments import PostgresPayments
from services.billing.adapters.postgres_books.profile import PostgresProfile
from services.billing.adapters.postgres_books.purchases import PostgresPurchases
from services.billing.adapters.postgres_books.reconciliation import PostgresReconciliation
from services.billing.adapters.postgres_books.requests import PostgresRequests
from services.billing.adapters.postgres_books.stripe_events import PostgresStripeEvents
from services.billing.adapters.postgres_books.subscriptions import PostgresSubscriptions


class PostgresBook:
    """Book, and BookReader, over one transaction: one sub-book a noun."""

    def __init__(self, page: Page) -> None:
        self.subscriptions = PostgresSubscriptions(page)
        self.custom_plans = PostgresCustomPlans(page)
        self.entitlements = PostgresEntitlements(page)
        self.invoices = PostgresInvoices(page)
        self.closes = PostgresCloses(page)
        self.customer = PostgresCustomer(page)
        self.profile = PostgresProfile(page)
        self.coupons = PostgresRedemptions(page)
        self.credits = PostgresCredits(page)
        self.purchases = PostgresPurchases(page)
        self.credit_notes = PostgresCreditNotes(page)
        self.reconciliation = PostgresReconciliation(page)
        self.requests = PostgresRequests(page)
        self.payments = PostgresPayments(page)
        self.dunning = PostgresDunning(page)
        self.mails = PostgresMails(page)
        self.stripe_events = PostgresStripeEvents(page)


class PostgresBooks:
    """Books as the tenant role."""

    def __init__(self, tenant: Database) -> None:
        self._tenant = tenant

    @asynccontextmanager
    async def read(self, organization_id: str) -> AsyncIterator[PostgresBook]:
        """As Books."""
        async with self._tenant.transaction(organization_id=organization_id, snapshot=True) as connection:
            yield PostgresBook(Page(connection, organization_id))

    @asynccontextmanager
    async def open(self, organization_id: str) -> AsyncIterator[PostgresBook]:
        """As Books."""
        async with self._tenant.transaction(organization_id=organization_id) as connection:
            page = Page(connection, organization_id)
            await page.execute(_BEGIN_HEAD, page.names())
            await page.execute(_LOCK_HEAD, page.names())
            yield PostgresBook(page)


_BEGIN_HEAD = text("""
    INSERT INTO billing.change_heads (organization_id, sequence, commit_id) VALUES (:organization_id, 0, '')
    ON CONFLICT (organization_id) DO NOTHING
""")
_LOCK_HEAD = text("SELECT 1 FROM billing.change_heads WHERE organization_id = :organization_id FOR UPDATE")
