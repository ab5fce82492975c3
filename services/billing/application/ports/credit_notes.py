"""An organization's credit notes, and handing them over to who collects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from services.billing.domain.credit_notes import CreditNote


@dataclass(frozen=True, slots=True)
class CreditNoteKey:
    """A place in an organization's credit notes, newest first: the id decides between those of one instant."""

    create_time: datetime
    credit_note_id: str


class CreditNoteReader(Protocol):
    """The credit notes in one organization's books."""

    async def get(self, credit_note_id: str) -> CreditNote:
        """One credit note. Raises NotFound, also for another organization's."""
        ...

    async def of_invoice(self, invoice_id: str) -> Sequence[CreditNote]:
        """Those of an invoice, oldest first."""
        ...

    async def reduced_minor(self, invoice_ids: Sequence[str]) -> Mapping[str, int]:
        """What credit notes have taken off the amount due, by invoice, of those that have any."""
        ...

    async def newest_first(self, *, before: CreditNoteKey | None, count: int) -> Sequence[CreditNote]:
        """Up to `count`, newest first, from the newest or from the first one older than `before`."""
        ...


class CreditNoteBook(CreditNoteReader, Protocol):
    """The same, open for writing."""

    async def add(self, note: CreditNote, *, actor: str, request_id: str) -> CreditNote:
        """Adds a credit note with the next number of its legal entity, an entry of the change log, and lists it for the
        collector if there is anything for it to do. To be called last: numbers are handed out one at a time, without a
        gap, until the books close.
        """
        ...

    async def set_collected(self, credit_note_id: str, stripe_credit_note_id: str) -> None:
        """Keeps that the collector has done it, and takes it off the list."""
        ...


@dataclass(frozen=True, slots=True)
class DueCreditNote:
    """A credit note that is to be handed to the collector, claimed for one attempt."""

    organization_id: str
    credit_note_id: str
    attempt_count: int


class CreditNoteList(Protocol):
    """The credit notes that are still to be handed over; narrow, across organizations."""

    async def claim(self, *, now: datetime, count: int) -> Sequence[DueCreditNote]:
        """Claims up to `count` that are due, each for the lease: two claimers never get the same within it."""
        ...

    async def retry(self, due: DueCreditNote, *, at: datetime, error: str) -> None:
        """Makes it due again at a time."""
        ...

    async def park(self, due: DueCreditNote, *, reason: str) -> None:
        """Sets it aside with a reason, until a person has looked."""
        ...


class CreditNoteCollector(Protocol):
    """Tells who collects what is due no longer, and what is to be paid back. Doing anything again, also after a crash
    or an unknown outcome, has one effect. `attempt_count` is 1 at the first try.
    """

    async def take_back(self, note: CreditNote, stripe_invoice_id: str, *, attempt_count: int) -> str:
        """Takes `note.split.reduced` off what the invoice there still asks for, and pays `note.split.refunded` back
        where it was paid from. Answers the id of what was made there. Raises DependencyUnavailable when trying again
        later may help, and CollectionRefused when not.
        """
        ...
