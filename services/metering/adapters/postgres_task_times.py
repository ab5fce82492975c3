"""Task times in Postgres, as the writer role; see migrations/0004_task_time.py and 0005."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TypeAlias

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from kit.postgres.arrays import flag_array, number_array, text_array
from kit.postgres.database import Database
from services.metering.adapters.postgres_ledger import append_within
from services.metering.domain import limits
from services.metering.domain.acceptance import Status
from services.metering.domain.events import UsageEvent
from services.metering.domain.task_time import (
    NEVER_REPORTED,
    Stretch,
    TakenReport,
    TaskReport,
    TaskTime,
    TaskTimeAnswer,
    refuse_time_too_large,
    take,
)

_Task: TypeAlias = tuple[str, str]
"""Organization and task id."""


class LedgerDisagrees(Exception):
    """The ledger holds an event of this task that the memory of the task does not know of."""


class PostgresTaskTimes:
    """TaskTimes in one transaction per batch. It locks the rows of the tasks, then the heads of their organizations,
    both in order: every batch does, and nobody else locks both.
    """

    def __init__(self, writer: Database) -> None:
        self._writer = writer

    async def append(self, reports: Sequence[TaskReport], /, *, now: datetime) -> Sequence[TaskTimeAnswer]:
        """As TaskTimes."""
        async with self._writer.transaction() as connection:
            before = await _locked(connection, {_task_of(report) for report in reports}, now)
            tasks, taken = dict(before), list[TakenReport]()
            for report in reports:
                taken.append(take(tasks[_task_of(report)], report))
                tasks[_task_of(report)] = taken[-1].task
            sequences = iter(await _recorded(connection, [each.event for each in taken if each.event is not None], now))
            await _keep(connection, {key: task for key, task in tasks.items() if task != before[key]}, now)
            await _forget(connection, [key for key, task in before.items() if task == NEVER_REPORTED], now)
        return [
            TaskTimeAnswer(each.status, each.added_ms, each.task.total_ms, 0 if each.event is None else next(sequences))
            for each in taken
        ]


def _task_of(report: TaskReport) -> _Task:
    return report.subject.organization_id, report.subject.task_id


async def _locked(connection: AsyncConnection, tasks: Collection[_Task], now: datetime) -> dict[_Task, TaskTime]:
    """What is remembered of each; nobody else can report them until the transaction ends."""
    known: dict[_Task, TaskTime] = {}
    missing = sorted(tasks)
    while missing:  # again when a task is forgotten just now
        asked = _asked(missing)
        await connection.execute(_BEGIN, asked | {"now": now})
        for row in await connection.execute(_LOCK, asked):
            stretches = tuple(Stretch(begin, end) for begin, end in zip(row.begins_ms, row.ends_ms, strict=True))
            known[row.organization_id, row.task_id] = TaskTime(stretches, row.total_ms, row.end_ms, row.is_trimmed)
        missing = [key for key in missing if key not in known]
    return known


async def _recorded(connection: AsyncConnection, events: Sequence[UsageEvent], now: datetime) -> list[int]:
    outcomes = await append_within(connection, events, now=now) if events else []
    for event, outcome in zip(events, outcomes, strict=True):
        refuse_time_too_large(event, outcome)
        if outcome.status is not Status.ACCEPTED:
            # Rolled back and told to the caller: going on would lose or repeat time without a word.
            raise LedgerDisagrees(f"{event.id}: {outcome}")
    return [outcome.sequence for outcome in outcomes]


async def _keep(connection: AsyncConnection, changed: Mapping[_Task, TaskTime], now: datetime) -> None:
    if not changed:
        return
    columns = {
        "begins_ms": text_array([number_array(each.begin_ms for each in task.stretches) for task in changed.values()]),
        "ends_ms": text_array([number_array(each.end_ms for each in task.stretches) for task in changed.values()]),
        "totals_ms": number_array([task.total_ms for task in changed.values()]),
        "end_times_ms": text_array([None if task.end_ms is None else str(task.end_ms) for task in changed.values()]),
        "are_trimmed": flag_array([task.is_trimmed for task in changed.values()]),
    }
    await connection.execute(_KEEP, _asked(changed) | columns | {"now": now})


async def _forget(connection: AsyncConnection, new: Collection[_Task], now: datetime) -> None:
    """Makes room for what is new."""
    if not new:
        return
    counts = Counter(organization_id for organization_id, _ in new)
    names = {
        "organization_ids": text_array(counts),
        "counts": number_array(limits.TASKS_FORGOTTEN_MAX * count for count in counts.values()),
        "before": now - limits.TASK_REMEMBERED,
    }
    await connection.execute(_FORGET, names)


def _asked(tasks: Iterable[_Task]) -> dict[str, str]:
    organization_ids, task_ids = zip(*tasks, strict=True)
    return {"organization_ids": text_array(organization_ids), "task_ids": text_array(task_ids)}


# A concurrent first report waits here for the other one's transaction, and then finds the row. Rows that are there are
# left alone, unlocked: all that are missing are made before the first is locked, so that nobody waits in a circle.
_BEGIN = text("""
    INSERT INTO metering.task_times
        (organization_id, task_id, begins_ms, ends_ms, total_ms, is_trimmed, create_time, update_time)
    SELECT organization_id, task_id, '{}', '{}', 0, false, :now, :now
    FROM unnest(CAST(:organization_ids AS text[]), CAST(:task_ids AS text[])) AS asked (organization_id, task_id)
    ON CONFLICT (organization_id, task_id) DO NOTHING
""")
# One probe of the index for each, in the order asked, which is everybody's.
_LOCK = text("""
    SELECT known.* FROM unnest(CAST(:organization_ids AS text[]), CAST(:task_ids AS text[]))
        AS asked (organization_id, task_id)
    CROSS JOIN LATERAL (
        SELECT organization_id, task_id, begins_ms, ends_ms, total_ms, end_ms, is_trimmed FROM metering.task_times
        WHERE organization_id = asked.organization_id AND task_id = asked.task_id FOR UPDATE
    ) AS known
""")
_KEEP = text("""
    UPDATE metering.task_times AS kept SET
        begins_ms = CAST(changed.begins_ms AS bigint[]), ends_ms = CAST(changed.ends_ms AS bigint[]),
        total_ms = changed.total_ms, end_ms = changed.end_ms, is_trimmed = changed.is_trimmed, update_time = :now
    FROM unnest(
        CAST(:organization_ids AS text[]), CAST(:task_ids AS text[]), CAST(:begins_ms AS text[]),
        CAST(:ends_ms AS text[]), CAST(:totals_ms AS bigint[]), CAST(:end_times_ms AS bigint[]),
        CAST(:are_trimmed AS boolean[])
    ) AS changed (organization_id, task_id, begins_ms, ends_ms, total_ms, end_ms, is_trimmed)
    WHERE kept.organization_id = changed.organization_id AND kept.task_id = changed.task_id
""")
_FORGET = text("""
    DELETE FROM metering.task_times AS forgotten
    USING unnest(CAST(:organization_ids AS text[]), CAST(:counts AS bigint[])) AS asked (organization_id, count)
    CROSS JOIN LATERAL (
        SELECT organization_id, task_id FROM metering.task_times
        WHERE organization_id = asked.organization_id AND create_time < :before AND update_time < :before
        ORDER BY create_time LIMIT asked.count FOR UPDATE SKIP LOCKED
    ) AS old
    WHERE forgotten.organization_id = old.organization_id AND forgotten.task_id = old.task_id
""")
