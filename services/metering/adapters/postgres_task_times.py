"""Task times in Postgres, as the writer role; see migrations/0004_task_time.py."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from kit.postgres.database import Database
from services.metering.adapters.postgres_ledger import append_within
from services.metering.domain import limits
from services.metering.domain.acceptance import Status
from services.metering.domain.events import UsageEvent
from services.metering.domain.task_time import NEVER_REPORTED, Stretch, TaskReport, TaskTime, TaskTimeAnswer, take


class LedgerDisagrees(Exception):
    """The ledger holds an event of this task that the memory of the task does not know of."""


class PostgresTaskTimes:
    """TaskTimes in one transaction per report. It locks the task's row, then the organization's head: every report
    in this order, and nobody else locks both.
    """

    def __init__(self, writer: Database) -> None:
        self._writer = writer

    async def report(self, report: TaskReport, *, now: datetime) -> TaskTimeAnswer:
        """As TaskTimes."""
        organization_id = report.subject.organization_id
        names = {"organization_id": organization_id, "task_id": report.subject.task_id, "now": now}
        async with self._writer.transaction(organization_id=organization_id) as connection:
            known = None
            is_new = False
            while known is None and not is_new:  # again when the task is forgotten just now
                is_new = (await connection.execute(_BEGIN, names)).rowcount == 1
                known = None if is_new else await _locked(connection, names)
            task = known or NEVER_REPORTED
            taken = take(task, report)
            sequence = 0 if taken.event is None else await _recorded(connection, taken.event, now)
            if taken.task != task:
                await connection.execute(_KEEP, names | _columns(taken.task))
            if is_new:
                forgotten = {"before": now - limits.TASK_REMEMBERED, "count": limits.TASKS_FORGOTTEN_MAX}
                await connection.execute(_FORGET, names | forgotten)
        return TaskTimeAnswer(taken.status, taken.added_ms, taken.task.total_ms, sequence)


async def _locked(connection: AsyncConnection, names: dict[str, object]) -> TaskTime | None:
    row = (await connection.execute(_LOCK, names)).one_or_none()
    if row is None:
        return None
    stretches = tuple(Stretch(begin, end) for begin, end in zip(row.begins_ms, row.ends_ms, strict=True))
    return TaskTime(stretches, row.total_ms, row.end_ms, row.is_trimmed)


async def _recorded(connection: AsyncConnection, event: UsageEvent, now: datetime) -> int:
    (outcome,) = await append_within(connection, [event], now=now)
    if outcome.status is not Status.ACCEPTED:
        # Rolled back and told to the caller: going on would lose or repeat time without a word.
        raise LedgerDisagrees(f"{event.id}: {outcome}")
    return outcome.sequence


def _columns(task: TaskTime) -> dict[str, object]:
    return {
        "begins_ms": [each.begin_ms for each in task.stretches],
        "ends_ms": [each.end_ms for each in task.stretches],
        "total_ms": task.total_ms,
        "end_ms": task.end_ms,
        "is_trimmed": task.is_trimmed,
    }


# A concurrent first report waits here for the other one's transaction, and then finds the row.
_BEGIN = text("""
    INSERT INTO metering.task_times
        (organization_id, task_id, begins_ms, ends_ms, total_ms, is_trimmed, create_time, update_time)
    VALUES (:organization_id, :task_id, '{}', '{}', 0, false, :now, :now)
    ON CONFLICT (organization_id, task_id) DO NOTHING
""")
_LOCK = text("""
    SELECT begins_ms, ends_ms, total_ms, end_ms, is_trimmed FROM metering.task_times
    WHERE organization_id = :organization_id AND task_id = :task_id FOR UPDATE
""")
_KEEP = text("""
    UPDATE metering.task_times SET
        begins_ms = CAST(:begins_ms AS bigint[]), ends_ms = CAST(:ends_ms AS bigint[]), total_ms = :total_ms,
        end_ms = CAST(:end_ms AS bigint), is_trimmed = :is_trimmed, update_time = :now
    WHERE organization_id = :organization_id AND task_id = :task_id
""")
_FORGET = text("""
    DELETE FROM metering.task_times
    WHERE organization_id = :organization_id AND task_id IN (
        SELECT task_id FROM metering.task_times
        WHERE organization_id = :organization_id AND create_time < :before AND update_time < :before
        ORDER BY create_time LIMIT :count FOR UPDATE SKIP LOCKED)
""")
