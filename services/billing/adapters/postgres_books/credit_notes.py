"""Credit notes in Postgres."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Row, text

from kit.errors import NotFound
from kit.money import Money
from services.billing.adapters.postgres_books.page import Page
from services.billing.application.ports.credit_notes import CreditNoteKey
from services.billing.domain.credit_notes import (
    CreditNote,
    CreditNoteLine,
    CreditNoteReason,
    CreditSplit,
    LineRole,
    credit_note_number,
)

_CREATED = "credit_note_created"


class PostgresCreditNotes:
    """CreditNoteBook over one transaction."""

    def __init__(self, page: Page) -> None:
        self._page = page

    async def get(self, credit_note_id: str) -> CreditNote:
        """As CreditNoteBook."""
        names = self._page.names(credit_note_id=credit_note_id if credit_note_id.isprintable() else "")
        rows = (await self._page.execute(_NOTE, names)).all()
        if not rows:
            raise NotFound(what="credit note", name=credit_note_id[:64])
        return (await self._with_lines(rows))[0]

    async def of_invoice(self, invoice_id: str) -> Sequence[CreditNote]:
        """As CreditNoteBook."""
        names = self._page.names(invoice_id=invoice_id)
        return await self._with_lines((await self._page.execute(_OF_INVOICE, names)).all())

    async def reduced_minor(self, invoice_ids: Sequence[str]) -> Mapping[str, int]:
        """As CreditNoteBook."""
        rows = await self._page.execute(_REDUCED, self._page.names(invoice_ids=list(invoice_ids)))
        return {row.invoice_id: int(row.minor) for row in rows}

    async def newest_first(self, *, before: CreditNoteKey | None, count: int) -> Sequence[CreditNote]:
        """As CreditNoteBook."""
        names = self._page.names(
            create_time=before.create_time if before else None,
            credit_note_id=before.credit_note_id if before else "",
            count=count,
        )
        return await self._with_lines((await self._page.execute(_NEWEST_FIRST, names)).all())

    async def add(self, note: CreditNote, *, actor: str, request_id: str) -> CreditNote:
        """As CreditNoteBook."""
        body = {
            "credit_note_id": note.credit_note_id,
            "invoice_id": note.invoice_id,
            "total": str(note.total),
            "currency_code": note.total.currency_code,
            "reason": note.reason.value,
            "actor": actor,
            "request_id": request_id,
        }
        await self._page.append(kind=_CREATED, body=body)
        lines = [self._page.names(**_line_to_row(note, position)) for position in range(len(note.lines))]
        await self._page.execute(_ADD_LINE, lines)
        if note.is_for_collector:
            due = self._page.names(credit_note_id=note.credit_note_id, next_attempt_time=note.create_time)
            await self._page.execute(_ADD_DUE, due)
        # Last, because from here on every other credit note of the legal entity waits for this transaction.
        taken = (await self._page.execute(_TAKE_NUMBER, {"legal_entity": note.legal_entity_id})).one()
        numbered = replace(note, number=credit_note_number(taken.prefix, taken.last_number))
        await self._page.execute(_ADD_NOTE, self._page.names(**_note_to_row(numbered)))
        return numbered

    async def set_collected(self, credit_note_id: str, stripe_credit_note_id: str) -> None:
        """As CreditNoteBook."""
        names = self._page.names(credit_note_id=credit_note_id, stripe_credit_note_id=stripe_credit_note_id)
        await self._page.execute(_SET_COLLECTED, names)
        await self._page.execute(_DELETE_DUE, self._page.names(credit_note_id=credit_note_id))

    async def _with_lines(self, rows: Sequence[Row[Any]]) -> list[CreditNote]:
        names = self._page.names(credit_note_ids=[row.credit_note_id for row in rows])
        lines: dict[str, list[Row[Any]]] = defaultdict(list)
        for line in await self._page.execute(_LINES, names):
            lines[line.credit_note_id].append(line)
        return [_note_from_row(row, lines[row.credit_note_id]) for row in rows]


def _note_from_row(row: Row[Any], lines: Sequence[Row[Any]]) -> CreditNote:
    def money(minor: object) -> Money:
        return Money(int(str(minor)), row.currency_code)

    return CreditNote(
        credit_note_id=row.credit_note_id,
        number=row.number,
        organization_id=row.organization_id,
        invoice_id=row.invoice_id,
        invoice_number=row.invoice_number,
        legal_entity_id=row.legal_entity_id,
        lines=tuple(
            CreditNoteLine(
                line_number=line.line_number,
                role=LineRole(line.role),
                description=line.description,
                amount=money(line.amount_minor),
            )
            for line in lines
        ),
        total=money(row.total_minor),
        split=CreditSplit(
            reduced=money(row.reduced_minor),
            credited=money(row.credited_minor),
            refunded=money(row.refunded_minor),
        ),
        reason=CreditNoteReason(row.reason),
        memo=row.memo,
        create_time=row.create_time,
        stripe_credit_note_id=row.stripe_credit_note_id,
    )


def _note_to_row(note: CreditNote) -> dict[str, object]:
    return {
        "credit_note_id": note.credit_note_id,
        "number": note.number,
        "invoice_id": note.invoice_id,
        "invoice_number": note.invoice_number,
        "legal_entity_id": note.legal_entity_id,
        "currency_code": note.total.currency_code,
        "total_minor": note.total.minor,
        "reduced_minor": note.split.reduced.minor,
        "credited_minor": note.split.credited.minor,
        "refunded_minor": note.split.refunded.minor,
        "reason": note.reason.value,
        "memo": note.memo,
        "create_time": note.create_time,
    }


def _line_to_row(note: CreditNote, position: int) -> dict[str, object]:
    line = note.lines[position]
    return {
        "credit_note_id": note.credit_note_id,
        "position": position,
        "line_number": line.line_number,
        "role": line.role.value,
        "description": line.description,
        "amount_minor": line.amount.minor,
    }


_NOTE_COLUMNS = """
    SELECT organization_id, credit_note_id, number, invoice_id, invoice_number, legal_entity_id, currency_code,
        total_minor, reduced_minor, credited_minor, refunded_minor, reason, memo, create_time, stripe_credit_note_id
    FROM billing.credit_notes WHERE organization_id = :organization_id
"""
_NOTE = text(f"{_NOTE_COLUMNS} AND credit_note_id = :credit_note_id")
_OF_INVOICE = text(f"{_NOTE_COLUMNS} AND invoice_id = :invoice_id ORDER BY create_time, number")
_NEWEST_FIRST = text(f"""
    {_NOTE_COLUMNS} AND (CAST(:create_time AS timestamptz) IS NULL
        OR (create_time, credit_note_id) < (CAST(:create_time AS timestamptz), :credit_note_id))
    ORDER BY create_time DESC, credit_note_id DESC LIMIT :count
""")
_REDUCED = text("""
    SELECT invoice_id, sum(reduced_minor) AS minor FROM billing.credit_notes
    WHERE organization_id = :organization_id AND invoice_id = ANY(:invoice_ids) AND reduced_minor > 0
    GROUP BY invoice_id
""")
_LINES = text("""
    SELECT credit_note_id, line_number, role, description, amount_minor FROM billing.credit_note_lines
    WHERE organization_id = :organization_id AND credit_note_id = ANY(:credit_note_ids)
    ORDER BY credit_note_id, position
""")
_ADD_LINE = text("""
    INSERT INTO billing.credit_note_lines (
        organization_id, credit_note_id, position, line_number, role, description, amount_minor)
    VALUES (:organization_id, :credit_note_id, :position, :line_number, :role, :description, :amount_minor)
""")
_ADD_DUE = text("""
    INSERT INTO billing.due_credit_notes (organization_id, credit_note_id, next_attempt_time)
    VALUES (:organization_id, :credit_note_id, :next_attempt_time)
""")
_DELETE_DUE = text("""
    DELETE FROM billing.due_credit_notes
    WHERE organization_id = :organization_id AND credit_note_id = :credit_note_id
""")
_TAKE_NUMBER = text("""
    UPDATE billing.credit_note_numbers SET last_number = last_number + 1 WHERE legal_entity = :legal_entity
    RETURNING prefix, last_number
""")
_ADD_NOTE = text("""
    INSERT INTO billing.credit_notes (organization_id, credit_note_id, number, invoice_id, invoice_number,
        legal_entity_id, currency_code, total_minor, reduced_minor, credited_minor, refunded_minor, reason, memo,
        create_time)
    VALUES (:organization_id, :credit_note_id, :number, :invoice_id, :invoice_number, :legal_entity_id,
        :currency_code, :total_minor, :reduced_minor, :credited_minor, :refunded_minor, :reason, :memo, :create_time)
""")
_SET_COLLECTED = text("""
    UPDATE billing.credit_notes SET stripe_credit_note_id = :stripe_credit_note_id
    WHERE organization_id = :organization_id AND credit_note_id = :credit_note_id
""")
