"""An organization's prepaid credits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from kit.money import Money
from services.billing.domain.credits import (
    CreditAccount,
    CreditEntry,
    CreditGrant,
    CreditSource,
    CreditUse,
    GrantStanding,
)


class CreditReader(Protocol):
    """The credits in one organization's books."""

    async def get(self, grant_id: str) -> GrantStanding:
        """One grant. Raises NotFound, also for another organization's."""
        ...

    async def granted_for(self, source: CreditSource, source_id: str) -> CreditGrant | None:
        """The grant that an invoice or a credit note led to; None: none yet."""
        ...

    async def revoked(self, grant_id: str) -> Money:
        """What was ever taken back of a grant. Raises NotFound."""
        ...

    async def standings(self) -> Sequence[GrantStanding]:
        """Every grant that has something available, expired or not, oldest first."""
        ...

    async def balances(self) -> Mapping[str, Mapping[CreditAccount, Money]]:
        """The balance of every account by currency, of each currency that was ever granted, by code."""
        ...

    async def journal(self, *, before: int | None, count: int) -> Sequence[CreditEntry]:
        """Up to `count` entries, newest first, from the newest or from the one before that number."""
        ...


class CreditBook(CreditReader, Protocol):
    """The same, open for writing. Each call is an entry of the change log, and of the journal one per grant it moves;
    one that moves nothing is neither.
    """

    async def grant(self, grant: CreditGrant, *, actor: str, request_id: str) -> GrantStanding:
        """Grants credits. Of one source with an id there is one grant: another one is refused as a defect of ours."""
        ...

    async def apply(self, uses: Sequence[CreditUse], *, invoice_id: str, at: datetime) -> None:
        """Pays an invoice of this transaction with what `apply_credits` chose of `standings`. More than is available
        is refused as a defect of ours, and nothing of the transaction is kept.
        """
        ...

    async def give_back(self, invoice_id: str, *, at: datetime, kept_minor: int = 0) -> Sequence[CreditUse]:
        """Gives back what an invoice that is voided was paid with, but for kept_minor of it; once, however often it is
        called with the same. What has expired meanwhile expires with the next `expire`.
        """
        ...

    async def expire(self, *, at: datetime) -> Sequence[CreditUse]:
        """Takes what has expired by then."""
        ...

    async def revoke(
        self, grant_id: str, *, at: datetime, actor: str, request_id: str, amount: Money | None = None
    ) -> GrantStanding:
        """Takes what is available of a grant back, or this amount of it at most; what it paid stays paid. Raises
        NotFound.
        """
        ...


class ExpiryList(Protocol):
    """Who has credits that are over; narrow, across organizations."""

    async def due(self, *, now: datetime, count: int) -> Sequence[str]:
        """Up to `count` organizations with credits whose time is over and that were not taken yet."""
        ...
