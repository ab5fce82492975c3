"""Healthy histories: two records that say the same, however an invoice came to be where it is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random

from kit.money import Money
from services.billing.domain.invoices import Invoice, InvoiceState, Line, LineKind, total_of
from services.billing.domain.payments import lines_that_fit
from services.billing.domain.periods import Period
from services.billing.domain.reconciliation import (
    OurInvoice,
    OurRecord,
    TheirCharge,
    TheirInvoice,
    TheirRecord,
    TheirRefund,
)
from services.billing.domain.stripe_objects import StripeInvoice, StripeInvoiceStatus, StripeRefund

BEGIN = datetime(2026, 1, 31, tzinfo=UTC)
ACME, CUSTOMER = "acme", "cus_acme"
_CURRENCIES = ("USD", "JPY", "BHD")
_FATES = (
    "open",
    "failing",
    "on_its_way",
    "parked",
    "paid",
    "paid_after_failing",
    "paid_outside",
    "given_up",
    "paid_after_giving_up",
    "void",
    "voided_before_it_left",
    "over_nothing",
    "replaced",
    "finalized_by_stripe",
)


@dataclass(frozen=True, slots=True)
class History:
    """Both sides."""

    ours: OurRecord
    theirs: TheirRecord


def healthy_history(random: Random, *, count_max: int = 6) -> History:
    """Some invoices, each with a fate of its own, and both sides told everything."""
    ours: list[OurInvoice] = []
    invoices: list[TheirInvoice] = []
    charges: list[TheirCharge] = []
    for number in range(random.randint(0, count_max)):
        fate = random.choice(_FATES)
        mine, there, paid = _one(random, number, fate)
        ours.append(mine)
        invoices += there
        charges += paid
    if random.random() < 0.3:
        invoices.append(_waiting_draft())
    random.shuffle(invoices)
    customer = CUSTOMER if invoices or random.random() < 0.5 else ""
    return History(
        OurRecord(organization_id=ACME, stripe_customer_id=customer, invoices=tuple(ours)),
        TheirRecord(is_customer_there=bool(customer), invoices=tuple(invoices), charges=tuple(charges)),
    )


def _one(random: Random, number: int, fate: str) -> tuple[OurInvoice, list[TheirInvoice], list[TheirCharge]]:
    invoice = _invoice(random, number, fate)
    if fate in {"on_its_way", "parked", "voided_before_it_left", "over_nothing"}:
        # A parked one may have left a draft there.
        there = [_there(invoice, StripeInvoiceStatus.DRAFT)] if fate == "parked" and random.random() < 0.5 else []
        return OurInvoice(invoice=invoice, is_on_its_way=fate in {"on_its_way", "parked"}), there, []
    status = {
        "open": StripeInvoiceStatus.OPEN,
        "failing": StripeInvoiceStatus.OPEN,
        "replaced": StripeInvoiceStatus.OPEN,
        "given_up": StripeInvoiceStatus.UNCOLLECTIBLE,
        "void": StripeInvoiceStatus.VOID,
    }.get(fate, StripeInvoiceStatus.PAID)
    kept = _there(
        invoice,
        status,
        has_failed=fate == "failing",
        number=f"{invoice.number}-R2" if fate == "replaced" else "",
        is_by_stripe=fate == "finalized_by_stripe",
    )
    there = [kept]
    if fate == "replaced":
        there.append(_there(invoice, StripeInvoiceStatus.VOID, stripe_id=f"in_{number}_old", is_ours=False))
    if status is not StripeInvoiceStatus.PAID or fate == "paid_outside":
        return OurInvoice(invoice=invoice, is_on_its_way=False), there, []
    refunds = _refunds(random, number, invoice.total)
    charge = TheirCharge(
        stripe_charge_id=f"ch_{number}",
        stripe_invoice_id=kept.invoice.stripe_invoice_id,
        amount=invoice.total,
        refunds=tuple(TheirRefund(each, BEGIN) for each in refunds),
        create_time=BEGIN,
    )
    return OurInvoice(invoice=invoice, is_on_its_way=False, refunds=refunds), there, [charge]


def _refunds(random: Random, number: int, total: Money) -> tuple[StripeRefund, ...]:
    """None, one of all, or several of parts; also such as failed."""
    left, found = total.minor, list[StripeRefund]()
    for place in range(random.choice((0, 0, 1, 2))):
        amount = left if random.random() < 0.3 else random.randint(1, max(1, left))
        status = random.choice(("succeeded", "pending", "failed"))
        found.append(
            StripeRefund(
                stripe_refund_id=f"re_{number}_{place}",
                amount_minor=amount,
                currency_code=total.currency_code,
                status=status,
            )
        )
        left -= amount if status != "failed" else 0
        if left <= 0:
            break
    return tuple(found)


def _invoice(random: Random, number: int, fate: str) -> Invoice:
    state = {
        "open": InvoiceState.FINALIZED,
        "failing": InvoiceState.PAST_DUE,
        "on_its_way": InvoiceState.FINALIZED,
        "parked": InvoiceState.FINALIZED,
        "given_up": InvoiceState.UNCOLLECTIBLE,
        "void": InvoiceState.VOID,
        "voided_before_it_left": InvoiceState.VOID,
        "replaced": InvoiceState.FINALIZED,
    }.get(fate, InvoiceState.PAID)
    currency = random.choice(_CURRENCIES)
    start = BEGIN + timedelta(days=30 * number)
    period = Period(start, start + timedelta(days=30))
    amounts = [random.randint(1, 10**6) * 10 for _ in range(random.choice((1, 2, 12, 300)))]
    if fate == "over_nothing":
        amounts = [amounts[0], -amounts[0]]
    lines = tuple(
        Line(
            kind=random.choice((LineKind.BASE_FEE, LineKind.OVERAGE, LineKind.CREDIT, LineKind.TAX)),
            description=f"line {place % 7}",
            amount=Money(amount, currency),
            period=period,
        )
        for place, amount in enumerate(amounts)
    )
    has_left = fate not in {"on_its_way", "parked", "voided_before_it_left", "over_nothing"}
    return Invoice(
        organization_id=ACME,
        subscription_id="sub_1",
        plan_id="starter",
        plan_version=1,
        state=state,
        total=total_of(lines, currency),
        lines=lines,
        period=period,
        closed_through_sequence=number,
        invoice_id=f"inv_{number}",
        number=f"TB-{number:06d}",
        finalize_time=start,
        stripe_invoice_id=f"in_{number}" if has_left else "",
    )


def _there(
    invoice: Invoice,
    status: StripeInvoiceStatus,
    *,
    stripe_id: str = "",
    number: str = "",
    has_failed: bool = False,
    is_ours: bool = True,
    is_by_stripe: bool = False,
) -> TheirInvoice:
    lines = lines_that_fit(invoice.lines)
    return TheirInvoice(
        invoice=StripeInvoice(
            stripe_invoice_id=stripe_id or f"in_{invoice.invoice_id.removeprefix('inv_')}",
            status=status,
            stripe_customer_id=CUSTOMER,
            organization_id=ACME,
            invoice_id=invoice.invoice_id if is_ours else "",
            number="ACME-0001" if is_by_stripe else number or invoice.number,
            total_minor=invoice.total.minor,
            currency_code=invoice.total.currency_code,
            has_failed=has_failed,
            has_lines=True,
            stripe_subscription_id="sub_stripe" if is_by_stripe else "",
        ),
        # Stripe lists a page's lines in an order of its own.
        lines=lines[:1] if is_by_stripe else lines[::-1],
        change_time=invoice.finalize_time or BEGIN,
    )


def _waiting_draft() -> TheirInvoice:
    """What Stripe drafted for a subscription, and no invoice of ours is on yet."""
    return TheirInvoice(
        invoice=StripeInvoice(
            stripe_invoice_id="in_waiting",
            status=StripeInvoiceStatus.DRAFT,
            stripe_customer_id=CUSTOMER,
            organization_id=ACME,
            invoice_id="",
            number="",
            total_minor=4900,
            currency_code="USD",
            has_failed=False,
            stripe_subscription_id="sub_stripe",
        ),
        lines=(),
        change_time=BEGIN,
    )
