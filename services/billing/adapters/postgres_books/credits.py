"""Prepaid credits in Postgres: grants, and the journal that says what became of them. Nothing else holds a balance."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, text

from kit.errors import NotFound
from kit.money import Money
from services.billing.adapters.postgres_books.page import Page
from services.billing.domain.credits import (
    CreditAccount,
    CreditEntry,
    CreditGrant,
    CreditMove,
    CreditSource,
    CreditUse,
    GrantStanding,
    expired_of,
    returns_of,
    revocation_of,
)

_KINDS = {
    CreditMove.GRANT: "credits_granted",
    CreditMove.APPLY: "credits_applied",
    CreditMove.RETURN: "credits_returned",
    CreditMove.EXPIRE: "credits_expired",
    CreditMove.REVOKE: "credits_revoked",
}


class PostgresCredits:
    """CreditBook over one transaction."""

    def __init__(self, page: Page) -> None:
        self._page = page

    async def get(self, grant_id: str) -> GrantStanding:
        """As CreditBook."""
        names = self._page.names(grant_id=grant_id if grant_id.isprintable() else "")
        row = (await self._page.execute(_GRANT, names)).one_or_none()
        if row is None:
            raise NotFound(what="credit grant", name=grant_id[:64])
        return _standing_from_row(row)

    async def granted_for(self, source: CreditSource, source_id: str) -> CreditGrant | None:
        """As CreditBook."""
        names = self._page.names(source=source.value, source_id=source_id)
        row = (await self._page.execute(_GRANTED_FOR, names)).one_or_none()
        return None if row is None else _standing_from_row(row).grant

    async def revoked(self, grant_id: str) -> Money:
        """As CreditBook."""
        currency_code = (await self.get(grant_id)).available.currency_code
        row = (await self._page.execute(_REVOKED, self._page.names(grant_id=grant_id))).one()
        return Money(int(row.minor), currency_code)

    async def standings(self) -> Sequence[GrantStanding]:
        """As CreditBook."""
        return [_standing_from_row(row) for row in await self._page.execute(_STANDINGS, self._page.names())]

    async def balances(self) -> Mapping[str, Mapping[CreditAccount, Money]]:
        """As CreditBook."""
        found: dict[str, dict[CreditAccount, Money]] = {}
        for row in await self._page.execute(_BALANCES, self._page.names()):
            zeros = {account: Money(0, row.currency_code) for account in CreditAccount}
            accounts = found.setdefault(row.currency_code, zeros)
            accounts[CreditAccount(row.account)] = Money(int(row.minor), row.currency_code)
        return found

    async def journal(self, *, before: int | None, count: int) -> Sequence[CreditEntry]:
        """As CreditBook."""
        names = self._page.names(before=before, count=count)
        return [_entry_from_row(row) for row in await self._page.execute(_JOURNAL, names)]

    async def grant(self, grant: CreditGrant, *, actor: str, request_id: str) -> GrantStanding:
        """As CreditBook."""
        await self._page.execute(_ADD_GRANT, self._page.names(**_grant_to_row(grant)))
        if grant.expire_time is not None:
            await self._expect_expiry(grant.grant_id)
        uses = [CreditUse(grant.grant_id, grant.amount)]
        await self._book(CreditMove.GRANT, uses, at=grant.grant_time, actor=actor, request_id=request_id)
        return GrantStanding(grant=grant, available=grant.amount)

    async def apply(self, uses: Sequence[CreditUse], *, invoice_id: str, at: datetime) -> None:
        """As CreditBook."""
        await self._book(CreditMove.APPLY, uses, at=at, invoice_id=invoice_id)

    async def give_back(self, invoice_id: str, *, at: datetime, kept_minor: int = 0) -> Sequence[CreditUse]:
        """As CreditBook."""
        rows = await self._page.execute(_OF_INVOICE, self._page.names(invoice_id=invoice_id))
        uses = returns_of([_entry_from_row(row) for row in rows], invoice_id, kept_minor=kept_minor)
        await self._book(CreditMove.RETURN, uses, at=at, invoice_id=invoice_id)
        for use in uses:
            await self._expect_expiry(use.grant_id)
        return uses

    async def expire(self, *, at: datetime) -> Sequence[CreditUse]:
        """As CreditBook."""
        uses = expired_of(await self.standings(), at)
        await self._book(CreditMove.EXPIRE, uses, at=at)
        await self._page.execute(_DELETE_EXPIRIES, self._page.names(at=at))
        return uses

    async def revoke(
        self, grant_id: str, *, at: datetime, actor: str, request_id: str, amount: Money | None = None
    ) -> GrantStanding:
        """As CreditBook."""
        uses = revocation_of(await self.get(grant_id), amount)
        if uses:
            await self._book(CreditMove.REVOKE, uses, at=at, actor=actor, request_id=request_id)
        return await self.get(grant_id)

    async def _expect_expiry(self, grant_id: str) -> None:
        await self._page.execute(_EXPECT_EXPIRY, self._page.names(grant_id=grant_id))

    async def _book(
        self,
        move: CreditMove,
        uses: Sequence[CreditUse],
        *,
        at: datetime,
        invoice_id: str = "",
        actor: str = "service:billing",
        request_id: str = "",
    ) -> None:
        if not uses:
            return
        rows = [
            self._page.names(
                grant_id=use.grant_id,
                move=move.value,
                debit=move.debit.value,
                credit=move.credit.value,
                currency_code=use.amount.currency_code,
                amount_minor=use.amount.minor,
                entry_time=at,
                invoice_id=invoice_id,
            )
            for use in uses
        ]
        await self._page.execute(_ADD_ENTRY, rows)
        totals: dict[str, int] = defaultdict(int)
        for use in uses:
            totals[use.amount.currency_code] += use.amount.minor
        body = {
            "grant_ids": [use.grant_id for use in uses],
            "amounts": {code: str(Money(minor, code)) for code, minor in totals.items()},
            "invoice_id": invoice_id,
            "actor": actor,
            "request_id": request_id,
        }
        await self._page.append(kind=_KINDS[move], body=body)


def _grant_to_row(grant: CreditGrant) -> dict[str, object]:
    return {
        "grant_id": grant.grant_id,
        "currency_code": grant.amount.currency_code,
        "amount_minor": grant.amount.minor,
        "priority": grant.priority,
        "grant_time": grant.grant_time,
        "expire_time": grant.expire_time,
        "source": grant.source.value,
        "source_id": grant.source_id,
        "description": grant.description,
    }


def _standing_from_row(row: Row[Any]) -> GrantStanding:
    grant = CreditGrant(
        grant_id=row.grant_id,
        amount=Money(int(row.amount_minor), row.currency_code),
        priority=row.priority,
        grant_time=row.grant_time,
        expire_time=row.expire_time,
        source=CreditSource(row.source),
        source_id=row.source_id,
        description=row.description,
    )
    return GrantStanding(grant=grant, available=Money(int(row.available_minor), row.currency_code))


def _entry_from_row(row: Row[Any]) -> CreditEntry:
    return CreditEntry(
        number=row.number,
        grant_id=row.grant_id,
        move=CreditMove(row.move),
        amount=Money(int(row.amount_minor), row.currency_code),
        entry_time=row.entry_time,
        invoice_id=row.invoice_id,
    )


_STANDING_COLUMNS = """
    SELECT grant_id, currency_code, amount_minor, priority, grant_time, expire_time, source, source_id, description,
        (SELECT sum(CASE WHEN credit = 'AVAILABLE' THEN entries.amount_minor
                         WHEN debit = 'AVAILABLE' THEN -entries.amount_minor ELSE 0 END)
         FROM billing.credit_entries AS entries
         WHERE entries.organization_id = grants.organization_id AND entries.grant_id = grants.grant_id
        ) AS available_minor
    FROM billing.credit_grants AS grants WHERE organization_id = :organization_id
"""
_GRANT = text(f"{_STANDING_COLUMNS} AND grant_id = :grant_id")
_GRANTED_FOR = text(f"{_STANDING_COLUMNS} AND source = :source AND source_id = :source_id")
_REVOKED = text("""
    SELECT coalesce(sum(amount_minor), 0) AS minor FROM billing.credit_entries
    WHERE organization_id = :organization_id AND grant_id = :grant_id AND move = 'REVOKE'
""")
_STANDINGS = text(f"""
    SELECT * FROM ({_STANDING_COLUMNS}) AS standings WHERE available_minor > 0 ORDER BY grant_time, grant_id
""")  # noqa: S608 - constants
_BALANCES = text("""
    SELECT currency_code, account, sum(minor) AS minor
    FROM (SELECT currency_code, debit AS account, -amount_minor AS minor FROM billing.credit_entries
          WHERE organization_id = :organization_id
          UNION ALL
          SELECT currency_code, credit, amount_minor FROM billing.credit_entries
          WHERE organization_id = :organization_id) AS sides
    GROUP BY currency_code, account ORDER BY currency_code
""")
_ENTRY_COLUMNS = """
    SELECT number, grant_id, move, currency_code, amount_minor, entry_time, invoice_id
    FROM billing.credit_entries WHERE organization_id = :organization_id
"""
_JOURNAL = text(f"""
    {_ENTRY_COLUMNS} AND (CAST(:before AS bigint) IS NULL OR number < :before) ORDER BY number DESC LIMIT :count
""")
_OF_INVOICE = text(f"{_ENTRY_COLUMNS} AND invoice_id = :invoice_id AND invoice_id <> '' ORDER BY number")
_ADD_GRANT = text("""
    INSERT INTO billing.credit_grants (organization_id, grant_id, currency_code, amount_minor, priority, grant_time,
        expire_time, source, source_id, description)
    VALUES (:organization_id, :grant_id, :currency_code, :amount_minor, :priority, :grant_time, :expire_time, :source,
        :source_id, :description)
""")
# The books are open to one writer, so the next number is nobody else's.
_ADD_ENTRY = text("""
    INSERT INTO billing.credit_entries (organization_id, number, grant_id, move, debit, credit, currency_code,
        amount_minor, entry_time, invoice_id)
    SELECT :organization_id, coalesce(max(number), 0) + 1, :grant_id, :move, :debit, :credit, :currency_code,
        :amount_minor, :entry_time, :invoice_id
    FROM billing.credit_entries WHERE organization_id = :organization_id
""")
_EXPECT_EXPIRY = text("""
    INSERT INTO billing.credit_expiries (organization_id, grant_id, expire_time)
    SELECT organization_id, grant_id, expire_time FROM billing.credit_grants
    WHERE organization_id = :organization_id AND grant_id = :grant_id AND expire_time IS NOT NULL
    ON CONFLICT (organization_id, grant_id) DO NOTHING
""")
_DELETE_EXPIRIES = text("""
    DELETE FROM billing.credit_expiries WHERE organization_id = :organization_id AND expire_time <= :at
""")
