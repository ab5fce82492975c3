"""What happens by itself when its time has come: drafts finalized, payments tried again, periods renewed."""

import asyncio
import contextlib
import itertools

import structlog

from tools.stripe_simulator.delivery import WebhookSender
from tools.stripe_simulator.errors import StripeError
from tools.stripe_simulator.operations import Call, Tasks
from tools.stripe_simulator.params import Params
from tools.stripe_simulator.simulated_time import SimulatedTime
from tools.stripe_simulator.store import Due, Store

EVERYBODYS = ""
"""The lane of what hangs on no test clock."""

# Far more than any test plans; a task that plans itself for the same moment again would never end.
_TASKS_MAX = 100_000

# Nothing is planned to the second; the clock that runs behind may have been moved by hand meanwhile.
_LOOK_SECONDS_MAX = 60.0

_log = structlog.get_logger()


class Timekeeper:
    """Does what the agenda says, in the order of its times, each at its time, whole or not at all."""

    def __init__(self, store: Store, time: SimulatedTime, tasks: Tasks, sender: WebhookSender | None) -> None:
        self._store = store
        self._time = time
        self._tasks = tasks
        self._sender = sender
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Something was planned."""
        self._woken.set()

    async def run(self) -> None:
        """Does what falls due in everybody's time, until cancelled."""
        while True:
            self._woken.clear()
            with self._store.transaction():
                count = self.work_off(EVERYBODYS, until=int(self._time.now().timestamp()))
            if count and self._sender is not None:
                self._sender.wake()
            due = self._store.next_due(test_clock=EVERYBODYS)
            wait_seconds = _LOOK_SECONDS_MAX
            if due is not None:
                wait_seconds = min(wait_seconds, max(0.0, due.due_at - self._time.now().timestamp()))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_seconds):
                    await self._woken.wait()

    def work_off(self, test_clock: str, *, until: int) -> int:
        """Does, inside a transaction, all that falls due up to then, what comes of it included; answers how much."""
        for count in itertools.count():
            due = self._store.next_due(test_clock=test_clock)
            if due is None or due.due_at > until or count == _TASKS_MAX:
                return count
            self._store.unplan(due.object_id, due.task)
            self._perform(due)
        raise AssertionError

    def _perform(self, due: Due) -> None:
        body = self._store.get(due.object_id)
        if body is None or body.get("deleted"):
            return
        try:
            with self._store.step():
                self._tasks[due.task](self._call(due), body)
        except StripeError as error:
            # The object's state forbids it by now.
            _log.warning("task_refused", task=due.task, object_id=due.object_id, reason=str(error))

    def _call(self, due: Due) -> Call:
        return Call(
            store=self._store,
            params=Params({}),
            path={"id": due.object_id},
            now=due.due_at,
            real_now=self._time.real_now().timestamp(),
            request_id=None,
            idempotency_key=None,
            sends_webhooks=self._sender is not None,
        )
