"""Credit notes on the wire and in the domain."""

from __future__ import annotations

from kit.errors import InvalidField
from kit.grpc.convert import moment_to_pb
from services.billing.domain.credit_notes import CreditDestination, CreditNote, CreditNoteReason, LineRole
from tollbook.billing.v1 import credit_notes_pb2

_REASONS = {
    credit_notes_pb2.CREDIT_NOTE_REASON_BILLING_ERROR: CreditNoteReason.BILLING_ERROR,
    credit_notes_pb2.CREDIT_NOTE_REASON_DUPLICATE: CreditNoteReason.DUPLICATE,
    credit_notes_pb2.CREDIT_NOTE_REASON_ORDER_CHANGE: CreditNoteReason.ORDER_CHANGE,
    credit_notes_pb2.CREDIT_NOTE_REASON_GOODWILL: CreditNoteReason.GOODWILL,
    credit_notes_pb2.CREDIT_NOTE_REASON_OTHER: CreditNoteReason.OTHER,
}
_DESTINATIONS = {
    credit_notes_pb2.CREDIT_DESTINATION_UNSPECIFIED: CreditDestination.CREDIT,
    credit_notes_pb2.CREDIT_DESTINATION_CREDIT: CreditDestination.CREDIT,
    credit_notes_pb2.CREDIT_DESTINATION_REFUND: CreditDestination.REFUND,
}


def reason_from_pb(reason: credit_notes_pb2.CreditNoteReason.ValueType) -> CreditNoteReason:
    """The reason. Raises InvalidField."""
    if reason not in _REASONS:
        raise InvalidField(field="reason", problem="required")
    return _REASONS[reason]


def destination_from_pb(destination: credit_notes_pb2.CreditDestination.ValueType) -> CreditDestination:
    """The destination. Raises InvalidField."""
    if destination not in _DESTINATIONS:
        raise InvalidField(field="destination", problem="unknown")
    return _DESTINATIONS[destination]


def credit_note_to_pb(note: CreditNote) -> credit_notes_pb2.CreditNote:
    """The credit note."""
    return credit_notes_pb2.CreditNote(
        credit_note_id=note.credit_note_id,
        organization_id=note.organization_id,
        number=note.number,
        invoice_id=note.invoice_id,
        invoice_number=note.invoice_number,
        legal_entity_id=note.legal_entity_id,
        currency_code=note.total.currency_code,
        total=str(note.total),
        lines=[
            credit_notes_pb2.CreditNoteLine(
                line_number=line.line_number,
                description=line.description,
                amount=str(line.amount),
                is_tax=line.role is LineRole.TAX,
            )
            for line in note.lines
        ],
        reduced=str(note.split.reduced),
        credited=str(note.split.credited),
        refunded=str(note.split.refunded),
        reason=credit_notes_pb2.CreditNoteReason.Value(f"CREDIT_NOTE_REASON_{note.reason.value}"),
        memo=note.memo,
        create_time=moment_to_pb(note.create_time),
        stripe_credit_note_id=note.stripe_credit_note_id,
    )
