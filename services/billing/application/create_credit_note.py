"""Create credit note: takes back of an invoice what should not have been charged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from kit.clock import Clock
from kit.errors import InvalidState
from kit.ids import new_id
from kit.money import Money
from services.billing.application.grant_credits import grant_for
from services.billing.application.ports.books import Book, Books
from services.billing.application.settle_purchase import settle_purchase
from services.billing.application.tell_customers import tell_of_credit_note
from services.billing.domain import limits
from services.billing.domain.closing import CutKind
from services.billing.domain.credit_notes import (
    CitedLine,
    CreditDestination,
    CreditNote,
    CreditNoteReason,
    InvoiceLineLeft,
    LineRole,
    credit_note_lines,
    split_credit,
)
from services.billing.domain.credits import CreditSource
from services.billing.domain.invoices import Invoice, InvoiceState, LineKind
from services.billing.domain.requests import request_digest, require_request_id
from services.billing.domain.texts import require_text

_OPEN = frozenset({InvoiceState.FINALIZED, InvoiceState.PAST_DUE, InvoiceState.UNCOLLECTIBLE})
_ROLES = {
    LineKind.TAX: LineRole.TAX,
    LineKind.CREDIT: LineRole.PAYMENT,
    LineKind.TO_CREDIT: LineRole.PAYMENT,
    LineKind.ROUNDING: LineRole.PAYMENT,
}
"""What a kind of line is to a credit note; every other kind is a charge."""


class CreateCreditNote:
    """Writes a credit note."""

    def __init__(self, books: Books, clock: Clock) -> None:
        self._books = books
        self._clock = clock

    async def __call__(
        self,
        organization_id: str,
        invoice_id: str,
        cited: Sequence[CitedLine],
        *,
        reason: CreditNoteReason,
        memo: str,
        destination: CreditDestination,
        request_id: str,
        actor: str,
    ) -> CreditNote:
        """The credit note with its number; nothing cited means all that is left of the invoice. What it moves to credit
        is there with it; what Stripe has to do is on the list. Idempotent. Raises NotFound, InvalidField,
        LimitExceeded, InvalidState when more is asked for than is left, and RequestIdReused.
        """
        require_request_id(request_id)
        needs_memo = reason is CreditNoteReason.OTHER
        require_text("memo", memo, limits.NOTE_BYTES_MAX, is_required=needs_memo)
        lines = [[each.line_number, None if each.amount is None else each.amount.minor] for each in cited]
        content = [invoice_id, lines, reason.value, memo, destination.value]
        digest = request_digest("CreateCreditNote", organization_id, content)
        async with self._books.open(organization_id) as book:
            made = await book.requests.answer_to(request_id, digest)
            if made is not None:
                return await book.credit_notes.get(made)
            note = await self._note(book, invoice_id, cited, reason=reason, memo=memo, destination=destination)
            await grant_for(
                book,
                note.split.credited,
                source=CreditSource.CREDIT_NOTE,
                source_id=note.credit_note_id,
                description=f"Taken back of {note.invoice_number}",
                at=note.create_time,
            )
            await book.requests.remember(request_id, digest, note.credit_note_id)
            issued = await book.credit_notes.add(note, actor=actor, request_id=request_id)
            await tell_of_credit_note(book, issued, now=issued.create_time)
            await settle_purchase(book, invoice_id, at=issued.create_time, actor=actor)
            return issued

    async def _note(
        self,
        book: Book,
        invoice_id: str,
        cited: Sequence[CitedLine],
        *,
        reason: CreditNoteReason,
        memo: str,
        destination: CreditDestination,
    ) -> CreditNote:
        invoice = await book.invoices.get(invoice_id)
        if invoice.state not in {*_OPEN, InvoiceState.PAID}:
            raise InvalidState(problem=f"The invoice is {invoice.state.value}: there is nothing to take back.")
        is_paid_purchase = invoice.cut is CutKind.PURCHASE and invoice.state is InvoiceState.PAID
        if is_paid_purchase and destination is not CreditDestination.REFUND:
            raise InvalidState(problem="Credits that were bought are taken back for their money: as a refund.")
        before = await book.credit_notes.of_invoice(invoice_id)
        noted = credit_note_lines(lines_left(invoice, before), cited)
        currency_code = invoice.total.currency_code
        total = sum((line.amount for line in noted), Money(0, currency_code))
        left = invoice.total.minor - sum(each.split.reduced.minor + each.split.refunded.minor for each in before)
        due, paid = (left, 0) if invoice.state in _OPEN else (0, left)
        return CreditNote(
            credit_note_id=new_id("crn"),
            organization_id=invoice.organization_id,
            invoice_id=invoice_id,
            invoice_number=invoice.number,
            legal_entity_id=invoice.legal_entity_id,
            lines=noted,
            total=total,
            split=split_credit(
                total,
                due=Money(due, currency_code),
                refundable=Money(paid, currency_code),
                destination=destination,
            ),
            reason=reason,
            memo=memo,
            create_time=self._clock.now(),
        )


def lines_left(invoice: Invoice, notes: Sequence[CreditNote]) -> tuple[InvoiceLineLeft, ...]:
    """The invoice's lines, numbered from 1, with what these credit notes have taken back of each."""
    credited: dict[int, int] = defaultdict(int)
    for note in notes:
        for line in note.lines:
            credited[line.line_number] += line.amount.minor
    return tuple(
        InvoiceLineLeft(
            line_number=number,
            role=_ROLES.get(line.kind, LineRole.CHARGE),
            description=line.description,
            amount=line.amount,
            credited=Money(credited[number], line.amount.currency_code),
        )
        for number, line in enumerate(invoice.lines, start=1)
    )
