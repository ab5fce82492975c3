"""The dunning of what could not be collected."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from services.billing.domain.dunning import Dunning


class DunningReader(Protocol):
    """The dunning in one organization's books."""

    async def open_ones(self) -> Sequence[Dunning]:
        """That of every invoice that is neither paid nor void, oldest first."""
        ...


class DunningBook(DunningReader, Protocol):
    """The same, open for writing."""

    async def look_at(self, invoice_id: str, *, time: datetime) -> None:
        """Has an invoice looked at then: whether it was paid by its due time. Nothing of it is dunned before."""
        ...

    async def begin(self, invoice_id: str, *, now: datetime) -> None:
        """Begins it, its first step being due at once; one that has begun goes on as it was."""
        ...

    async def note(
        self, invoice_id: str, steps: Collection[str], *, is_suspending: bool, next_time: datetime | None, now: datetime
    ) -> None:
        """Keeps that steps were done or left out, and when the next one is due; None: there is none."""
        ...

    async def end(self, invoice_id: str, *, now: datetime) -> None:
        """Ends it: the invoice is paid or void. Nothing more of it is due; one that never began is no error."""
        ...


@dataclass(frozen=True, slots=True)
class DueDunning:
    """An invoice of which a step may be due, claimed for one attempt."""

    organization_id: str
    invoice_id: str
    attempt_count: int


class DunningList(Protocol):
    """Whose next step is due; narrow, across organizations."""

    async def claim(self, *, now: datetime, count: int) -> Sequence[DueDunning]:
        """Claims up to `count` that are due, each for the lease: two claimers never get the same within it."""
        ...

    async def retry(self, due: DueDunning, *, at: datetime, error: str) -> None:
        """Makes it due again at a time, unless it was claimed or noted anew meanwhile."""
        ...
