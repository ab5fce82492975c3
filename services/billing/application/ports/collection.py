"""Collecting what is invoiced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from services.billing.domain.invoices import Invoice
from services.billing.domain.payments import Settlement
from services.billing.domain.profile import BY_CARD, BillingTerms
from services.billing.domain.stripe_objects import StripeInvoice


@dataclass(frozen=True, slots=True)
class CollectedInvoice:
    """An invoice that Stripe has taken."""

    stripe_invoice_id: str


class Collector(Protocol):
    """Collects what is invoiced: Stripe. Doing anything again, also after a crash or an unknown outcome, has one
    effect. `attempt_count` is 1 at the first try. Every call raises DependencyUnavailable when trying again later may
    help, and CollectionRefused when not.
    """

    async def collect(
        self, invoice: Invoice, stripe_customer_id: str, *, terms: BillingTerms = BY_CARD, attempt_count: int
    ) -> CollectedInvoice:
        """Hands over an invoice with our number and our lines, to be collected: from the card on file, or, when the
        terms say so, by a transfer that is due after their days; then no card is charged. It is finalized there only
        when the total is ours to the unit; otherwise it stays a draft and CollectionRefused says what differs. Raises
        CustomerGone when there is no such customer.
        """
        ...

    async def adopt(
        self, invoice: Invoice, stripe_invoice_id: str, *, terms: BillingTerms = BY_CARD, attempt_count: int
    ) -> CollectedInvoice:
        """As `collect`, on a draft that is there already: its lines give way to ours."""
        ...

    async def hold(self, stripe_invoice_id: str) -> StripeInvoice | None:
        """Keeps a draft from finalizing itself; answers the invoice as it is, None when there is none."""
        ...

    async def look_up(self, stripe_invoice_id: str) -> StripeInvoice | None:
        """The state of an invoice there now; None when there is none."""
        ...

    async def find(self, invoice: Invoice, stripe_customer_id: str) -> StripeInvoice | None:
        """The invoice of ours among a customer's there, in whatever state; None when it never arrived."""
        ...

    async def settle(self, stripe_invoice_id: str, settlement: Settlement) -> StripeInvoice:
        """Settles an invoice and answers it as it is then. What the collector no longer allows (it was paid at this
        very moment) changes nothing: the answer tells.
        """
        ...


@dataclass(frozen=True, slots=True)
class DueInvoice:
    """An invoice that is to be handed to the collector, claimed for one attempt."""

    organization_id: str
    invoice_id: str
    attempt_count: int


@dataclass(frozen=True, slots=True)
class Claim:
    """What came of claiming one invoice."""

    due: DueInvoice | None
    """It, claimed; None when it is not on the list, or somebody has it."""
    is_held: bool = False
    """Whether somebody else has it now."""


class CollectionList(Protocol):
    """The invoices that are still to be handed over; narrow, across organizations."""

    async def claim(self, *, now: datetime, count: int) -> Sequence[DueInvoice]:
        """Claims up to `count` that are due, each for the lease: two claimers never get the same within it."""
        ...

    async def retry(self, due: DueInvoice, *, at: datetime, error: str) -> None:
        """Makes it due again at a time."""
        ...

    async def park(self, due: DueInvoice, *, reason: str) -> None:
        """Sets it aside with a reason, until a person has looked."""
        ...

    async def claim_one(self, organization_id: str, invoice_id: str, *, now: datetime) -> Claim:
        """Claims one invoice, parked or not, to keep it from being handed over meanwhile."""
        ...
