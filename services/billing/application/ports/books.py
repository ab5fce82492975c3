"""An organization's books: what one transaction opens. One sub-book a noun."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from services.billing.application.ports.closes import CloseBook, CloseReader
from services.billing.application.ports.coupons import CouponBook, CouponReader
from services.billing.application.ports.credit_notes import CreditNoteBook, CreditNoteReader
from services.billing.application.ports.credits import CreditBook, CreditReader
from services.billing.application.ports.custom_plans import CustomPlanBook, CustomPlanReader
from services.billing.application.ports.customers import CustomerBook, CustomerReader
from services.billing.application.ports.dunning import DunningBook, DunningReader
from services.billing.application.ports.entitlements import EntitlementReader
from services.billing.application.ports.invoices import InvoiceBook, InvoiceReader
from services.billing.application.ports.mails import MailBook, MailReader
from services.billing.application.ports.payments import PaymentBook, PaymentReader
from services.billing.application.ports.profile import ProfileBook, ProfileReader
from services.billing.application.ports.purchases import PurchaseBook, PurchaseReader
from services.billing.application.ports.reconciliation import ReconciliationBook, ReconciliationReader
from services.billing.application.ports.requests import RequestBook, RequestReader
from services.billing.application.ports.stripe_events import StripeEventBook
from services.billing.application.ports.subscriptions import SubscriptionBook, SubscriptionReader


class BookReader(Protocol):
    """One organization's books at one instant."""

    @property
    def subscriptions(self) -> SubscriptionReader:
        """Its subscriptions."""
        ...

    @property
    def custom_plans(self) -> CustomPlanReader:
        """Its own terms."""
        ...

    @property
    def entitlements(self) -> EntitlementReader:
        """What its change log says of them."""
        ...

    @property
    def invoices(self) -> InvoiceReader:
        """Its invoices."""
        ...

    @property
    def closes(self) -> CloseReader:
        """The cuts that made them."""
        ...

    @property
    def customer(self) -> CustomerReader:
        """Itself, as Stripe's customer."""
        ...

    @property
    def profile(self) -> ProfileReader:
        """Who it is to those who bill it."""
        ...

    @property
    def coupons(self) -> CouponReader:
        """The coupons it redeemed."""
        ...

    @property
    def credits(self) -> CreditReader:
        """Its prepaid credits."""
        ...

    @property
    def purchases(self) -> PurchaseReader:
        """What it bought of them."""
        ...

    @property
    def credit_notes(self) -> CreditNoteReader:
        """What was taken back of its invoices."""
        ...

    @property
    def payments(self) -> PaymentReader:
        """What became of its invoices at Stripe."""
        ...

    @property
    def dunning(self) -> DunningReader:
        """The dunning of what could not be collected."""
        ...

    @property
    def mails(self) -> MailReader:
        """What it is written."""
        ...

    @property
    def reconciliation(self) -> ReconciliationReader:
        """What reconciling it found."""
        ...

    @property
    def requests(self) -> RequestReader:
        """The requests that were done."""
        ...


class Book(BookReader, Protocol):
    """One organization's books, open for writing: everything or nothing of it is kept, and nobody else writes in them
    meanwhile. A change of the subscription or of an invoice's state is an entry of the change log beside it.
    """

    @property
    def subscriptions(self) -> SubscriptionBook:
        """Its subscriptions."""
        ...

    @property
    def custom_plans(self) -> CustomPlanBook:
        """Its own terms."""
        ...

    @property
    def invoices(self) -> InvoiceBook:
        """Its invoices."""
        ...

    @property
    def closes(self) -> CloseBook:
        """The cuts that made them."""
        ...

    @property
    def customer(self) -> CustomerBook:
        """Itself, as Stripe's customer."""
        ...

    @property
    def profile(self) -> ProfileBook:
        """Who it is to those who bill it."""
        ...

    @property
    def coupons(self) -> CouponBook:
        """The coupons it redeemed."""
        ...

    @property
    def credits(self) -> CreditBook:
        """Its prepaid credits."""
        ...

    @property
    def purchases(self) -> PurchaseBook:
        """What it bought of them."""
        ...

    @property
    def credit_notes(self) -> CreditNoteBook:
        """What was taken back of its invoices."""
        ...

    @property
    def payments(self) -> PaymentBook:
        """What became of its invoices at Stripe."""
        ...

    @property
    def dunning(self) -> DunningBook:
        """The dunning of what could not be collected."""
        ...

    @property
    def mails(self) -> MailBook:
        """What it is written."""
        ...

    @property
    def reconciliation(self) -> ReconciliationBook:
        """What reconciling it found."""
        ...

    @property
    def requests(self) -> RequestBook:
        """The requests that were done."""
        ...

    @property
    def stripe_events(self) -> StripeEventBook:
        """The Stripe event whose effect is being written."""
        ...


class Books(Protocol):
    """The books of every organization."""

    def read(self, organization_id: str) -> AbstractAsyncContextManager[BookReader]:
        """Reads at one instant, without waiting for a writer."""
        ...

    def open(self, organization_id: str) -> AbstractAsyncContextManager[Book]:
        """One transaction with the books to oneself: kept at the end of the block, undone when it raises."""
        ...
