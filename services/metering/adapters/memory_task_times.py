"""Task times in memory, for tests of what stands on them; they keep the promises of the port."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from services.metering.adapters.memory import MemoryLedger
from services.metering.domain.task_time import (
    NEVER_REPORTED,
    TaskReport,
    TaskTime,
    TaskTimeAnswer,
    refuse_time_too_large,
    take,
)


class MemoryTaskTimes:
    """TaskTimes over a dictionary and a ledger in memory."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger
        self._tasks: dict[tuple[str, str], TaskTime] = {}

    async def append(self, reports: Sequence[TaskReport], /, *, now: datetime) -> Sequence[TaskTimeAnswer]:
        """As TaskTimes: nothing waits in between, so nothing comes in between."""
        answers: list[TaskTimeAnswer] = []
        for report in reports:
            key = (report.subject.organization_id, report.subject.task_id)
            taken = take(self._tasks.get(key, NEVER_REPORTED), report)
            sequence = 0
            if taken.event is not None:
                (outcome,) = await self._ledger.append([taken.event], now=now)
                refuse_time_too_large(taken.event, outcome)
                sequence = outcome.sequence
            self._tasks[key] = taken.task
            answers.append(TaskTimeAnswer(taken.status, taken.added_ms, taken.task.total_ms, sequence))
        return answers
