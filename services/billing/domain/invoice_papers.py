"""What invoices and credit notes say on paper: what was kept when they were issued, and whether they are paid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from fractions import Fraction

from kit.money import Money
from services.billing.domain.closing import CutKind
from services.billing.domain.credit_notes import CreditNote, CreditNoteReason
from services.billing.domain.invoices import AFTER_SUBTOTAL, Invoice, InvoiceState, Line, LineKind
from services.billing.domain.meters import Meter
from services.billing.domain.papers import Fact, Paper, PaperLine, PaperTotal, printed
from services.billing.domain.profile import BillingProfile, CollectionMethod, LegalEntity, Party
from services.billing.domain.wording import date_text, price_text, quantity_text

_STAMPS = {
    InvoiceState.DRAFT: "DRAFT",
    InvoiceState.PAID: "PAID",
    InvoiceState.PAST_DUE: "PAST DUE",
    InvoiceState.VOID: "VOID",
}
_REASONS = {
    CreditNoteReason.BILLING_ERROR: "the invoice was wrong",
    CreditNoteReason.DUPLICATE: "it was invoiced twice",
    CreditNoteReason.ORDER_CHANGE: "the order changed",
    CreditNoteReason.GOODWILL: "goodwill",
    CreditNoteReason.OTHER: "other",
}
_LETTER_COUNTRIES = frozenset({"US", "CA", "MX", "PH", "CL", "CO"})


def invoice_paper(
    invoice: Invoice,
    *,
    meters: Mapping[str, Meter],
    seller: LegalEntity,
    buyer: BillingProfile,
    previewed_at: datetime | None = None,
) -> Paper:
    """The paper of an invoice. seller, buyer: as they were when it was issued. previewed_at: of a preview, which was
    not issued.
    """
    issued = invoice.finalize_time or previewed_at
    if issued is None:
        msg = "a preview's paper needs a time"
        raise ValueError(msg)
    due = due_time(issued, buyer)
    code = invoice.total.currency_code
    charges = [line for line in invoice.lines if line.kind not in AFTER_SUBTOTAL]
    below = [line for line in invoice.lines if line.kind in AFTER_SUBTOTAL]
    return Paper(
        title="Invoice",
        number=invoice.number or "preview",
        issue_time=issued,
        status=_STAMPS.get(invoice.state, ""),
        seller=seller.party,
        buyer=_named(buyer.party, invoice.organization_id),
        facts=(
            *((Fact("Number", invoice.number),) if invoice.number else ()),
            Fact("Issued", date_text(issued)),
            Fact("Due", date_text(due)),
            *(() if invoice.cut is CutKind.PURCHASE else (_period_fact(invoice),)),
        ),
        currency_code=code,
        lines=tuple(_line(line, meters) for line in charges),
        totals=(
            *((PaperTotal(name="Subtotal", amount=printed(invoice.subtotal)),) if below else ()),
            *(PaperTotal(name=line.description, amount=printed(line.amount)) for line in below),
            PaperTotal(name=f"Total {code}", amount=printed(invoice.total), is_strong=True),
        ),
        notes=tuple(_payment_notes(invoice, seller, buyer, due)),
        is_letter=seller.party.country_code in _LETTER_COUNTRIES,
    )


def credit_note_paper(note: CreditNote, *, seller: LegalEntity, buyer: BillingProfile) -> Paper:
    """The paper of a credit note: what is taken back stands below zero, as it is on the invoice it corrects."""
    code = note.total.currency_code
    split = note.split
    ways = [
        (split.reduced, "taken off what is due of the invoice"),
        (split.credited, "put to your credit"),
        (split.refunded, "paid back to where it was paid from"),
    ]
    memo = f": {note.memo}" if note.memo else ""
    return Paper(
        title="Credit note",
        number=note.number,
        issue_time=note.create_time,
        seller=seller.party,
        buyer=_named(buyer.party, note.organization_id),
        facts=(
            Fact("Number", note.number),
            Fact("Issued", date_text(note.create_time)),
            Fact("Corrects", note.invoice_number),
        ),
        currency_code=code,
        lines=tuple(
            PaperLine(description=line.description, amount=printed(_negative(line.amount))) for line in note.lines
        ),
        totals=(PaperTotal(name=f"Total {code}", amount=printed(_negative(note.total)), is_strong=True),),
        notes=(
            f"Reason: {_REASONS[note.reason]}{memo}.",
            *(f"{printed(amount)} {code} {where}." for amount, where in ways if amount.minor),
        ),
        is_letter=seller.party.country_code in _LETTER_COUNTRIES,
    )


def _period_fact(invoice: Invoice) -> Fact:
    return Fact("Period", f"{date_text(invoice.period.start)} to {date_text(invoice.period.end)}")


def due_time(issued: datetime, buyer: BillingProfile) -> datetime:
    """When an invoice is due: at once where a card is charged, else at the end of the payment term."""
    return buyer.terms.due_time(issued) or issued


def _line(line: Line, meters: Mapping[str, Meter]) -> PaperLine:
    shown = PaperLine(description=line.description, amount=printed(line.amount))
    meter = meters.get(line.meter)
    if not line.meter or meter is None:
        return shown
    ratio = meter.base_units_per_display_unit
    used = quantity_text(Fraction(line.used_quantity, ratio))
    details = [f"{date_text(line.period.start)} to {date_text(line.period.end)}", f"{used} used"]
    if line.last_sequence > line.first_sequence:
        details.append(f"ledger events {line.first_sequence + 1} to {line.last_sequence}")
    shown = replace(shown, detail=" · ".join(details))
    if line.kind is not LineKind.OVERAGE:
        # Of a correction the amount is a difference, which is no quantity times a price.
        return shown
    price = line.unit_price
    return replace(
        shown,
        quantity=quantity_text(Fraction(line.charged_quantity, ratio)),
        unit_price="" if price is None else price_text(price, line.amount.currency_code),
    )


def _payment_notes(invoice: Invoice, seller: LegalEntity, buyer: BillingProfile, due: datetime) -> Sequence[str]:
    match invoice.state:
        case InvoiceState.DRAFT:
            return ("A preview: what the invoice would be if the period ended now. Nothing is due.",)
        case InvoiceState.PAID:
            return ("Paid. Thank you.",) if invoice.total.minor else ("Nothing is due.",)
        case InvoiceState.VOID:
            return ("Void: nothing is owed for it.",)
    if buyer.terms.collection_method is CollectionMethod.CHARGE_AUTOMATICALLY:
        return ("Charged to the payment method on file. Nothing needs to be done.",)
    where = "\n".join(seller.bank_details)
    asked = f"Please transfer {printed(invoice.total)} {invoice.total.currency_code} by {date_text(due)}"
    return (f"{asked}, stating {invoice.number}.", *((where,) if where else ()))


def _named(party: Party, organization_id: str) -> Party:
    return party if party.legal_name else replace(party, legal_name=organization_id)


def _negative(amount: Money) -> Money:
    return Money(-amount.minor, amount.currency_code)
