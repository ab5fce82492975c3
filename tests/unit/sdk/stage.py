"""The SDK's core on a clock that stands still and a suite in memory, without threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tollbook.metering.v1.metering_pb2 import Subject
from tollbook_sdk.buffer import UsageBuffer
from tollbook_sdk.checks import Checks
from tollbook_sdk.delivery import Delivery
from tollbook_sdk.leases import LeaseKeeper, LeaseTerms
from tollbook_sdk.memory import MemorySuite
from tollbook_sdk.settings import LostUsage, Settings
from tollbook_sdk.spool import Spool
from tollbook_sdk.suite import CallFailed
from tollbook_sdk.tasks import TaskPlan, Tasks

AWAY = CallFailed("UNAVAILABLE", "DEPENDENCY_UNAVAILABLE", "away")
# How many times a loop turns for a chain of awaits to come to rest; no call of the fakes needs as many.
_TURNS = 60


async def rest() -> None:
    """Lets everything that is ready run."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)


class StillClock:
    """As Clock; stands still until it is moved."""

    def __init__(self) -> None:
        self._seconds = 1_000.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def wall_ns(self) -> int:
        return 1_800_000_000_000_000_000 + round(self._seconds * 1e9)

    def running(self) -> float:
        return self._seconds

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._seconds + seconds, future))
        await future

    async def advance(self, seconds: float) -> None:
        """Moves on, stopping wherever somebody wakes."""
        until = self._seconds + seconds
        await rest()
        while True:
            self._sleepers = [each for each in self._sleepers if not each[1].done()]
            due = min((each for each in self._sleepers if each[0] <= until), key=lambda each: each[0], default=None)
            if due is None:
                break
            self._seconds = max(self._seconds, due[0])
            due[1].set_result(None)
            await rest()
        self._seconds = until


class Stage:
    """The parts of a client, each within reach."""

    def __init__(self, settings: Settings, suite: MemorySuite, clock: StillClock, lost: list[LostUsage]) -> None:
        self.settings = settings
        self.suite = suite
        self.clock = clock
        self.lost = lost
        self.buffer = UsageBuffer(settings.buffer_events_max, lost.append, is_kept=settings.spool_folder is not None)
        self.spool = None if settings.spool_folder is None else Spool(settings.spool_folder)
        self.checks = Checks(suite, clock, settings.on_unavailable)
        self.tasks = Tasks(settings, suite, self.checks, self.buffer, clock)
        self.delivery = Delivery(
            self.buffer, suite, clock, call_seconds=settings.call_seconds, spool=self.spool, chance=lambda: 0.0
        )
        self.buffer.on_put = self.delivery.wake
        self._running: list[asyncio.Task[None]] = []

    def run(self) -> None:
        """Starts the sender."""
        self._running += [asyncio.ensure_future(work) for work in (self.delivery.run(), self.delivery.keep())]

    def stop(self) -> None:
        for task in self._running:
            task.cancel()

    def plan(self, name: str = "task-1", *, seconds: float = 60.0, **reserve: int) -> TaskPlan:
        return TaskPlan(request_id=f"hold-{name}", subject=Subject(task_id=name), seconds=seconds, reserve=reserve)

    async def lease(self, size: int, *, seconds: float = 30.0, margin: float = 2.0, name: str = "lease") -> LeaseKeeper:
        """A lease of api_calls that is kept."""
        terms = LeaseTerms(
            lease_id=name,
            subject=Subject(),
            meter="api_calls",
            size=size,
            seconds=seconds,
            margin_seconds=margin,
        )
        keeper = LeaseKeeper(
            terms, settings=self.settings, suite=self.suite, checks=self.checks, buffer=self.buffer, clock=self.clock
        )
        await keeper.open(1.0)
        keeper.purse.on_low = keeper.wake
        self._running.append(asyncio.ensure_future(keeper.keep()))
        return keeper


@asynccontextmanager
async def stage(limits: dict[str, int] | None = None, **settings: object) -> AsyncIterator[Stage]:
    """A stage whose sender runs."""
    clock = StillClock()
    made = Settings(quota="q:1", metering="m:1", **settings)  # type: ignore[arg-type]  # each test names its own
    found = Stage(made, MemorySuite(limits, clock=clock), clock, [])
    found.run()
    try:
        yield found
    finally:
        found.stop()
