"""A task that is metered while it runs, entered by whoever runs it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, cast

from tollbook.metering.v1 import metering_pb2
from tollbook_sdk.core import Core, current_run
from tollbook_sdk.decision import Decision
from tollbook_sdk.errors import QuotaExhausted
from tollbook_sdk.tasks import TaskPlan, TaskRun

P = ParamSpec("P")
R = TypeVar("R")


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
