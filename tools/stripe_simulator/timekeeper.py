"""What happens by itself when its time has come: drafts finalized, payments tried again, periods renewed."""

import asyncio
import contextlib

from tools.stripe_simulator import agenda
from tools.stripe_simulator.delivery import WebhookSender
from tools.stripe_simulator.operations import Call, Tasks
from tools.stripe_simulator.params import Params
from tools.stripe_simulator.simulated_time import SimulatedTime
from tools.stripe_simulator.store import Store

# The clock may be moved by hand meanwhile, and then this is woken; it looks by itself as well.
_LOOK_SECONDS_MAX = 60.0


class Timekeeper:
    """Does what falls due in everybody's time; test clocks have theirs done as they are advanced."""

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
        """Does what falls due, until cancelled."""
        while True:
            self._woken.clear()
            wait_seconds = self._seconds_to_wait()
            # Every call wakes this, and next to never is there something to do: then there is no transaction either.
            if wait_seconds <= 0:
                with self._store.transaction():
                    self.work_off()
                if self._sender is not None:
                    self._sender.wake()
                await asyncio.sleep(0)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_seconds):
                    await self._woken.wait()

    def _seconds_to_wait(self) -> float:
        due = self._store.next_due(test_clock=agenda.EVERYBODYS)
        if due is None:
            return _LOOK_SECONDS_MAX
        return min(_LOOK_SECONDS_MAX, due.due_at - self._time.now().timestamp())

    def work_off(self) -> int:
        """Does, inside a transaction, all that fell due by now; answers how much it was."""
        now = int(self._time.now().timestamp())
        call = Call(
            store=self._store,
            params=Params({}),
            path={},
            now=now,
            real_now=self._time.real_now().timestamp(),
            request_id=None,
            idempotency_key=None,
            sends_webhooks=self._sender is not None,
            tasks=self._tasks,
        )
        return agenda.work_off(call, test_clock=agenda.EVERYBODYS, until=now)
