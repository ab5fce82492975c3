"""Which cuts were made of an organization's subscriptions, and when the next one is due."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from services.billing.domain.closing import Close
from services.billing.domain.dues import DueKey
from services.billing.domain.invoicing import Invoiced


class CloseReader(Protocol):
    """The closes in one organization's books."""

    async def of(self, subscription_id: str) -> Sequence[Close]:
        """Every cut that was made of a subscription, in no order."""
        ...

    async def invoiced(self, subscription_id: str, *, after: datetime) -> Mapping[DueKey, Invoiced]:
        """What all invoices of a subscription hold, by key, of what ended after a moment. What was voided, or taken
        back by a credit note, they hold still, and say so: it is not charged again by itself, nor given back again.
        """
        ...


class CloseBook(CloseReader, Protocol):
    """The same, open for writing."""

    async def add(self, subscription_id: str, close: Close, *, at: datetime) -> None:
        """Keeps that a cut was made. Each is made once: another one of the same is refused as a defect of ours."""
        ...

    async def schedule(self, subscription_id: str, at: datetime | None) -> None:
        """Puts the subscription on the list of what is due then, in place of what was there; None: takes it off."""
        ...


@dataclass(frozen=True, slots=True)
class DueClose:
    """A subscription whose next cut is due, claimed for one attempt."""

    organization_id: str
    subscription_id: str
    attempt_count: int


class CloseList(Protocol):
    """The subscriptions whose next cut is due; narrow, across organizations."""

    async def claim(self, *, now: datetime, count: int) -> Sequence[DueClose]:
        """Claims up to `count` that are due, each for the lease: two claimers never get the same within it."""
        ...

    async def retry(self, due: DueClose, *, at: datetime, error: str) -> None:
        """Makes it due again at a time, unless it was scheduled anew or claimed by somebody else meanwhile."""
        ...
