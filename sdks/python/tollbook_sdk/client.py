"""The clients: one for code with an event loop, one for code without. Both are faces of the same core.

What never waits (recording, metering a task, watching model calls) is in `_Client`, for both. What waits exists once in
the core; a face only says how to wait for it.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import functools
import inspect
import threading
import weakref
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, cast

from tollbook.metering.v1 import metering_pb2
from tollbook.metering.v1.metering_pb2 import ProviderCall, Subject
from tollbook.quota.v1 import quota_pb2
from tollbook_sdk.buffer import UsageCounts
from tollbook_sdk.checks import check_request, new_request_id
from tollbook_sdk.clock import Clock, SystemClock
from tollbook_sdk.core import Core, current_run
from tollbook_sdk.decision import Decision
from tollbook_sdk.errors import QuotaExhausted
from tollbook_sdk.grpc_suite import GrpcSuite
from tollbook_sdk.leases import LeaseKeeper, LeaseTerms
from tollbook_sdk.model_calls import ANTHROPIC, OPENAI, OPENAI_REASONING_APART, ModelCall, Shape, watched
from tollbook_sdk.settings import Settings
from tollbook_sdk.suite import Suite
from tollbook_sdk.tasks import ONE_AGENT, TaskPlan, TaskRun

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_MINUTE = timedelta(minutes=1)
_LEASE = timedelta(seconds=30)
_LEASE_MARGIN = timedelta(seconds=2)


class MeteredTask:
    """A task that may run, and is metered while it does. Made by `metered_task`; enter it once, with `with` or
    `async with`, or decorate functions with it, plain or coroutine, which makes a new one for every call.
    """

    def __init__(self, core: Core, plan: Callable[[], TaskPlan], budget_seconds: float) -> None:
        self._core = core
        self._plan_of = plan
        self._budget_seconds = budget_seconds
        self._run: TaskRun | None = None
        self._token: Any = None
        self._interrupt: _Interrupt | None = None
        self._drop: Any = None

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """The function, metered: each call is a task."""
        if inspect.iscoroutinefunction(function):

            async def run_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                async with self._anew():
                    return await function(*args, **kwargs)

            return cast("Callable[P, R]", functools.wraps(function)(run_async))

        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            with self._anew():
                return function(*args, **kwargs)

        return run

    def _anew(self) -> MeteredTask:
        return MeteredTask(self._core, self._plan_of, self._budget_seconds)

    @property
    def task_id(self) -> str:
        """Its id."""
        return self._running.plan.subject.task_id

    @property
    def reservation_id(self) -> str:
        """Its reservation: usage that names it draws it down."""
        return self._running.reservation_id

    @property
    def decision(self) -> Decision:
        """What the check before it was answered."""
        return self._running.decision

    @property
    def is_exhausted(self) -> bool:
        """Whether it may not go on. Any thread."""
        return self._running.exhausted is not None

    def check(self) -> None:
        """Raises QuotaExhausted when the task may not go on. Never waits; any thread.

        Python cannot stop a thread from outside: code without an event loop is stopped where it calls this, or records
        usage. Call it between steps.
        """
        if self._running.exhausted is not None:
            raise self._running.exhausted

    def on_exhausted(self, tell: Callable[[], None]) -> None:
        """Calls it, on the SDK's thread, once the task may not go on: to stop a child process, for example."""
        self._running.on_exhausted(tell)

    @property
    def _running(self) -> TaskRun:
        if self._run is None:
            raise RuntimeError("the task has not begun")
        return self._run

    def __enter__(self) -> Self:
        plan, withdrawn = self._new_plan(), threading.Event()
        begun = self._core.engine.submit(self._core.begin(plan, self._budget_seconds, withdrawn))
        try:
            self._begin(begun.result())
        except BaseException:
            withdrawn.set()
            begun.cancel()
            _abandon(self._core, plan.request_id)
            raise
        return self

    async def __aenter__(self) -> Self:
        plan, withdrawn = self._new_plan(), threading.Event()
        begun = self._core.engine.submit(self._core.begin(plan, self._budget_seconds, withdrawn))
        try:
            self._begin(await asyncio.wrap_future(begun))
        except BaseException:
            withdrawn.set()
            begun.cancel()
            _abandon(self._core, plan.request_id)
            raise
        self._interrupt = _Interrupt()
        self._running.on_exhausted(self._interrupt.soon)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(error)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(error)
        exhausted = self._running.exhausted
        if self._interrupt is not None and self._interrupt.was_the_reason(error) and exhausted is not None:
            raise exhausted from error

    def _new_plan(self) -> TaskPlan:
        if self._run is not None:
            raise RuntimeError("a metered task is entered once; make another")
        return self._plan_of()

    def _begin(self, run: TaskRun) -> None:
        self._run = run
        self._token = current_run.set(run)
        # A body that is dropped in the middle, such as an abandoned generator, must not be billed for ever.
        self._drop = weakref.finalize(self, _abandon, self._core, run.plan.request_id)
        self._drop.atexit = False  # the client's own exit ends its tasks

    def _end(self, error: BaseException | None) -> None:
        self._drop.detach()
        with contextlib.suppress(ValueError):  # entered in another context, as a generator's steps can be
            current_run.reset(self._token)
        if self._core.engine.is_running:
            self._core.engine.post(self._core.end, self._running, _outcome(error))


def _abandon(core: Core, request_id: str) -> None:
    if core.engine.is_running:
        core.engine.post(core.abandon, request_id)


def _outcome(error: BaseException | None) -> metering_pb2.TaskOutcome.ValueType:
    if error is None:
        return metering_pb2.TASK_OUTCOME_SUCCEEDED
    if isinstance(error, (asyncio.CancelledError, KeyboardInterrupt, GeneratorExit, QuotaExhausted)):
        return metering_pb2.TASK_OUTCOME_CANCELLED
    return metering_pb2.TASK_OUTCOME_FAILED


class _Interrupt:
    """Cancels the asyncio task that made it, from another thread, and knows afterwards whether it was this."""

    def __init__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("not within an asyncio task")
        self._task = task
        self._loop = asyncio.get_running_loop()
        self._cancellations = task.cancelling()
        self._has_cancelled = False
        self._is_over = False

    def soon(self) -> None:
        """Cancels, unless it is over by then."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if not self._is_over:
            self._has_cancelled = True
            self._task.cancel()

    def was_the_reason(self, error: BaseException | None) -> bool:
        """Ends it; whether the error is its cancellation and nobody else's."""
        self._is_over = True
        if not self._has_cancelled:
            return False
        return self._task.uncancel() <= self._cancellations and isinstance(error, asyncio.CancelledError)


class Lease:
    """A reservation that this process spends by itself. Any thread, any loop; it stops by itself before it ends.

    `try_spend` is the whole of it: what it allowed is also recorded as usage, once a second.
    """

    def __init__(self, core: Core, keeper: LeaseKeeper) -> None:
        self._core = core
        self._keeper = keeper
        self.try_spend = keeper.purse.try_spend
        """try_spend(quantity, task_id="") -> bool: spends it, if so much is left and the lease is valid; else changes
        nothing. Never waits; some hundreds of nanoseconds. The task, if any, bears the usage.
        """

    @property
    def lease_id(self) -> str:
        """Its reservation's id."""
        return self._keeper.terms.lease_id

    @property
    def left(self) -> int:
        """What may be spent now without another renewal; 0 when it is not valid."""
        return self._keeper.purse.left

    @property
    def spent(self) -> int:
        """What was spent in all."""
        return self._keeper.purse.spent

    @property
    def is_valid(self) -> bool:
        """Whether it holds now. It becomes valid again when a renewal succeeds."""
        return self._keeper.purse.is_valid

    @property
    def denial(self) -> Decision | None:
        """Why it is not filled up again; None: it is."""
        return self._keeper.denial

    def close(self) -> None:
        """Stops spending at once; what is left of the hold is freed in the background. `flush` waits for the usage."""
        self._keeper.purse.close()
        if self._core.engine.is_running:
            self._core.engine.submit(self._core.close_lease(self._keeper))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


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


class _Client:
    """What never waits."""

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


class Tollbook(_Client):
    """The client for code without an event loop. Any thread may use it."""

    def check(
        self,
        consumptions: Mapping[str, int | None],
        *,
        subject: Subject | None = None,
        hold: timedelta | None = None,
        request_id: str = "",
        consume: bool = False,
        budget: timedelta | None = None,
    ) -> Decision:
        """See AsyncTollbook.check."""
        return self._wait(
            self._check(consumptions, subject=subject, hold=hold, request_id=request_id, consume=consume, budget=budget)
        )

    def lease(
        self,
        meter: str,
        size: int,
        *,
        subject: Subject | None = None,
        hold: timedelta = _LEASE,
        margin: timedelta = _LEASE_MARGIN,
        budget: timedelta | None = None,
    ) -> Lease:
        """See AsyncTollbook.lease."""
        withdrawn = threading.Event()
        begun = self._lease(meter, size, subject=subject, hold=hold, margin=margin, budget=budget, withdrawn=withdrawn)
        try:
            return Lease(self._core, begun.result())
        except BaseException:
            withdrawn.set()
            self._withdraw_lease(begun)
            raise

    def flush(self, timeout: float) -> bool:
        """See AsyncTollbook.flush."""
        if not self._core.engine.is_running:
            return True
        try:
            return self._wait(_within(self._core.flush(), timeout))
        except TimeoutError:
            return False

    def close(self, timeout: float | None = None) -> bool:
        """See AsyncTollbook.close."""
        return self._close(timeout)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        future = self._core.engine.submit(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncTollbook(_Client):
    """The client for asyncio. Any loop may use it, several at once too; no call of it blocks a loop."""

    async def check(
        self,
        consumptions: Mapping[str, int | None],
        *,
        subject: Subject | None = None,
        hold: timedelta | None = None,
        request_id: str = "",
        consume: bool = False,
        budget: timedelta | None = None,
    ) -> Decision:
        """Whether so much may be used, by meter in base units; None: anything at all.

        With `hold`, what is allowed is reserved for that long under the request_id; with `consume`, it counts against
        rate limits at once. Waits for at most the budget (Settings.check_budget_seconds); then Settings.on_unavailable
        decides, and the decision is `degraded`. A denial is an answer, not an error. Raises RequestRefused.
        """
        return await self._wait(
            self._check(consumptions, subject=subject, hold=hold, request_id=request_id, consume=consume, budget=budget)
        )

    async def lease(
        self,
        meter: str,
        size: int,
        *,
        subject: Subject | None = None,
        hold: timedelta = _LEASE,
        margin: timedelta = _LEASE_MARGIN,
        budget: timedelta | None = None,
    ) -> Lease:
        """Holds `size` of a meter (less, if less is left) for this process to spend by itself, and renews it.

        `hold` is how long it outlives the last renewal, `margin` how long before that it stops. Raises QuotaDenied when
        nothing is left, RequestRefused, and SuiteUnavailable: there is no lease without the suite, whatever the policy.
        """
        withdrawn = threading.Event()
        begun = self._lease(meter, size, subject=subject, hold=hold, margin=margin, budget=budget, withdrawn=withdrawn)
        try:
            return Lease(self._core, await asyncio.wrap_future(begun))
        except BaseException:
            withdrawn.set()
            self._withdraw_lease(begun)
            raise

    async def flush(self, timeout: float) -> bool:  # noqa: ASYNC109 - so that both faces say the same
        """Waits until all recorded usage is acknowledged, that found on disk too, and ended tasks are settled.

        False: not within so many seconds.
        """
        if not self._core.engine.is_running:
            return True
        try:
            return await self._wait(_within(self._core.flush(), timeout))
        except TimeoutError:
            return False

    async def close(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 - the same
        """Ends tasks and leases and sends what waits, for at most so many seconds (Settings.close_seconds).

        Whether everything was sent. What was not stays in the spool, for whoever uses it next; without a spool it is
        reported to `on_lost`. Nothing can be done with the client afterwards.
        """
        return await asyncio.to_thread(self._close, timeout)

    async def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(self._core.engine.submit(work))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def _within(work: Coroutine[Any, Any, None], seconds: float) -> bool:
    async with asyncio.timeout(seconds):
        await work
    return True
