"""Prepaid credits in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from kit.errors import NotFound
from kit.money import Money
from services.billing.adapters.memory.world import World
from services.billing.domain.credits import (
    CreditAccount,
    CreditEntry,
    CreditGrant,
    CreditMove,
    CreditSource,
    CreditUse,
    GrantStanding,
    available_by_grant,
    balances,
    expired_of,
    returns_of,
    revocation_of,
)


class MemoryCredits:
    """CreditBook over a copy of the world."""

    def __init__(self, world: World, organization_id: str) -> None:
        self._pages = world.pages[organization_id]

    async def get(self, grant_id: str) -> GrantStanding:
        """As CreditBook."""
        if grant_id not in self._pages.grants:
            raise NotFound(what="credit grant", name=grant_id[:64])
        return self._standing(self._pages.grants[grant_id])

    async def granted_for(self, source: CreditSource, source_id: str) -> CreditGrant | None:
        """As CreditBook."""
        for grant in self._pages.grants.values():
            if (grant.source, grant.source_id) == (source, source_id):
                return grant
        return None

    async def revoked(self, grant_id: str) -> Money:
        """As CreditBook."""
        currency_code = (await self.get(grant_id)).available.currency_code
        moves = [each for each in self._pages.journal if each.grant_id == grant_id and each.move is CreditMove.REVOKE]
        return Money(sum(each.amount.minor for each in moves), currency_code)

    async def standings(self) -> Sequence[GrantStanding]:
        """As CreditBook."""
        ordered = sorted(self._pages.grants.values(), key=lambda each: (each.grant_time, each.grant_id))
        return [standing for each in ordered if (standing := self._standing(each)).available.minor > 0]

    async def balances(self) -> Mapping[str, Mapping[CreditAccount, Money]]:
        """As CreditBook."""
        codes = sorted({entry.amount.currency_code for entry in self._pages.journal})
        return {code: balances(self._pages.journal, code) for code in codes}

    async def journal(self, *, before: int | None, count: int) -> Sequence[CreditEntry]:
        """As CreditBook."""
        newest_first = [entry for entry in reversed(self._pages.journal) if before is None or entry.number < before]
        return newest_first[:count]

    async def grant(self, grant: CreditGrant, *, actor: str, request_id: str) -> GrantStanding:  # noqa: ARG002
        """As CreditBook."""
        if grant.source_id and await self.granted_for(grant.source, grant.source_id) is not None:
            msg = f"{grant.source.value} {grant.source_id} led to a grant before"
            raise ValueError(msg)
        self._pages.grants[grant.grant_id] = grant
        self._book(CreditMove.GRANT, [CreditUse(grant.grant_id, grant.amount)], at=grant.grant_time)
        return self._standing(grant)

    async def apply(self, uses: Sequence[CreditUse], *, invoice_id: str, at: datetime) -> None:
        """As CreditBook."""
        self._book(CreditMove.APPLY, uses, at=at, invoice_id=invoice_id)

    async def give_back(self, invoice_id: str, *, at: datetime, kept_minor: int = 0) -> Sequence[CreditUse]:
        """As CreditBook."""
        uses = returns_of(self._pages.journal, invoice_id, kept_minor=kept_minor)
        self._book(CreditMove.RETURN, uses, at=at, invoice_id=invoice_id)
        return uses

    async def expire(self, *, at: datetime) -> Sequence[CreditUse]:
        """As CreditBook."""
        uses = expired_of(await self.standings(), at)
        self._book(CreditMove.EXPIRE, uses, at=at)
        return uses

    async def revoke(
        self,
        grant_id: str,
        *,
        at: datetime,
        actor: str,  # noqa: ARG002
        request_id: str,  # noqa: ARG002
        amount: Money | None = None,
    ) -> GrantStanding:
        """As CreditBook."""
        self._book(CreditMove.REVOKE, revocation_of(await self.get(grant_id), amount), at=at)
        return await self.get(grant_id)

    def _standing(self, grant: CreditGrant) -> GrantStanding:
        left = available_by_grant(self._pages.journal)[grant.grant_id]
        return GrantStanding(grant=grant, available=Money(left, grant.amount.currency_code))

    def _book(self, move: CreditMove, uses: Sequence[CreditUse], *, at: datetime, invoice_id: str = "") -> None:
        for use in uses:
            self._pages.journal.append(
                CreditEntry(
                    number=len(self._pages.journal) + 1,
                    grant_id=use.grant_id,
                    move=move,
                    amount=use.amount,
                    entry_time=at,
                    invoice_id=invoice_id,
                )
            )
        if min(available_by_grant(self._pages.journal).values(), default=0) < 0:
            msg = "credits that are not there"
            raise ValueError(msg)
        if uses:
            self._pages.change(None)
