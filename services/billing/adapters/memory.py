"""Billing in memory, for tests of what stands on it; it keeps the promises of the ports."""

from __future__ import annotations

import asyncio
import copy
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from kit.errors import LogRewound, NotFound, OrganizationNotFound, RequestIdReused
from kit.feed import START, Head, Position
from kit.head_watch import Look
from services.billing.application.ports import (
    CollectedInvoice,
    DueEvent,
    DueInvoice,
    EntitlementEntry,
    EntitlementPage,
    UsageTotals,
)
from services.billing.domain import limits
from services.billing.domain.catalog import CatalogChange, CatalogPlan, Meter, Plan, change_catalog, cheapest_first
from services.billing.domain.closing import Closing
from services.billing.domain.errors import CollectionRefused
from services.billing.domain.invoices import Invoice, InvoiceKey, InvoiceState, invoice_number
from services.billing.domain.periods import Period
from services.billing.domain.stripe_events import StripeEvent, StripeInvoice
from services.billing.domain.subscriptions import Subscription, SubscriptionStatus


@dataclass(frozen=True, slots=True)
class _Answer:
    digest: bytes
    result_id: str


@dataclass(frozen=True, slots=True)
class _Entry:
    position: Position
    entitlement: EntitlementEntry | None


@dataclass(slots=True)
class _Pages:
    """What is written in one organization's books."""

    subscriptions: dict[str, Subscription] = field(default_factory=dict)
    ends: dict[str, datetime] = field(default_factory=dict)
    invoices: dict[str, Invoice] = field(default_factory=dict)
    answers: dict[str, _Answer] = field(default_factory=dict)
    changes: list[_Entry] = field(default_factory=list)
    stripe_customer_id: str = ""


@dataclass(slots=True)
class _Due:
    due: DueInvoice
    next_attempt_time: datetime
    parked_reason: str = ""


@dataclass(slots=True)
class _Waiting:
    event: StripeEvent
    next_attempt_time: datetime
    attempt_count: int = 0
    outcome: str = ""
    """Empty until it is handled."""


@dataclass(slots=True)
class _World:
    """Everything that one transaction may change."""

    pages: defaultdict[str, _Pages] = field(default_factory=lambda: defaultdict(_Pages))
    due: dict[tuple[str, str], _Due] = field(default_factory=dict)
    events: dict[str, _Waiting] = field(default_factory=dict)
    last_number: int = 0


class MemoryBooks:
    """Books, EntitlementHeads, CollectionList and StripeInbox over dictionaries. One writer at a time, on a copy that
    becomes the truth when the books are closed.
    """

    def __init__(self) -> None:
        self._world = _World()
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def read(self, organization_id: str) -> AsyncIterator[MemoryBookReader]:
        """As Books."""
        yield MemoryBookReader(copy.deepcopy(self._world), organization_id)

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

    @property
    def collection_list(self) -> MemoryCollectionList:
        """The list of what is to be collected."""
        return MemoryCollectionList(self)

    @property
    def inbox(self) -> MemoryStripeInbox:
        """Stripe's events."""
        return MemoryStripeInbox(self)

    @asynccontextmanager
    async def everything(self) -> AsyncIterator[_World]:
        """All organizations, with everything to oneself."""
        async with self._turn:
            yield self._world


class MemoryBookReader:
    """BookReader over a copy."""

    def __init__(self, world: _World, organization_id: str) -> None:
        self._world = world
        self._pages = world.pages[organization_id]
        self._organization_id = organization_id

    async def subscription_in_force(self) -> Subscription | None:
        """As BookReader."""
        for subscription in self._pages.subscriptions.values():
            if subscription.status is not SubscriptionStatus.CANCELED:
                return self._known_at_stripe(subscription)
        return None

    async def subscription(self, subscription_id: str) -> Subscription:
        """As BookReader."""
        if subscription_id not in self._pages.subscriptions:
            raise NotFound(what="subscription", name=subscription_id)
        return self._known_at_stripe(self._pages.subscriptions[subscription_id])

    async def invoice(self, invoice_id: str) -> Invoice:
        """As BookReader."""
        if invoice_id not in self._pages.invoices:
            raise NotFound(what="invoice", name=invoice_id)
        return self._pages.invoices[invoice_id]

    async def invoice_of_period(self, subscription_id: str, period: Period) -> Invoice | None:
        """As BookReader."""
        for invoice in self._pages.invoices.values():
            if (invoice.subscription_id, invoice.period.start) == (subscription_id, period.start):
                return invoice
        return None

    async def invoices(self, *, before: InvoiceKey | None, count: int) -> Sequence[Invoice]:
        """As BookReader."""
        keyed = {(each.finalize_time, each.invoice_id): each for each in self._pages.invoices.values()}
        newest_first = sorted(keyed, reverse=True)
        if before is not None:
            newest_first = [key for key in newest_first if key < (before.finalize_time, before.invoice_id)]
        return [keyed[key] for key in newest_first[:count]]

    async def closings(self) -> Sequence[Closing]:
        """As BookReader."""
        return [
            Closing(
                plan_id=each.plan_id,
                plan_version=each.plan_version,
                anchor=each.anchor,
                end_time=self._pages.ends.get(each.subscription_id),
                closed_through={
                    invoice.period.start: invoice.closed_through_sequence
                    for invoice in self._pages.invoices.values()
                    if invoice.subscription_id == each.subscription_id
                },
            )
            for each in self._pages.subscriptions.values()
        ]

    async def stripe_customer_id(self) -> str:
        """As BookReader."""
        return self._pages.stripe_customer_id

    async def answer_to(self, request_id: str, digest: bytes) -> str | None:
        """As BookReader."""
        answer = self._pages.answers.get(request_id)
        if answer is None:
            return None
        if answer.digest != digest:
            raise RequestIdReused(request_id=request_id)
        return answer.result_id

    async def head(self) -> Position:
        """As BookReader."""
        return self._pages.changes[-1].position if self._pages.changes else START

    async def entitlements(self, after: Position) -> EntitlementPage:
        """As BookReader."""
        changes = self._pages.changes
        if after.sequence and after not in [change.position for change in changes]:
            raise LogRewound(sequence=after.sequence)
        later = changes[after.sequence :]
        entries = tuple(change.entitlement for change in later if change.entitlement is not None)
        return EntitlementPage(entries, later[-1].position if later else after)

    def _known_at_stripe(self, subscription: Subscription) -> Subscription:
        return replace(subscription, stripe_customer_id=self._pages.stripe_customer_id)


class MemoryBook(MemoryBookReader):
    """Book over the copy that becomes the truth."""

    async def begin_subscription(self, subscription: Subscription, *, actor: str, request_id: str) -> Subscription:  # noqa: ARG002
        """As Book."""
        current = await self.subscription_in_force()
        if current is not None:
            ended = replace(current, status=SubscriptionStatus.CANCELED)
            self._pages.subscriptions[current.subscription_id] = ended
            self._pages.ends[current.subscription_id] = datetime.now(UTC)
        version = len(self._pages.changes) + 1
        entry = EntitlementEntry(
            version=version,
            plan_id=subscription.plan_id,
            plan_version=subscription.plan_version,
            status=subscription.status,
            anchor=subscription.anchor,
        )
        self._change(entry)
        begun = replace(subscription, entitlement_version=version)
        self._pages.subscriptions[begun.subscription_id] = begun
        return self._known_at_stripe(begun)

    async def remember_answer(self, request_id: str, digest: bytes, result_id: str) -> None:
        """As Book."""
        self._pages.answers[request_id] = _Answer(digest, result_id)

    async def finalize_invoice(self, invoice: Invoice, *, actor: str, request_id: str) -> Invoice:  # noqa: ARG002
        """As Book."""
        self._change(None)
        self._world.last_number += 1
        numbered = replace(invoice, number=invoice_number("TB", self._world.last_number))
        self._pages.invoices[invoice.invoice_id] = numbered
        if invoice.is_collectable and invoice.finalize_time is not None:
            due = DueInvoice(self._organization_id, invoice.invoice_id, 0)
            self._world.due[self._organization_id, invoice.invoice_id] = _Due(due, invoice.finalize_time)
        return numbered

    async def set_stripe_customer(self, stripe_customer_id: str) -> None:
        """As Book."""
        self._pages.stripe_customer_id = self._pages.stripe_customer_id or stripe_customer_id

    async def set_collected(self, invoice_id: str, stripe_invoice_id: str) -> None:
        """As Book."""
        invoice = await self.invoice(invoice_id)
        self._pages.invoices[invoice_id] = replace(invoice, stripe_invoice_id=stripe_invoice_id)
        self._world.due.pop((self._organization_id, invoice_id), None)

    async def set_paid(self, invoice_id: str, stripe_invoice_id: str) -> None:
        """As Book."""
        invoice = await self.invoice(invoice_id)
        if invoice.state is InvoiceState.FINALIZED:
            paid = replace(invoice, state=InvoiceState.PAID, stripe_invoice_id=stripe_invoice_id)
            self._pages.invoices[invoice_id] = paid
            self._change(None)

    async def set_event_handled(self, event_id: str, *, attempt_count: int, outcome: str) -> bool:
        """As Book."""
        waiting = self._world.events[event_id]
        if waiting.outcome or waiting.attempt_count != attempt_count:
            return False
        waiting.outcome = outcome
        return True

    def _change(self, entitlement: EntitlementEntry | None) -> None:
        position = Position(len(self._pages.changes) + 1, secrets.token_hex(8))
        self._pages.changes.append(_Entry(position, entitlement))


class MemoryCollectionList:
    """CollectionList over the books in memory."""

    def __init__(self, books: MemoryBooks) -> None:
        self._books = books

    async def claim(self, *, now: datetime, count: int) -> Sequence[DueInvoice]:
        """As CollectionList."""
        async with self._books.everything() as world:
            ready = [each for each in world.due.values() if not each.parked_reason and each.next_attempt_time <= now]
            chosen = sorted(ready, key=lambda each: each.next_attempt_time)[:count]
            for each in chosen:
                each.due = replace(each.due, attempt_count=each.due.attempt_count + 1)
                each.next_attempt_time = now + limits.CLAIM_LEASE
            return [each.due for each in chosen]

    async def retry(self, due: DueInvoice, *, at: datetime, error: str) -> None:  # noqa: ARG002
        """As CollectionList."""
        async with self._books.everything() as world:
            held = world.due.get((due.organization_id, due.invoice_id))
            if held is not None and held.due == due:
                held.next_attempt_time = at

    async def park(self, due: DueInvoice, *, reason: str) -> None:
        """As CollectionList."""
        async with self._books.everything() as world:
            held = world.due.get((due.organization_id, due.invoice_id))
            if held is not None and held.due == due:
                held.parked_reason = reason


class MemoryStripeInbox:
    """StripeInbox over the books in memory."""

    def __init__(self, books: MemoryBooks) -> None:
        self._books = books

    async def store(self, event: StripeEvent, *, now: datetime) -> bool:
        """As StripeInbox."""
        async with self._books.everything() as world:
            if event.event_id in world.events:
                return False
            world.events[event.event_id] = _Waiting(event, now)
            return True

    async def claim(self, *, now: datetime, count: int) -> Sequence[DueEvent]:
        """As StripeInbox."""
        async with self._books.everything() as world:
            first_of_lane: dict[str, _Waiting] = {}
            for each in world.events.values():
                if not each.outcome:
                    first_of_lane.setdefault(each.event.lane, each)
            chosen = [each for each in first_of_lane.values() if each.next_attempt_time <= now][:count]
            for each in chosen:
                each.attempt_count += 1
                each.next_attempt_time = now + limits.CLAIM_LEASE
            return [
                DueEvent(each.event.event_id, each.event.type, each.event.object_id, each.attempt_count)
                for each in chosen
            ]

    async def retry(self, due: DueEvent, *, at: datetime, error: str) -> None:  # noqa: ARG002
        """As StripeInbox."""
        async with self._books.everything() as world:
            waiting = world.events[due.event_id]
            if not waiting.outcome and waiting.attempt_count == due.attempt_count:
                waiting.next_attempt_time = at

    async def set_handled(self, due: DueEvent, *, now: datetime, outcome: str) -> None:  # noqa: ARG002
        """As StripeInbox."""
        async with self._books.everything() as world:
            waiting = world.events[due.event_id]
            if not waiting.outcome and waiting.attempt_count == due.attempt_count:
                waiting.outcome = outcome


class MemoryPlans:
    """Plans over dictionaries."""

    def __init__(self) -> None:
        self._versions: dict[tuple[str, int], Plan] = {}
        self._newest: dict[str, CatalogPlan] = {}
        self._answers: dict[str, tuple[bytes, CatalogChange]] = {}

    async def sold(self) -> Sequence[Plan]:
        """As Plans."""
        return cheapest_first([entry.plan for entry in self._newest.values() if entry.is_sold])

    async def newest(self, plan_id: str) -> CatalogPlan | None:
        """As Plans."""
        return self._newest.get(plan_id)

    async def version(self, plan_id: str, version: int) -> Plan:
        """As Plans."""
        return self._versions[plan_id, version]

    async def apply(self, plans: Sequence[Plan], *, request_id: str, digest: bytes, actor: str) -> CatalogChange:  # noqa: ARG002
        """As Plans."""
        if request_id in self._answers:
            first_digest, first = self._answers[request_id]
            if first_digest != digest:
                raise RequestIdReused(request_id=request_id)
            changed = tuple(self._newest[plan.plan_id].plan for plan in first.changed)
            return CatalogChange(tuple(await self.sold()), changed, first.withdrawn)
        change = change_catalog(plans, self._newest)
        for plan in change.sold:
            self._versions[plan.plan_id, plan.version] = plan
            self._newest[plan.plan_id] = CatalogPlan(plan, is_sold=True)
        for plan_id in change.withdrawn:
            self._newest[plan_id] = replace(self._newest[plan_id], is_sold=False)
        self._answers[request_id] = (digest, change)
        return change


class MemoryUsage:
    """Usage that a test sets."""

    def __init__(self, *meters: Meter) -> None:
        self._meters = {meter.name: meter for meter in meters}
        self.used: dict[str, UsageTotals] = {}
        """By organization, whatever the period."""

    async def totals(self, organization_id: str, period: Period, meters: Collection[str]) -> UsageTotals:  # noqa: ARG002
        """As Usage."""
        used = self.used.get(organization_id, UsageTotals({}, 0))
        of_meters = {meter: quantity for meter, quantity in used.quantities.items() if meter in meters}
        return UsageTotals(of_meters, used.as_of_sequence)

    async def meters(self) -> Mapping[str, Meter]:
        """As Usage."""
        return self._meters


class MemoryOrganizations:
    """Organizations that a test names."""

    def __init__(self, create_times: Mapping[str, datetime]) -> None:
        self._create_times = create_times

    async def create_time(self, organization_id: str) -> datetime:
        """As Organizations."""
        if organization_id not in self._create_times:
            raise OrganizationNotFound(organization_id=organization_id)
        return self._create_times[organization_id]


class MemoryCollector:
    """A collector that a test looks into."""

    def __init__(self) -> None:
        self.invoices: dict[str, StripeInvoice] = {}
        """By their id there."""
        self.refusal = ""
        """Why it takes no invoice; empty: it does."""

    async def ensure_customer(self, organization_id: str, *, attempt_count: int) -> str:  # noqa: ARG002
        """As Collector."""
        return f"cus_{organization_id}"

    async def collect(self, invoice: Invoice, stripe_customer_id: str, *, attempt_count: int) -> CollectedInvoice:  # noqa: ARG002
        """As Collector."""
        if self.refusal:
            raise CollectionRefused(self.refusal)
        stripe_invoice_id = f"in_{invoice.invoice_id}"
        taken = StripeInvoice(
            stripe_invoice_id=stripe_invoice_id,
            organization_id=invoice.organization_id,
            invoice_id=invoice.invoice_id,
            total_minor=invoice.total.minor,
            currency_code=invoice.total.currency_code,
            is_paid=False,
        )
        self.invoices.setdefault(stripe_invoice_id, taken)
        return CollectedInvoice(stripe_invoice_id)

    async def look_up(self, stripe_invoice_id: str) -> StripeInvoice | None:
        """As Collector."""
        return self.invoices.get(stripe_invoice_id)
