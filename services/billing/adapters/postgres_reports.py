"""Reports of reconciling in Postgres, as the fleet role: how much differs, and whose; what differs is the tenants'."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, bindparam, text
from sqlalchemy.dialects.postgresql import JSONB

from kit.errors import NotFound
from kit.postgres.database import Database
from services.billing.adapters import operator_requests
from services.billing.application.ports.reconciliation import Report


class PostgresReports:
    """Reports as the fleet role."""

    def __init__(self, fleet: Database) -> None:
        self._fleet = fleet

    async def organizations(self) -> Sequence[str]:
        """As Reports."""
        async with self._fleet.transaction() as connection:
            return list((await connection.execute(_ORGANIZATIONS)).scalars())

    async def add(self, report: Report) -> None:
        """As Reports."""
        names = {
            "report_id": report.report_id,
            "actor": report.actor,
            "begin_time": report.begin_time,
            "end_time": report.end_time,
            "organization_count": report.organization_count,
            "difference_count": report.difference_count,
            "pending_count": report.pending_count,
            "failed": dict(report.failed),
            "organization_ids": list(report.organization_ids),
        }
        async with self._fleet.transaction() as connection:
            await connection.execute(_ADD, names)

    async def get(self, report_id: str) -> Report:
        """As Reports."""
        # It comes from callers; what is not printable may be no text that Postgres takes.
        names = {"report_id": report_id if report_id.isprintable() else ""}
        async with self._fleet.transaction() as connection:
            row = (await connection.execute(_GET, names)).one_or_none()
        if row is None:
            raise NotFound(what="reconciliation report", name=report_id[:64])
        return _report_from_row(row)

    async def newest_first(self, *, before: tuple[datetime, str] | None, count: int) -> Sequence[Report]:
        """As Reports."""
        begin_time, report_id = before or (None, "")
        names = {"begin_time": begin_time, "report_id": report_id, "count": count}
        async with self._fleet.transaction() as connection:
            return [_report_from_row(row) for row in await connection.execute(_NEWEST_FIRST, names)]

    async def begin_repairs(self, request_id: str, digest: bytes, *, report_id: str, actor: str) -> bool:
        """As Reports."""
        async with self._fleet.transaction() as connection:
            if await operator_requests.was_done(connection, request_id, digest):
                return False
            await operator_requests.remember(
                connection, request_id, digest, method="ApplyRepairs", subject=report_id, actor=actor
            )
            return True


def _report_from_row(row: Row[Any]) -> Report:
    return Report(
        report_id=row.report_id,
        actor=row.actor,
        begin_time=row.begin_time,
        end_time=row.end_time,
        organization_count=row.organization_count,
        difference_count=row.difference_count,
        pending_count=row.pending_count,
        failed=row.failed,
        organization_ids=tuple(row.organization_ids),
    )


_ORGANIZATIONS = text("""
    SELECT organization_id FROM billing.stripe_customers UNION SELECT organization_id FROM billing.due_closes
    ORDER BY organization_id
""")
_COLUMNS = """
    SELECT report_id, actor, begin_time, end_time, organization_count, difference_count, pending_count, failed,
        organization_ids
    FROM billing.reconciliations
"""
_ADD = text("""
    INSERT INTO billing.reconciliations (report_id, actor, begin_time, end_time, organization_count, difference_count,
        pending_count, failed, organization_ids)
    VALUES (:report_id, :actor, :begin_time, :end_time, :organization_count, :difference_count, :pending_count,
        :failed, :organization_ids)
""").bindparams(bindparam("failed", type_=JSONB))
_GET = text(f"{_COLUMNS} WHERE report_id = :report_id")
_NEWEST_FIRST = text(f"""
    {_COLUMNS} WHERE CAST(:begin_time AS timestamptz) IS NULL
        OR (begin_time, report_id) < (CAST(:begin_time AS timestamptz), :report_id)
    ORDER BY begin_time DESC, report_id DESC LIMIT :count
""")
