"""What reconciling found in one organization's books, in Postgres."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Row, text

from kit.money import Money
from services.billing.adapters.postgres_books.page import Page
from services.billing.application.ports.reconciliation import Found
from services.billing.domain.reconciliation import Difference, DriftKind, Repair


class PostgresReconciliation:
    """ReconciliationBook over one transaction."""

    def __init__(self, page: Page) -> None:
        self._page = page

    async def on_their_way(self) -> Collection[str]:
        """As ReconciliationBook."""
        return set((await self._page.execute(_ON_THEIR_WAY, self._page.names())).scalars())

    async def accepted(self) -> Collection[str]:
        """As ReconciliationBook."""
        return set((await self._page.execute(_ACCEPTED, self._page.names())).scalars())

    async def of_report(self, report_id: str) -> Sequence[Found]:
        """As ReconciliationBook."""
        rows = await self._page.execute(_OF_REPORT, self._page.names(report_id=report_id))
        return [_found_from_row(row) for row in rows]

    async def keep(self, report_id: str, found: Sequence[Found]) -> None:
        """As ReconciliationBook."""
        rows = [self._page.names(report_id=report_id, **_found_to_row(each)) for each in found]
        if rows:
            await self._page.execute(_KEEP, rows)

    async def set_outcome(self, report_id: str, difference_id: str, outcome: str) -> None:
        """As ReconciliationBook."""
        names = self._page.names(report_id=report_id, difference_id=difference_id, outcome=outcome)
        await self._page.execute(_SET_OUTCOME, names)

    async def accept(self, difference: Difference, *, actor: str) -> None:
        """As ReconciliationBook."""
        names = self._page.names(difference_id=difference.difference_id)
        if (await self._page.execute(_ACCEPT, names)).rowcount:
            body = {
                "difference_id": difference.difference_id,
                "kind": difference.kind.value,
                "object_id": difference.object_id,
                "stripe_id": difference.stripe_id,
                "actor": actor,
            }
            await self._page.append(kind="drift_accepted", body=body)

    async def forget_collected(self, invoice_id: str) -> None:
        """As ReconciliationBook."""
        await self._page.execute(_FORGET_COLLECTED, self._page.names(invoice_id=invoice_id))
        await self._page.append(kind="invoice_collected_anew", body={"invoice_id": invoice_id})


def _found_to_row(found: Found) -> dict[str, object]:
    difference = found.difference
    ours, theirs = difference.our_amount, difference.their_amount
    return {
        "difference_id": difference.difference_id,
        "kind": difference.kind.value,
        "object_id": difference.object_id,
        "stripe_id": difference.stripe_id,
        "ours": difference.ours,
        "theirs": difference.theirs,
        "our_minor": None if ours is None else ours.minor,
        "our_currency": "" if ours is None else ours.currency_code,
        "their_minor": None if theirs is None else theirs.minor,
        "their_currency": "" if theirs is None else theirs.currency_code,
        "repair": difference.repair.value,
        "since": difference.since,
        "period_start": difference.period_start,
        "is_pending": found.is_pending,
        "outcome": found.outcome,
    }


def _found_from_row(row: Row[Any]) -> Found:
    difference = Difference(
        kind=DriftKind(row.kind),
        organization_id=row.organization_id,
        object_id=row.object_id,
        stripe_id=row.stripe_id,
        ours=row.ours,
        theirs=row.theirs,
        our_amount=None if row.our_minor is None else Money(int(row.our_minor), row.our_currency),
        their_amount=None if row.their_minor is None else Money(int(row.their_minor), row.their_currency),
        repair=Repair(row.repair),
        since=row.since,
        period_start=row.period_start,
    )
    return Found(difference=difference, is_pending=row.is_pending, outcome=row.outcome)


_ON_THEIR_WAY = text("SELECT invoice_id FROM billing.due_invoices WHERE organization_id = :organization_id")
_ACCEPTED = text("SELECT difference_id FROM billing.accepted_differences WHERE organization_id = :organization_id")
_OF_REPORT = text("""
    SELECT organization_id, kind, object_id, stripe_id, ours, theirs, our_minor, our_currency, their_minor,
        their_currency, repair, since, period_start, is_pending, outcome
    FROM billing.differences WHERE organization_id = :organization_id AND report_id = :report_id
    ORDER BY difference_id
""")
_KEEP = text("""
    INSERT INTO billing.differences (organization_id, report_id, difference_id, kind, object_id, stripe_id, ours,
        theirs, our_minor, our_currency, their_minor, their_currency, repair, since, period_start, is_pending, outcome)
    VALUES (:organization_id, :report_id, :difference_id, :kind, :object_id, :stripe_id, :ours, :theirs, :our_minor,
        :our_currency, :their_minor, :their_currency, :repair, :since, :period_start, :is_pending, :outcome)
""")
_SET_OUTCOME = text("""
    UPDATE billing.differences SET outcome = :outcome
    WHERE organization_id = :organization_id AND report_id = :report_id AND difference_id = :difference_id
""")
_ACCEPT = text("""
    INSERT INTO billing.accepted_differences (organization_id, difference_id)
    VALUES (:organization_id, :difference_id) ON CONFLICT DO NOTHING
""")
_FORGET_COLLECTED = text("""
    UPDATE billing.invoices SET stripe_invoice_id = ''
    WHERE organization_id = :organization_id AND invoice_id = :invoice_id
""")
