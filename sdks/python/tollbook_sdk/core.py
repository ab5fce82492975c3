"""Everything of a client but its face: what runs on the SDK's loop, and what any thread may hand to it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import threading
import uuid
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from tollbook.metering.v1 import metering_pb2
from tollbook.metering.v1.metering_pb2 import ProviderCall, Subject
from tollbook.quota.v1 import quota_pb2
from tollbook_sdk.buffer import UsageBuffer, Waiting
from tollbook_sdk.checks import Checks
from tollbook_sdk.clock import Clock
from tollbook_sdk.decision import Decision
from tollbook_sdk.delivery import Delivery
from tollbook_sdk.engine import Engine
from tollbook_sdk.errors import BufferFull, ClientClosed, UsedAcrossFork
from tollbook_sdk.leases import LeaseKeeper, LeaseTerms
from tollbook_sdk.settings import Settings
from tollbook_sdk.spool import Spool
from tollbook_sdk.suite import Suite
from tollbook_sdk.tasks import TaskPlan, TaskRun, Tasks

log = logging.getLogger("tollbook_sdk")

CLOSED = "CLOSED"

current_run: ContextVar[TaskRun | None] = ContextVar("tollbook_sdk_current_run", default=None)
"""The metered task that this code runs in."""


class Core:
    """One client's parts, put together."""

    def __init__(self, settings: Settings, connect: Callable[[], Suite], clock: Clock) -> None:
        self.settings = settings
        self.clock = clock
        self.buffer = UsageBuffer(
            settings.buffer_events_max, settings.on_lost, is_kept=settings.spool_folder is not None
        )
        self.engine = Engine(self._start)
        self._connect = connect
        self._spool = None if settings.spool_folder is None else Spool(settings.spool_folder)
        self._parts: _Parts | None = None
        self._keepers: dict[LeaseKeeper, asyncio.Task[None]] = {}
        self.buffer.on_put = self._wake

    @property
    def parts(self) -> _Parts:
        """What lives on the loop; there once it runs."""
        if self._parts is None:
            self._parts = _Parts(self.settings, self._connect(), self.buffer, self.clock, self._spool)
        return self._parts

    def _start(self) -> None:
        delivery = self.parts.delivery
        self._working = [asyncio.ensure_future(work) for work in (delivery.run(), delivery.keep())]
        delivery.wake()

    def _wake(self) -> None:
        self.engine.nudge(self._wake_delivery)

    def _wake_delivery(self) -> None:
        self.parts.delivery.wake()

    # ---- on the loop

    async def check(self, request: quota_pb2.CheckRequest, budget_seconds: float) -> Decision:
        """See Checks.check."""
        return await self.parts.checks.check(request, budget_seconds)

    async def begin(self, plan: TaskPlan, budget_seconds: float, withdrawn: threading.Event) -> TaskRun:
        """See Tasks.begin. `withdrawn` is set when nobody waits for it any more: then nothing runs."""
        run = await self.parts.tasks.begin(plan, budget_seconds)
        if withdrawn.is_set():
            self.end(run, metering_pb2.TASK_OUTCOME_CANCELLED)
        return run

    def end(self, run: TaskRun, outcome: metering_pb2.TaskOutcome.ValueType) -> None:
        """See Tasks.end."""
        self.parts.tasks.end(run, outcome)

    def abandon(self, request_id: str) -> None:
        """See Tasks.abandon."""
        self.parts.tasks.abandon(request_id)

    async def lease(self, terms: LeaseTerms, budget_seconds: float, withdrawn: threading.Event) -> LeaseKeeper:
        """A lease that is held and kept. Raises as LeaseKeeper.open. `withdrawn` as of `begin`."""
        parts = self.parts
        keeper = LeaseKeeper(
            terms,
            settings=self.settings,
            suite=parts.suite,
            checks=parts.checks,
            buffer=self.buffer,
            clock=self.clock,
        )
        await keeper.open(budget_seconds)
        keeper.purse.on_low = functools.partial(self.engine.nudge, keeper.wake)
        self._keepers[keeper] = asyncio.ensure_future(keeper.keep())
        if withdrawn.is_set():
            await self.close_lease(keeper)
        return keeper

    async def close_lease(self, keeper: LeaseKeeper) -> None:
        """See LeaseKeeper.close."""
        await keeper.close()
        keeping = self._keepers.pop(keeper, None)
        if keeping is not None:
            keeping.cancel()

    async def flush(self) -> None:
        """Returns when everything recorded until now is acknowledged and every ended task is settled."""
        for keeper in self._keepers:
            keeper.report()
        while True:
            await self.parts.delivery.drained()
            settling = self.parts.tasks.settling
            if not settling:
                return
            await asyncio.wait(settling)

    async def farewell(self) -> None:
        """Ends tasks and leases, and sends what waits."""
        self.parts.tasks.end_all()
        closing = [asyncio.ensure_future(self.close_lease(keeper)) for keeper in list(self._keepers)]
        await self.flush()
        await asyncio.gather(*closing)
        await self.flush()

    # ---- from any thread

    def record(
        self,
        measurements: Mapping[str, int],
        *,
        run: TaskRun | None,
        subject: Subject | None,
        labels: Mapping[str, str] | None,
        event_id: str,
        event_time: datetime | None,
        reservation_id: str,
        call: ProviderCall | None = None,
    ) -> str:
        """Puts an event into the buffer; its id. Raises BufferFull, ClientClosed, UsedAcrossFork."""
        if not self.engine.is_running:
            self.engine.post(lambda: None)
        if run is not None and subject is None:
            subject, reservation_id = run.plan.subject, reservation_id or run.reservation_id
        event = metering_pb2.UsageEvent(
            id=event_id or uuid.uuid4().hex,
            source=self.settings.source,
            subject=subject or Subject(),
            event_time=Timestamp(),
            measurements=[
                metering_pb2.Measurement(meter=meter, quantity=quantity) for meter, quantity in measurements.items()
            ],
            provider_call=call,
            reservation_id=reservation_id,
            labels=labels or {},
        )
        if event_time is None:
            event.event_time.FromNanoseconds(self.clock.wall_ns())
        else:
            event.event_time.FromDatetime(event_time)
        self.buffer.put(Waiting(event))
        if run is not None and reservation_id == run.reservation_id:
            run.note_recorded(measurements)
        return event.id

    def record_call(self, call: ProviderCall, *, run: TaskRun | None, subject: Subject | None) -> None:
        """Puts a model call into the buffer. Never raises: the answer that was paid for matters more to the caller."""
        quantities = {
            "api_calls": 1,
            "tokens_input": call.tokens_input_uncached,
            "tokens_cache_read": call.tokens_cache_read,
            "tokens_cache_write": call.tokens_cache_write,
            "tokens_output": call.tokens_output,
            "tokens_reasoning": call.tokens_reasoning,
        }
        try:
            self.record(
                {meter: quantity for meter, quantity in quantities.items() if quantity},
                run=run,
                subject=subject,
                labels=None,
                event_id="",
                event_time=None,
                reservation_id="",
                call=call,
            )
        except (BufferFull, ClientClosed, UsedAcrossFork) as error:
            # BufferFull has been counted and told; the others mean that there is nobody left to send it.
            log.error("model_call_not_recorded error=%s", error)  # noqa: TRY400 - says all there is to say

    def close(self, seconds: float) -> bool:
        """Ends tasks and leases, sends what waits for at most so long, and stops. Whether everything was sent.

        What was not sent stays in the spool; without one it is reported to `on_lost`.
        """
        if self.engine.is_foreign:
            return True  # all of it is the parent's, its connections too
        self.engine.stop(self.farewell, seconds)
        for keeper in self._keepers:
            keeper.purse.close()
        if self._parts is not None:
            self._parts.suite.close()
        left = self.buffer.close()
        if self._spool is not None:
            with contextlib.suppress(OSError):  # then it is reported as lost, below
                self._spool.keep(left)
            self._spool.close()
        for item in left:
            if item.segment is None:
                self.buffer.lose(item.usage, CLOSED, "the client was closed before it was sent")
        return not left


class _Parts:
    """What the first use makes."""

    def __init__(
        self, settings: Settings, suite: Suite, buffer: UsageBuffer, clock: Clock, spool: Spool | None
    ) -> None:
        self.suite = suite
        self.checks = Checks(suite, clock, settings.on_unavailable)
        self.tasks = Tasks(settings, suite, self.checks, buffer, clock)
        self.delivery = Delivery(buffer, suite, clock, call_seconds=settings.call_seconds, spool=spool)
