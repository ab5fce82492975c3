"""What the use cases of billing need of the world."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from kit.feed import Position
from kit.head_watch import Look
from services.billing.domain.catalog import CatalogChange, CatalogPlan, Meter, Plan
from services.billing.domain.closing import Closing, InvoicedUsage
from services.billing.domain.invoices import Invoice, InvoiceKey
from services.billing.domain.periods import Period
from services.billing.domain.stripe_events import StripeEvent, StripeInvoice
from services.billing.domain.subscriptions import Subscription, SubscriptionStatus


@dataclass(frozen=True, slots=True)
class UsageTotals:
    """Quantities by meter in base units, and the last event of the ledger that they include."""

    quantities: Mapping[str, int]
    as_of_sequence: int


class Usage(Protocol):
    """The usage ledger, as far as billing asks it."""

    async def totals(self, organization_id: str, period: Period, meters: Collection[str]) -> UsageTotals:
        """What was used of the meters within the period by event time, exactly, as recorded up to now. Raises
        DependencyUnavailable.
        """
        ...

    async def meters(self) -> Mapping[str, Meter]:
        """Every meter by name. Raises DependencyUnavailable."""
        ...


@dataclass(frozen=True, slots=True)
class LedgerHead:
    """The last event of an organization's ledger."""

    organization_id: str
    sequence: int


class InvoicedLedger(Protocol):
    """The usage ledgers, as far as they ask which events are invoiced."""

    def watch(self) -> AsyncIterator[Sequence[LedgerHead]]:
        """The heads of all ledgers first, then those that move. Ends, or raises DependencyUnavailable, when the
        connection does.
        """
        ...

    async def confirm(self, invoiced: Mapping[str, InvoicedUsage]) -> None:
        """Says what is needed no longer, by organization, in place of what was said before. Raises
        DependencyUnavailable.
        """
        ...


class Organizations(Protocol):
    """Knows which organizations exist."""

    async def create_time(self, organization_id: str) -> datetime:
        """When the organization was made. Raises OrganizationNotFound and DependencyUnavailable."""
        ...


class Plans(Protocol):
    """The plan catalog."""

    async def sold(self) -> Sequence[Plan]:
        """The newest version of every plan that is sold, cheapest first."""
        ...

    async def newest(self, plan_id: str) -> CatalogPlan | None:
        """The newest version of a plan, sold or not; None when there never was one."""
        ...

    async def version(self, plan_id: str, version: int) -> Plan:
        """The plan as it was sold then; versions never change."""
        ...

    async def apply(self, plans: Sequence[Plan], *, request_id: str, digest: bytes, actor: str) -> CatalogChange:
        """Makes sound plans the catalog, as `change_catalog` decides, in one transaction; concurrent ones take turns.

        The same request_id with the same digest applies nothing again and names the plans it changed the first time;
        with another one it raises RequestIdReused.
        """
        ...


@dataclass(frozen=True, slots=True)
class EntitlementEntry:
    """An entry of an organization's change log that put a subscription in force."""

    version: int
    plan_id: str
    plan_version: int
    status: SubscriptionStatus
    anchor: datetime


@dataclass(frozen=True, slots=True)
class EntitlementPage:
    """Entries in sequence, and the position after everything that was read."""

    entries: tuple[EntitlementEntry, ...]
    position: Position


class BookReader(Protocol):
    """One organization's books at one instant."""

    async def subscription_in_force(self) -> Subscription | None:
        """The one subscription in force; None before the first."""
        ...

    async def subscription(self, subscription_id: str) -> Subscription:
        """One subscription, in force or not. Raises NotFound."""
        ...

    async def invoice(self, invoice_id: str) -> Invoice:
        """One invoice. Raises NotFound, also for another organization's."""
        ...

    async def invoice_of_period(self, subscription_id: str, period: Period) -> Invoice | None:
        """The invoice that closed a period of a subscription."""
        ...

    async def invoices(self, *, before: InvoiceKey | None, count: int) -> Sequence[Invoice]:
        """Up to `count` invoices, newest first, from the newest or from the first one older than `before`."""
        ...

    async def closings(self) -> Sequence[Closing]:
        """How far each subscription's periods are closed, whether it is in force or not."""
        ...

    async def stripe_customer_id(self) -> str:
        """The organization's customer at Stripe; empty until known there."""
        ...

    async def answer_to(self, request_id: str, digest: bytes) -> str | None:
        """The id of what this request made when it came first; None when it never came. Raises RequestIdReused when it
        came with another digest.
        """
        ...

    async def head(self) -> Position:
        """The end of the change log."""
        ...

    async def entitlements(self, after: Position) -> EntitlementPage:
        """The entitlement entries after a position, up to the head. Raises LogRewound."""
        ...


class Book(BookReader, Protocol):
    """One organization's books, open for writing: everything or nothing of it is kept, and nobody else writes in them
    meanwhile. A change of the subscription or of an invoice's state is an entry of the change log beside it.
    """

    async def begin_subscription(self, subscription: Subscription, *, actor: str, request_id: str) -> Subscription:
        """Puts a subscription in force and ends the one that was. Answers it with its entitlement_version: the number
        of the entry that says so in the change log.
        """
        ...

    async def remember_answer(self, request_id: str, digest: bytes, result_id: str) -> None:
        """Keeps what a request made, for its retries."""
        ...

    async def finalize_invoice(self, invoice: Invoice, *, actor: str, request_id: str) -> Invoice:
        """Adds an invoice with the next number of the legal entity, and lists it for collection if there is anything
        to collect. To be called last: numbers are handed out one at a time, without a gap, until the books close.
        """
        ...

    async def set_stripe_customer(self, stripe_customer_id: str) -> None:
        """Keeps the organization's customer at Stripe; the first one stays."""
        ...

    async def set_collected(self, invoice_id: str, stripe_invoice_id: str) -> None:
        """Keeps that the invoice is at Stripe, and takes it off the list of what is to be collected."""
        ...

    async def set_paid(self, invoice_id: str, stripe_invoice_id: str) -> None:
        """Marks a finalized invoice paid; one that is paid already stays as it is."""
        ...

    async def set_event_handled(self, event_id: str, *, attempt_count: int, outcome: str) -> bool:
        """Marks a Stripe event handled together with its effect. False when the claim of that attempt is no longer
        ours or the event is handled already: then nothing else may be kept either, and the caller raises.
        """
        ...


class Books(Protocol):
    """The books of every organization."""

    def read(self, organization_id: str) -> AbstractAsyncContextManager[BookReader]:
        """Reads at one instant, without waiting for a writer."""
        ...

    def open(self, organization_id: str) -> AbstractAsyncContextManager[Book]:
        """One transaction with the books to oneself: kept at the end of the block, undone when it raises."""
        ...


class EntitlementHeads(Protocol):
    """How far every organization's change log reaches."""

    async def heads(self, mark: str) -> Look:
        """As kit.head_watch.ReadHeads."""
        ...


@dataclass(frozen=True, slots=True)
class CollectedInvoice:
    """An invoice that Stripe has taken."""

    stripe_invoice_id: str


class Collector(Protocol):
    """Collects what is invoiced: Stripe. Doing anything again, also after a crash or an unknown outcome, has one
    effect. `attempt_count` is 1 at the first try. Every call raises DependencyUnavailable when trying again later may
    help, and CollectionRefused when not.
    """

    async def ensure_customer(self, organization_id: str, *, attempt_count: int) -> str:
        """The organization's customer there, made if it is not."""
        ...

    async def collect(self, invoice: Invoice, stripe_customer_id: str, *, attempt_count: int) -> CollectedInvoice:
        """Hands over an invoice with our number and our lines, to be collected. It is finalized there only when the
        total is ours to the unit; otherwise it stays a draft and CollectionRefused says what differs.
        """
        ...

    async def look_up(self, stripe_invoice_id: str) -> StripeInvoice | None:
        """The state of an invoice there now; None when there is none."""
        ...


@dataclass(frozen=True, slots=True)
class DueInvoice:
    """An invoice that is to be handed to the collector, claimed for one attempt."""

    organization_id: str
    invoice_id: str
    attempt_count: int


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


@dataclass(frozen=True, slots=True)
class DueEvent:
    """A Stripe event that is to be handled, claimed for one attempt."""

    event_id: str
    type: str
    object_id: str
    attempt_count: int


class StripeInbox(Protocol):
    """Stripe's events: stored once, then handled. Across organizations."""

    async def store(self, event: StripeEvent, *, now: datetime) -> bool:
        """Stores an event under its id; False when it was there already. When it returns, the event is committed."""
        ...

    async def claim(self, *, now: datetime, count: int) -> Sequence[DueEvent]:
        """Claims up to `count` that are due, each for the lease. Of a lane only the oldest unhandled one can be
        claimed, so those of one lane are handled one after the other, in order of arrival.
        """
        ...

    async def retry(self, due: DueEvent, *, at: datetime, error: str) -> None:
        """Makes it due again at a time; the rest of its lane waits behind it."""
        ...

    async def set_handled(self, due: DueEvent, *, now: datetime, outcome: str) -> None:
        """Marks an event handled that has no effect."""
        ...
