"""Reconciliation: what our record and Stripe's say of one organization, compared both ways.

Pure: two records in, what differs out. Each difference has one repair, which is only proposed; applying it makes the
next comparison clean. What is so young that work under way will settle it is pending, and no drift.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from kit.clock import unix_microseconds
from kit.money import Money
from services.billing.domain import limits
from services.billing.domain.invoices import Invoice, InvoiceState, can_become
from services.billing.domain.payments import CollectedLine, lines_that_fit, state_told
from services.billing.domain.periods import Period
from services.billing.domain.stripe_objects import StripeInvoice, StripeInvoiceStatus, StripeRefund

_REPLACEMENT = "-R"
_OPEN = frozenset({InvoiceState.FINALIZED, InvoiceState.PAST_DUE})
_IN_FORCE = frozenset({StripeInvoiceStatus.OPEN, StripeInvoiceStatus.PAID, StripeInvoiceStatus.UNCOLLECTIBLE})
_SCALES = (100, 1000)
_NOT_GONE_BACK = frozenset({"failed", "canceled"})
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class DriftKind(Enum):
    """How the two records differ."""

    CUSTOMER_MISSING = "CUSTOMER_MISSING"
    """The customer that we keep was deleted at Stripe."""
    INVOICE_MISSING = "INVOICE_MISSING"
    """An invoice of ours is not at Stripe, and nothing is under way to bring it there."""
    INVOICE_EXTRA = "INVOICE_EXTRA"
    """Stripe charges our customer for an invoice that is none of ours."""
    INVOICE_TWICE = "INVOICE_TWICE"
    """An invoice of ours is at Stripe more than once."""
    CURRENCY_DIFFERS = "CURRENCY_DIFFERS"
    AMOUNT_SCALED = "AMOUNT_SCALED"
    """The total is a hundred or a thousand times the other: somebody took major units for the smallest."""
    AMOUNT_DIFFERS = "AMOUNT_DIFFERS"
    LINES_DIFFER = "LINES_DIFFER"
    """A line is missing, there is one too many, or one says another amount."""
    PERIOD_DIFFERS = "PERIOD_DIFFERS"
    """A line is for another time."""
    NUMBER_DIFFERS = "NUMBER_DIFFERS"
    NUMBER_TWICE = "NUMBER_TWICE"
    """Stripe shows it under the number of another one."""
    PAYMENT_UNSEEN = "PAYMENT_UNSEEN"
    """Paid at Stripe, and open here."""
    STATUS_UNSEEN = "STATUS_UNSEEN"
    """Voided, given up or failed at Stripe, and not so here."""
    STATUS_REGRESSED = "STATUS_REGRESSED"
    """Settled here, and open (or settled otherwise) at Stripe."""
    PAID_THOUGH_VOID = "PAID_THOUGH_VOID"
    """Paid at Stripe, and void here."""
    PAYMENT_EXTRA = "PAYMENT_EXTRA"
    """Money was taken twice for an invoice, or for none."""
    REFUND_UNSEEN = "REFUND_UNSEEN"
    """Money went back, and we do not know, or know another state of it."""
    USAGE_DIFFERS = "USAGE_DIFFERS"
    """An invoice counts another quantity than the ledger did, as of what the invoice could see."""
    USAGE_NOT_INVOICED = "USAGE_NOT_INVOICED"
    """Usage of a closed period is on no invoice, and no cut to come looks at that period."""


class Repair(Enum):
    """What would end a difference."""

    FORGET_CUSTOMER = "FORGET_CUSTOMER"
    """Forgets the customer: the next collection makes another one."""
    COLLECT = "COLLECT"
    """Hands the invoice to Stripe, in place of what is there of it."""
    FOLLOW_STRIPE = "FOLLOW_STRIPE"
    """Takes over what Stripe says of the payment."""
    SETTLE_AT_STRIPE = "SETTLE_AT_STRIPE"
    """Settles it there as it is settled here."""
    VOID_AT_STRIPE = "VOID_AT_STRIPE"
    """Voids it there, or deletes it while it is a draft."""
    REFUND_AT_STRIPE = "REFUND_AT_STRIPE"
    """Gives the money back to where it came from."""
    KEEP_REFUND = "KEEP_REFUND"
    """Writes the refund down here."""
    CLOSE_AGAIN = "CLOSE_AGAIN"
    """Has the period looked at again: the difference is invoiced."""
    ACCEPT = "ACCEPT"
    """Cannot be undone by itself: somebody has looked, and it is not told again while it stays as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OurInvoice:
    """An invoice in our record."""

    invoice: Invoice
    is_on_its_way: bool
    """Whether it is still on the list of what is handed over, or parked there with a reason."""
    refunds: tuple[StripeRefund, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OurRecord:
    """What we know of an organization."""

    organization_id: str
    stripe_customer_id: str
    """Empty: none is known, and none is expected."""
    invoices: tuple[OurInvoice, ...]


@dataclass(frozen=True, slots=True)
class TheirRefund:
    """Money that went back."""

    refund: StripeRefund
    create_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TheirCharge:
    """Money that was taken."""

    stripe_charge_id: str
    stripe_invoice_id: str
    """What it pays; empty: no invoice."""
    amount: Money
    refunds: tuple[TheirRefund, ...]
    create_time: datetime

    @property
    def kept_minor(self) -> int:
        """What of it was not given back."""
        back = [each.refund.amount_minor for each in self.refunds if each.refund.status not in _NOT_GONE_BACK]
        return self.amount.minor - sum(back)


@dataclass(frozen=True, slots=True, kw_only=True)
class TheirInvoice:
    """An invoice at Stripe, with all of its lines."""

    invoice: StripeInvoice
    lines: tuple[CollectedLine, ...]
    change_time: datetime
    """When its status became what it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TheirRecord:
    """What Stripe knows of an organization."""

    is_customer_there: bool
    """Whether the customer that we keep is there and not deleted."""
    invoices: tuple[TheirInvoice, ...]
    charges: tuple[TheirCharge, ...]
    """Successful ones, oldest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that is not the same on both sides."""

    kind: DriftKind
    organization_id: str
    object_id: str
    """Of ours: the invoice, or the subscription whose usage it is; empty when it is Stripe's alone."""
    stripe_id: str
    """Of Stripe's: invoice, customer, charge or refund; empty when it is ours alone."""
    ours: str
    """What we say, in words."""
    theirs: str
    """What Stripe, or the ledger, says."""
    our_amount: Money | None
    their_amount: Money | None
    repair: Repair
    since: datetime
    """When it came about, at the earliest."""
    period_start: datetime | None = None
    """The period to be looked at again, where that is the repair."""

    @property
    def difference_id(self) -> str:
        """The same difference has the same id at every look, and another one as soon as anything of it changes."""
        what = [self.kind.value, self.organization_id, self.object_id, self.stripe_id, self.ours, self.theirs]
        amounts = [str(self.our_amount), str(self.their_amount), str(self.period_start)]
        return f"dif_{hashlib.sha256(json.dumps([*what, *amounts]).encode()).hexdigest()[:24]}"

    def is_pending(self, now: datetime) -> bool:
        """Whether work under way (a collection, an event that is tried again) may still end it."""
        return self.since + limits.RECONCILE_PENDING > now


_Content = tuple[DriftKind, tuple[str, str]]
"""How what is charged differs: what we say, and what they say."""


def differences(ours: OurRecord, theirs: TheirRecord) -> tuple[Difference, ...]:
    """What differs, each once, in no order."""
    return tuple(_differences(ours, theirs))


def number_there(number: str, taken: Sequence[str]) -> str:
    """The number that an invoice gets at Stripe, where one is taken for ever: ours, or with a suffix that counts."""
    found, count = number, 1
    while found in taken:
        count += 1
        found = f"{number}{_REPLACEMENT}{count}"
    return found


def _differences(ours: OurRecord, theirs: TheirRecord) -> Iterator[Difference]:
    if ours.stripe_customer_id and not theirs.is_customer_there:
        yield _customer_missing(ours)
    by_invoice: dict[str, list[TheirInvoice]] = {}
    known = {each.invoice.invoice_id: each for each in ours.invoices}
    for there in theirs.invoices:
        if there.invoice.invoice_id in known:
            by_invoice.setdefault(there.invoice.invoice_id, []).append(there)
        elif _charges_for_nothing(there, theirs.charges):
            yield _extra(DriftKind.INVOICE_EXTRA, ours.organization_id, there, "")
    numbers = Counter(each.invoice.number for each in theirs.invoices if each.invoice.number)
    for our in ours.invoices:
        found = by_invoice.get(our.invoice.invoice_id, [])
        kept = _kept(our.invoice, found)
        for there in found:
            if there is not kept and _charges_for_nothing(there, theirs.charges):
                yield _extra(DriftKind.INVOICE_TWICE, ours.organization_id, there, our.invoice.invoice_id)
        yield from _of_invoice(our, kept, numbers, theirs.charges)
    yield from _refunds(ours, theirs)
    yield from _extra_payments(ours, theirs)


def _kept(invoice: Invoice, found: Sequence[TheirInvoice]) -> TheirInvoice | None:
    """Which of several is the one: that we wrote down, else one that is in force."""
    order = (invoice.stripe_invoice_id, *(each.invoice.stripe_invoice_id for each in found if _is_in_force(each)))
    by_id = {each.invoice.stripe_invoice_id: each for each in found}
    return next((by_id[each] for each in order if each in by_id), found[0] if found else None)


def _is_in_force(there: TheirInvoice) -> bool:
    return there.invoice.status in _IN_FORCE


def _charges_for_nothing(there: TheirInvoice, charges: Sequence[TheirCharge]) -> bool:
    """Whether what is there without one of ours asks for money, or has taken some."""
    match there.invoice.status:
        case StripeInvoiceStatus.DRAFT:
            # What Stripe drafts for a subscription waits for the invoice of ours that goes onto it.
            return not there.invoice.stripe_subscription_id
        case StripeInvoiceStatus.OPEN:
            return there.invoice.total_minor > 0
        case StripeInvoiceStatus.PAID:
            return _kept_of(there, charges) > 0
    return False


def _kept_of(there: TheirInvoice, charges: Sequence[TheirCharge]) -> int:
    return sum(each.kept_minor for each in charges if each.stripe_invoice_id == there.invoice.stripe_invoice_id)


def _customer_missing(ours: OurRecord) -> Difference:
    return Difference(
        kind=DriftKind.CUSTOMER_MISSING,
        organization_id=ours.organization_id,
        object_id="",
        stripe_id=ours.stripe_customer_id,
        ours="known",
        theirs="deleted",
        our_amount=None,
        their_amount=None,
        repair=Repair.FORGET_CUSTOMER,
        # Nothing under way would find it out before the next invoice does.
        since=_LONG_AGO,
    )


def _extra(kind: DriftKind, organization_id: str, there: TheirInvoice, invoice_id: str) -> Difference:
    is_paid = there.invoice.status is StripeInvoiceStatus.PAID
    return Difference(
        kind=kind,
        organization_id=organization_id,
        object_id=invoice_id,
        stripe_id=there.invoice.stripe_invoice_id,
        ours="elsewhere" if invoice_id else "none",
        theirs=f"{there.invoice.status.value} {there.invoice.number}".strip(),
        our_amount=None,
        their_amount=_total(there),
        repair=Repair.REFUND_AT_STRIPE if is_paid else Repair.VOID_AT_STRIPE,
        since=there.change_time,
    )


def _of_invoice(
    our: OurInvoice, there: TheirInvoice | None, numbers: Mapping[str, int], charges: Sequence[TheirCharge]
) -> Iterator[Difference]:
    invoice = our.invoice
    if our.is_on_its_way or not invoice.is_collectable:
        return
    if there is None or there.invoice.status is StripeInvoiceStatus.DRAFT:
        # What was settled before it was handed over is not expected there, and neither is what was taken back.
        if invoice.state in _OPEN or (invoice.stripe_invoice_id and invoice.state is not InvoiceState.VOID):
            repair = Repair.COLLECT if invoice.state in _OPEN else Repair.ACCEPT
            yield _between(DriftKind.INVOICE_MISSING, invoice, there, ("handed over", "missing"), repair)
        return
    yield from _status(invoice, there, charges)
    is_void = invoice.state is InvoiceState.VOID or there.invoice.status is StripeInvoiceStatus.VOID
    content = None if is_void else _content(invoice, there, numbers)
    if content is not None:
        kind, said = content
        is_open = invoice.state in _OPEN and there.invoice.status is StripeInvoiceStatus.OPEN
        yield _between(kind, invoice, there, said, Repair.COLLECT if is_open else Repair.ACCEPT)


def _status(invoice: Invoice, there: TheirInvoice, charges: Sequence[TheirCharge]) -> Iterator[Difference]:
    told, state = state_told(there.invoice), invoice.state
    said = (state.value, there.invoice.status.value)
    if told == state or (told is None and state in _OPEN):
        return
    if told is not None and can_become(state, told):
        kind = DriftKind.PAYMENT_UNSEEN if told is InvoiceState.PAID else DriftKind.STATUS_UNSEEN
        yield _between(kind, invoice, there, said, Repair.FOLLOW_STRIPE)
    elif told is InvoiceState.PAID:
        if _kept_of(there, charges) > 0:
            yield _between(DriftKind.PAID_THOUGH_VOID, invoice, there, said, Repair.REFUND_AT_STRIPE)
    else:
        repair = Repair.ACCEPT if told is InvoiceState.VOID else Repair.SETTLE_AT_STRIPE
        yield _between(DriftKind.STATUS_REGRESSED, invoice, there, said, repair)


def _content(invoice: Invoice, there: TheirInvoice, numbers: Mapping[str, int]) -> _Content | None:
    """The first of what differs in what is charged; the repair of all of them is the same."""
    theirs = there.invoice
    total, found = invoice.total.minor, theirs.total_minor
    if theirs.currency_code != invoice.total.currency_code:
        return DriftKind.CURRENCY_DIFFERS, (invoice.total.currency_code, theirs.currency_code)
    if total and any(found == total * scale or total == found * scale for scale in _SCALES):
        return DriftKind.AMOUNT_SCALED, ("the total", "the total, scaled")
    if total != found:
        return DriftKind.AMOUNT_DIFFERS, ("the total", "another total")
    if theirs.stripe_subscription_id and theirs.number != invoice.number:
        # Stripe finalized its own draft before we could fill it: it has Stripe's number and lines, and our total.
        return None
    return _lines(lines_that_fit(invoice.lines), there.lines) or _number(invoice.number, theirs.number, numbers)


def _number(ours: str, theirs: str, numbers: Mapping[str, int]) -> _Content | None:
    if theirs == ours or theirs.startswith(ours + _REPLACEMENT):
        return None
    return DriftKind.NUMBER_TWICE if numbers[theirs] > 1 else DriftKind.NUMBER_DIFFERS, (ours, theirs)


def _lines(ours: Sequence[CollectedLine], theirs: Sequence[CollectedLine]) -> _Content | None:
    expected, found = Counter(map(_line, ours)), Counter(map(_line, theirs))
    if expected == found:
        return None
    lost, added = list((expected - found).elements()), list((found - expected).elements())
    kind = DriftKind.LINES_DIFFER
    if sorted(each[:2] for each in lost) == sorted(each[:2] for each in added):
        kind = DriftKind.PERIOD_DIFFERS
    return kind, (f"{len(ours)} lines, {len(lost)} only here", f"{len(theirs)} lines, {len(added)} only there")


def _line(line: CollectedLine) -> tuple[int, str, int, int]:
    return line.amount_minor, line.description, _seconds(line.period.start), _seconds(line.period.end)


def _seconds(moment: datetime) -> int:
    return unix_microseconds(moment) // 1_000_000


def _between(
    kind: DriftKind, invoice: Invoice, there: TheirInvoice | None, said: tuple[str, str], repair: Repair
) -> Difference:
    """A difference of an invoice that both sides may have. said: what we say, and what they say."""
    since = invoice.finalize_time or _LONG_AGO
    return Difference(
        kind=kind,
        organization_id=invoice.organization_id,
        object_id=invoice.invoice_id,
        stripe_id=there.invoice.stripe_invoice_id if there else invoice.stripe_invoice_id,
        ours=said[0],
        theirs=said[1],
        our_amount=invoice.total,
        their_amount=_total(there) if there else None,
        repair=repair,
        since=max(since, there.change_time) if there else since,
    )


def _total(there: TheirInvoice) -> Money:
    return Money(there.invoice.total_minor, there.invoice.currency_code)


def _refunds(ours: OurRecord, theirs: TheirRecord) -> Iterator[Difference]:
    """Money that went back of what pays an invoice of ours."""
    invoice_of = {each.invoice.stripe_invoice_id: each.invoice.invoice_id for each in theirs.invoices}
    known = {each.invoice.invoice_id: each for each in ours.invoices}
    for charge in theirs.charges:
        our = known.get(invoice_of.get(charge.stripe_invoice_id, ""))
        if our is None:
            continue
        kept = {each.stripe_refund_id: each.status for each in our.refunds}
        for there in charge.refunds:
            refund = there.refund
            if kept.get(refund.stripe_refund_id) != refund.status:
                yield Difference(
                    kind=DriftKind.REFUND_UNSEEN,
                    organization_id=ours.organization_id,
                    object_id=our.invoice.invoice_id,
                    stripe_id=refund.stripe_refund_id,
                    ours=kept.get(refund.stripe_refund_id, "unknown"),
                    theirs=refund.status,
                    our_amount=None,
                    their_amount=Money(refund.amount_minor, refund.currency_code),
                    repair=Repair.KEEP_REFUND,
                    since=there.create_time,
                )


def _extra_payments(ours: OurRecord, theirs: TheirRecord) -> Iterator[Difference]:
    """What was taken beyond what its invoice asked for; the later charges are the ones too many."""
    left = {each.invoice.stripe_invoice_id: each.invoice.total_minor for each in theirs.invoices}
    invoice_of = {each.invoice.stripe_invoice_id: each.invoice.invoice_id for each in theirs.invoices}
    for charge in theirs.charges:
        is_before = charge.stripe_invoice_id and charge.stripe_invoice_id not in left
        if is_before or charge.kept_minor <= 0:
            # Of an invoice from before what was looked at; or given back whole, and so as if it had never been.
            continue
        room = left.get(charge.stripe_invoice_id, 0)
        left[charge.stripe_invoice_id] = max(0, room - charge.amount.minor)
        over = min(charge.amount.minor - room, charge.kept_minor)
        if over > 0:
            yield Difference(
                kind=DriftKind.PAYMENT_EXTRA,
                organization_id=ours.organization_id,
                object_id=invoice_of.get(charge.stripe_invoice_id, ""),
                stripe_id=charge.stripe_charge_id,
                ours="nothing more is owed",
                theirs="charged",
                our_amount=None,
                their_amount=Money(over, charge.amount.currency_code),
                repair=Repair.REFUND_AT_STRIPE,
                since=charge.create_time,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageOnInvoices:
    """A quantity that invoices hold, and what the ledger counts of the same."""

    organization_id: str
    subscription_id: str
    invoice_id: str
    meter: str
    segment: Period
    period: Period
    invoiced_quantity: int
    counted_quantity: int
    """As of the last event that the invoices could see."""
    since: datetime


def usage_differences(found: Sequence[UsageOnInvoices]) -> tuple[Difference, ...]:
    """Where invoices and the ledger count differently, to the base unit."""
    return tuple(
        Difference(
            kind=DriftKind.USAGE_DIFFERS,
            organization_id=each.organization_id,
            object_id=each.subscription_id,
            stripe_id="",
            ours=f"{each.invoiced_quantity} {each.meter}, last on {each.invoice_id}",
            theirs=f"{each.counted_quantity} {each.meter}",
            our_amount=None,
            their_amount=None,
            repair=Repair.CLOSE_AGAIN,
            since=each.since,
            period_start=each.period.start,
        )
        for each in found
        if each.invoiced_quantity != each.counted_quantity
    )


def not_invoiced(draft: Invoice, *, since: datetime) -> Difference | None:
    """What closing a period again would invoice; None: nothing."""
    if not draft.lines:
        return None
    sequences = f"events up to {draft.closed_through_sequence}"
    return Difference(
        kind=DriftKind.USAGE_NOT_INVOICED,
        organization_id=draft.organization_id,
        object_id=draft.subscription_id,
        stripe_id="",
        ours="not invoiced",
        theirs=f"{len(draft.lines)} lines, {sequences}",
        our_amount=None,
        their_amount=draft.total,
        repair=Repair.CLOSE_AGAIN,
        since=since,
        period_start=draft.period.start,
    )
