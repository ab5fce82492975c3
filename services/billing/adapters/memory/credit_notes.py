"""Credit notes in memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from kit.errors import NotFound
from services.billing.adapters.memory.world import DueNote, World
from services.billing.application.ports.credit_notes import CreditNoteKey, DueCreditNote
from services.billing.domain.credit_notes import CreditNote, credit_note_number


class MemoryCreditNotes:
    """CreditNoteBook over a copy of the world."""

    def __init__(self, world: World, organization_id: str) -> None:
        self._world = world
        self._pages = world.pages[organization_id]
        self._organization_id = organization_id

    async def get(self, credit_note_id: str) -> CreditNote:
        """As CreditNoteBook."""
        if credit_note_id not in self._pages.credit_notes:
            raise NotFound(what="credit note", name=credit_note_id[:64])
        return self._pages.credit_notes[credit_note_id]

    async def of_invoice(self, invoice_id: str) -> Sequence[CreditNote]:
        """As CreditNoteBook."""
        found = [each for each in self._pages.credit_notes.values() if each.invoice_id == invoice_id]
        return sorted(found, key=lambda each: (each.create_time, each.number))

    async def reduced_minor(self, invoice_ids: Sequence[str]) -> Mapping[str, int]:
        """As CreditNoteBook."""
        reduced: dict[str, int] = defaultdict(int)
        for note in self._pages.credit_notes.values():
            if note.invoice_id in invoice_ids and note.split.reduced.minor:
                reduced[note.invoice_id] += note.split.reduced.minor
        return dict(reduced)

    async def newest_first(self, *, before: CreditNoteKey | None, count: int) -> Sequence[CreditNote]:
        """As CreditNoteBook."""
        keyed = {(each.create_time, each.credit_note_id): each for each in self._pages.credit_notes.values()}
        newest_first = sorted(keyed, reverse=True)
        if before is not None:
            newest_first = [key for key in newest_first if key < (before.create_time, before.credit_note_id)]
        return [keyed[key] for key in newest_first[:count]]

    async def add(self, note: CreditNote, *, actor: str, request_id: str) -> CreditNote:  # noqa: ARG002
        """As CreditNoteBook."""
        self._pages.change(None)
        numbers = self._world.last_credit_note_numbers
        numbers[note.legal_entity_id] += 1
        prefix = self._world.entity(note.legal_entity_id).credit_note_prefix
        number = credit_note_number(prefix, numbers[note.legal_entity_id])
        numbered = replace(note, number=number)
        self._pages.credit_notes[note.credit_note_id] = numbered
        if note.is_for_collector:
            due = DueCreditNote(self._organization_id, note.credit_note_id, 0)
            key = (self._organization_id, note.credit_note_id)
            self._world.due_credit_notes[key] = DueNote(due, note.create_time)
        return numbered

    async def set_collected(self, credit_note_id: str, stripe_credit_note_id: str) -> None:
        """As CreditNoteBook."""
        note = await self.get(credit_note_id)
        self._pages.credit_notes[credit_note_id] = replace(note, stripe_credit_note_id=stripe_credit_note_id)
        self._world.due_credit_notes.pop((self._organization_id, credit_note_id), None)
