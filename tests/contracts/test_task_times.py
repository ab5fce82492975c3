"""The promises of TaskTimes, on memory and on Postgres."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest

from kit.clock import unix_microseconds
from kit.feed import START
from kit.postgres.database import Database
from kit.postgres.embedded import EmbeddedPostgres
from kit.testing.clock import FakeClock
from services.metering.adapters.memory import MemoryLedger
from services.metering.adapters.memory_task_times import MemoryTaskTimes
from services.metering.adapters.postgres_ledger import PostgresLedgerReader, PostgresLedgerWriter
from services.metering.adapters.postgres_task_times import LedgerDisagrees, PostgresTaskTimes
from services.metering.application.commit_batches import CommitBatches
from services.metering.application.ports import LedgerReader, LedgerWriter, TaskTimes
from services.metering.application.report_task_time import ReportTaskTime
from services.metering.domain import limits
from services.metering.domain.acceptance import Status
from services.metering.domain.errors import TaskTimeTooLarge
from services.metering.domain.events import LedgerEvent, Measurement, Subject, TaskOutcome
from services.metering.domain.task_time import ReportStatus, TaskPhase, TaskReport, TaskTimeAnswer, usage_event


@dataclass
class House:
    """Task times over one store, and an organization that no other test uses."""

    times: TaskTimes
    writer: LedgerWriter
    reader: LedgerReader
    organization_id: str
    now: datetime

    def report_at(self, second: float, phase: TaskPhase = TaskPhase.HEARTBEAT, *, task_id: str = "t1") -> TaskReport:
        start_ms = unix_microseconds(self.now - timedelta(hours=1)) // 1_000
        outcome = TaskOutcome.SUCCEEDED if phase is TaskPhase.END else TaskOutcome.UNSPECIFIED
        return TaskReport(
            subject=Subject(organization_id=self.organization_id, project_id="p1", task_id=task_id),
            phase=phase,
            time_ms=start_ms + round(second * 1_000),
            outcome=outcome,
            reservation_id="r1",
        )

    async def send(
        self, second: float, phase: TaskPhase = TaskPhase.HEARTBEAT, *, task_id: str = "t1"
    ) -> TaskTimeAnswer:
        return await self.take(self.report_at(second, phase, task_id=task_id))

    async def take(self, report: TaskReport) -> TaskTimeAnswer:
        (answer,) = await self.times.append([report], now=self.now)
        return answer

    async def entries(self) -> list[LedgerEvent]:
        return [entry async for page in self.reader.read(self.organization_id, START) for entry in page.entries]

    async def recorded_ms(self) -> int:
        return sum(entry.event.measurements[0].quantity for entry in await self.entries())


@pytest.fixture(params=["memory", "postgres"])
async def house(request: pytest.FixtureRequest, migrated: Callable[[str], dict[str, str]]) -> AsyncIterator[House]:
    organization_id, now = f"org-{uuid4().hex}", datetime.now(UTC)
    if request.param == "memory":
        ledger = MemoryLedger()
        yield House(MemoryTaskTimes(ledger), ledger, ledger, organization_id, now)
        return
    databases = {kind: Database(url) for kind, url in migrated("metering").items()}
    yield House(
        PostgresTaskTimes(databases["writer"]),
        PostgresLedgerWriter(databases["writer"]),
        PostgresLedgerReader(databases["tenant"]),
        organization_id,
        now,
    )
    for database in databases.values():
        await database.close()


async def test_what_reports_add_is_in_the_ledger_when_they_are_answered(house: House) -> None:
    assert await house.send(0, TaskPhase.START) == TaskTimeAnswer(ReportStatus.RECORDED, 0, 0, 0)
    assert await house.send(10) == TaskTimeAnswer(ReportStatus.RECORDED, 10_000, 10_000, 1)
    assert await house.send(12.5, TaskPhase.END) == TaskTimeAnswer(ReportStatus.RECORDED, 2_500, 12_500, 2)
    heartbeat, end = [entry.event for entry in await house.entries()]
    assert heartbeat == usage_event(house.report_at(10), 10_000, ends=False)
    assert heartbeat.source == "task-time"
    assert heartbeat.measurements == (Measurement("agent_minutes", 10_000),)
    assert end.reservation_final
    assert not heartbeat.reservation_final


async def test_a_report_that_is_sent_again_adds_nothing_and_tells_the_same_total(house: House) -> None:
    for second in (0, 10, 20):
        await house.send(second)
    for _ in range(2):
        assert await house.send(20) == TaskTimeAnswer(ReportStatus.COVERED, 0, 20_000, 0)
    assert await house.recorded_ms() == 20_000


@pytest.mark.parametrize("phase", [TaskPhase.START, TaskPhase.HEARTBEAT, TaskPhase.END])
async def test_a_crash_of_the_caller_never_bills_past_the_last_heartbeat_plus_one_interval(
    house: House, phase: TaskPhase
) -> None:
    for second in (0, 10, 20, 30):
        await house.send(second, TaskPhase.HEARTBEAT if second else TaskPhase.START)
    assert await house.recorded_ms() == 30_000
    # Another process takes over half an hour later, not knowing that the task had begun, or that it was still alive.
    await house.send(1_830, phase)
    assert await house.recorded_ms() == 40_000


async def test_reports_of_many_callers_at_once_share_a_transaction(postgres_house: House) -> None:
    house = postgres_house
    batches = CommitBatches(house.times, kind="task_reports", transactions=1)
    report = ReportTaskTime(batches, FakeClock(house.now))
    tasks = [f"t{number}" for number in range(500)]
    for second in (0, 10, 20):
        answers = await asyncio.gather(*(report(house.report_at(second, task_id=task_id)) for task_id in tasks))
        assert {answer.added_ms for answer in answers} == {10_000 if second else 0}
    commits = Counter(entry.commit_id for entry in await house.entries())
    assert sorted(commits.values()) == [500, 500]
    await batches.close()


async def test_reports_at_the_same_time_count_each_moment_once(house: House) -> None:
    seconds = list(range(0, 200, 10)) * 3
    random.Random(7).shuffle(seconds)
    answers = await asyncio.gather(*(house.send(second) for second in seconds))
    assert sum(answer.added_ms for answer in answers) == 190_000
    assert await house.recorded_ms() == 190_000
    assert (await house.send(190)).total_ms == 190_000


async def test_reports_of_many_tasks_and_other_batches_at_the_same_time_do_not_block_each_other(house: House) -> None:
    async def other_batch(number: int) -> None:
        event = replace(usage_event(house.report_at(0), 1, ends=False), id=f"other-{number}", source="tests")
        await house.writer.append([event], now=house.now)

    tasks = [f"task-{number}" for number in range(10)]
    await asyncio.gather(
        *(house.send(second, task_id=task_id) for task_id in tasks for second in (0, 10, 20)),
        *(other_batch(number) for number in range(20)),
    )
    assert await house.recorded_ms() == 10 * 20_000 + 20
    assert [entry.sequence for entry in await house.entries()] == list(range(1, len(await house.entries()) + 1))


async def test_a_batch_of_reports_of_many_tasks_and_organizations_is_taken_as_one_after_another(house: House) -> None:
    other = replace(house, organization_id=f"{house.organization_id}-b")
    batch = [
        sender.report_at(second, task_id=task_id)
        for second in (10, 0, 20, 10, 70, 20)
        for sender in (house, other)
        for task_id in ("t2", "t1")
    ]
    answers = await house.times.append(batch, now=house.now)
    alone = [await house.take(replace(each, subject=replace(each.subject, agent_id="x"))) for each in batch]
    assert {answer.added_ms for answer in alone} == {0}
    added = [answer.added_ms for answer in answers]
    assert added == [0] * 4 + [10_000] * 8 + [0] * 4 + [10_000] * 4 + [0] * 4
    assert [answer.sequence for answer in answers if answer.sequence] == [
        number for first in (1, 3, 5) for number in (first, first + 1) * 2
    ]
    for sender in (house, other):
        assert await sender.recorded_ms() == 2 * 30_000
        assert [entry.sequence for entry in await sender.entries()] == list(range(1, 7))


async def test_tasks_of_one_name_in_two_organizations_are_two_tasks(house: House) -> None:
    await house.send(0)
    other = replace(house.report_at(10), subject=Subject(organization_id=f"{house.organization_id}-b", task_id="t1"))
    assert (await house.take(other)).added_ms == 0
    assert (await house.send(10)).added_ms == 10_000


@pytest.fixture
async def postgres_house(migrated: Callable[[str], dict[str, str]]) -> AsyncIterator[House]:
    databases = {kind: Database(url) for kind, url in migrated("metering").items()}
    writer, reader = PostgresLedgerWriter(databases["writer"]), PostgresLedgerReader(databases["tenant"])
    times = PostgresTaskTimes(databases["writer"])
    yield House(times, writer, reader, f"org-{uuid4().hex}", datetime.now(UTC))
    for database in databases.values():
        await database.close()


async def test_batches_of_the_same_tasks_in_other_orders_at_the_same_time_wait_in_no_circle(
    postgres_house: House,
) -> None:
    house = postgres_house
    other = replace(house, organization_id=f"{house.organization_id}-b")
    chance = random.Random(3)
    reports = [
        sender.report_at(second, task_id=f"t{number}")
        for sender in (house, other)
        for number in range(6)
        for second in range(0, 100, 10)
    ]

    async def send() -> None:
        mine = chance.sample(reports, len(reports))
        for start in range(0, len(mine), 15):
            await house.times.append(mine[start : start + 15], now=house.now)

    await asyncio.gather(*(send() for _ in range(6)))
    assert await house.recorded_ms() == await other.recorded_ms() == 6 * 90_000


async def test_a_report_that_the_ledger_refuses_leaves_no_memory_behind(postgres_house: House) -> None:
    house = postgres_house
    await house.send(0)
    foreign = replace(usage_event(house.report_at(10), 10_000, ends=False), task_outcome=TaskOutcome.FAILED)
    assert (await house.writer.append([foreign], now=house.now))[0].status is Status.ACCEPTED
    with pytest.raises(LedgerDisagrees):
        await house.send(10)
    assert await house.send(20) == TaskTimeAnswer(ReportStatus.RECORDED, 20_000, 20_000, 2)


async def test_time_that_the_totals_cannot_hold_is_refused_and_counts_once_there_is_room(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.send(0)
    with monkeypatch.context() as full:
        full.setattr(limits, "TOTAL_MAX", 10_000 * limits.VOLUME_SHARE - 1)
        with pytest.raises(TaskTimeTooLarge):
            await house.send(10)
    assert await house.send(10) == TaskTimeAnswer(ReportStatus.RECORDED, 10_000, 10_000, 1)


async def test_tasks_that_can_get_no_report_any_more_are_forgotten(
    postgres_house: House, postgres: EmbeddedPostgres
) -> None:
    house = postgres_house
    for number in range(3):
        await house.send(0, task_id=f"old-{number}")
    later = house.now + limits.TASK_REMEMBERED + timedelta(seconds=1)
    alive = replace(house.report_at(0, task_id="alive"), time_ms=unix_microseconds(later) // 1_000)
    await house.times.append([alive], now=later)
    with psycopg.connect(postgres.url) as owner:
        rows = owner.execute(
            "SELECT task_id FROM metering.task_times WHERE organization_id = %s", (house.organization_id,)
        ).fetchall()
    assert rows == [("alive",)]
