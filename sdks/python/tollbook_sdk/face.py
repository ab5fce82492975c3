"""What all clients have in common: recording, metering a task, watching model calls."""

from __future__ import annotations

import atexit
import concurrent.futures
import functools
import threading
import weakref
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime, timedelta
from typing import Any, ParamSpec, TypeVar

from tollbook.metering.v1.metering_pb2 import ProviderCall, Subject
from tollbook.quota.v1 import quota_pb2
from tollbook_sdk.buffer import UsageCounts
from tollbook_sdk.checks import check_request, new_request_id
from tollbook_sdk.clock import Clock, SystemClock
from tollbook_sdk.core import Core, current_run
from tollbook_sdk.decision import Decision
from tollbook_sdk.grpc_suite import GrpcSuite
from tollbook_sdk.leases import LeaseKeeper, LeaseTerms
from tollbook_sdk.metered_task import MeteredTask
from tollbook_sdk.model_calls import ANTHROPIC, OPENAI, OPENAI_REASONING_APART, ModelCall, Shape, watched
from tollbook_sdk.settings import Settings
from tollbook_sdk.suite import Suite
from tollbook_sdk.tasks import ONE_AGENT, TaskPlan

P = ParamSpec("P")
R = TypeVar("R")

_MINUTE = timedelta(minutes=1)


class _CallRecorder:
    """Records model calls for whoever makes them: the task and subject are those of the moment the call began."""

    def __init__(self, core: Core, subject: Subject | None) -> None:
        self._core = core
        self._run = current_run.get()
        self._subject = subject

    def record_call(self, call: ProviderCall) -> None:
        self._core.record_call(call, run=self._run, subject=self._subject)

    def running(self) -> float:
        return self._core.clock.running()


class Face:
    """What never waits: the same for every client. What waits is prepared here, and waited for by the client."""

    def __init__(self, settings: Settings, *, suite: Suite | None = None, clock: Clock | None = None) -> None:
        """`suite` and `clock` stand in for the real ones, in tests."""
        self._core = Core(settings, lambda: suite or GrpcSuite(settings), clock or SystemClock())
        # By a weak reference: the interpreter's exit closes what is still in use and keeps nothing else alive.
        self._at_exit = functools.partial(_close_at_exit, weakref.ref(self._core), settings.close_seconds)
        atexit.register(self._at_exit)

    def metered_task(
        self,
        subject: Subject | None = None,
        *,
        estimate: timedelta = _MINUTE,
        reserve: Mapping[str, int] = ONE_AGENT,
        budget: timedelta | None = None,
    ) -> MeteredTask:
        """Holds what the task needs, reports its time while it runs, and settles after it, whatever happens.

        Entering asks for agent-minutes of the estimate and for what else is to be reserved, by meter in base units,
        all or nothing, and waits for at most the budget (Settings.check_budget_seconds). It raises QuotaDenied,
        RequestRefused and BufferFull; nothing is held then. Every 10 seconds the task is reported alive and its
        reservation extended, beyond the estimate if need be. When that is denied, an asyncio task is cancelled and
        leaves the block with QuotaExhausted; code without a loop gets QuotaExhausted from `check()` or from recording.
        Leaving never waits: the end, with outcome SUCCEEDED, FAILED or CANCELLED, is sent in the background. A process
        that is killed leaves a reservation that ends by time, and a task billed up to its last report.

        A subject without a task_id gets a new one; task ids are unique for ever. As a decorator, leave it out.
        """
        template = Subject()
        if subject is not None:
            template.CopyFrom(subject)

        def plan() -> TaskPlan:
            mine = Subject()
            mine.CopyFrom(template)
            mine.task_id = mine.task_id or new_request_id()
            return TaskPlan(
                request_id=new_request_id(),
                subject=mine,
                seconds=estimate.total_seconds(),
                reserve=dict(reserve),
            )

        return MeteredTask(self._core, plan, self._budget(budget))

    def record(
        self,
        measurements: Mapping[str, int],
        *,
        subject: Subject | None = None,
        labels: Mapping[str, str] | None = None,
        event_id: str = "",
        event_time: datetime | None = None,
        reservation_id: str = "",
    ) -> str:
        """Records usage, by meter in base units; the event's id. Never waits.

        Within a metered task the usage is the task's and draws its reservation down, unless a subject is given. A naive
        event_time is UTC; None: now. Raises BufferFull, and QuotaExhausted (the usage is recorded all the same) within
        a task that may not go on.
        """
        run = current_run.get()
        recorded = self._core.record(
            measurements,
            run=run,
            subject=subject,
            labels=labels,
            event_id=event_id,
            event_time=event_time,
            reservation_id=reservation_id,
        )
        if run is not None and run.exhausted is not None:
            raise run.exhausted
        return recorded

    def model_call(
        self,
        provider: str,
        *,
        model: str = "",
        operation: str = "chat",
        shape: Shape | None = None,
        subject: Subject | None = None,
    ) -> ModelCall:
        """One call to a model provider, as a context manager, with or without `async`."""
        return ModelCall(_CallRecorder(self._core, subject), provider, model=model, operation=operation, shape=shape)

    def watch(
        self,
        provider: str,
        function: Callable[P, R],
        *,
        shape: Shape | None = None,
        operation: str = "chat",
        subject: Subject | None = None,
    ) -> Callable[P, R]:
        """The function, with every call of it recorded as a call to the provider: plain, coroutine or streaming."""

        def begin() -> ModelCall:
            return self.model_call(provider, operation=operation, shape=shape, subject=subject)

        return watched(begin, function)

    def watch_openai(
        self,
        function: Callable[P, R],
        *,
        provider: str = "openai",
        operation: str = "chat",
        reasoning_is_apart: bool = False,
        subject: Subject | None = None,
    ) -> Callable[P, R]:
        """`client.chat.completions.create`, `client.responses.create` and whatever answers in these shapes.

        Streamed completions bear their usage only when asked to: stream_options={"include_usage": True}.
        """
        shape = OPENAI_REASONING_APART if reasoning_is_apart else OPENAI
        return self.watch(provider, function, shape=shape, operation=operation, subject=subject)

    def watch_anthropic(
        self,
        function: Callable[P, R],
        *,
        provider: str = "anthropic",
        operation: str = "chat",
        subject: Subject | None = None,
    ) -> Callable[P, R]:
        """`client.messages.create`, streamed or not, and whatever answers in this shape."""
        return self.watch(provider, function, shape=ANTHROPIC, operation=operation, subject=subject)

    @property
    def usage_counts(self) -> UsageCounts:
        """What became of usage so far."""
        return self._core.buffer.counts()

    def _budget(self, budget: timedelta | None) -> float:
        return self._core.settings.check_budget_seconds if budget is None else budget.total_seconds()

    def _check(
        self,
        consumptions: Mapping[str, int | None],
        *,
        subject: Subject | None,
        hold: timedelta | None,
        request_id: str,
        consume: bool,
        budget: timedelta | None,
    ) -> Coroutine[Any, Any, Decision]:
        request = check_request(
            request_id or new_request_id(),
            subject or Subject(),
            consumptions,
            hold_seconds=None if hold is None else hold.total_seconds(),
            mode=quota_pb2.CHECK_MODE_CONSUME if consume else quota_pb2.CHECK_MODE_UNSPECIFIED,
        )
        return self._core.check(request, self._budget(budget))

    def _lease(
        self,
        meter: str,
        size: int,
        *,
        subject: Subject | None,
        hold: timedelta,
        margin: timedelta,
        budget: timedelta | None,
        withdrawn: threading.Event,
    ) -> concurrent.futures.Future[LeaseKeeper]:
        terms = LeaseTerms(
            lease_id=new_request_id(),
            subject=subject or Subject(),
            meter=meter,
            size=size,
            seconds=hold.total_seconds(),
            margin_seconds=margin.total_seconds(),
        )
        return self._core.engine.submit(self._core.lease(terms, self._budget(budget), withdrawn))

    def _withdraw_lease(self, begun: concurrent.futures.Future[LeaseKeeper]) -> None:
        """Whoever asked went away: what was or will be leased all the same is given back."""
        if not begun.cancel() and begun.exception() is None and self._core.engine.is_running:
            self._core.engine.submit(self._core.close_lease(begun.result()))

    def start(self) -> None:
        """Connects now instead of with the first use, which then does not pay for it out of its budget."""
        self._core.engine.post(lambda: None)

    def _close(self, seconds: float | None) -> bool:
        atexit.unregister(self._at_exit)
        return self._core.close(self._core.settings.close_seconds if seconds is None else seconds)


def _close_at_exit(core: weakref.ref[Core], seconds: float) -> None:
    alive = core()
    if alive is not None:
        alive.close(seconds)
