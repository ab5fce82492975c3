"""Starts the parts, restarts what dies, stops them in order."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cli.suite.errors import StartFailed
from cli.suite.parts import Part
from kit.process import tail_of

# A part that dies is back almost at once; one that dies again and again leaves the machine alone meanwhile.
_BACKOFF_SECONDS_FIRST = 0.2
_BACKOFF_SECONDS_MAX = 5.0
# Healthy for so long, it counts as mended.
_MENDED_AFTER_SECONDS = 30.0

# A part that has never been healthy gets this many runs, some 10 s with the pauses, to be so.
_RUNS_WITHOUT_HEALTH_MAX = 6


@dataclass(frozen=True, kw_only=True)
class Group:
    """Parts that start together and stop together, within their share of the time that a stop may take."""

    parts: Sequence[Part]
    stop_seconds: float


@dataclass(kw_only=True)
class _Watch:
    part: Part
    is_healthy: bool = False
    has_been_healthy: bool = False
    keeper: asyncio.Task[None] | None = None


class Supervisor:
    """Watches over groups of parts from their launch until `stop`.

    A part that ends is started again, with a pause that doubles from 0.2 s to 5 s and is forgotten after 30 s
    of health. `say` gets a line for each end; `on_start` is called after each start, when pids have changed.
    """

    def __init__(self, *, say: Callable[[str], None]) -> None:
        self.on_start: Callable[[], None] = lambda: None
        self._say = say
        self._groups: list[Group] = []
        self._watches: list[_Watch] = []
        self._hopeless: str | None = None
        # Set whenever a part has become healthy or hopeless.
        self._changed = asyncio.Event()

    async def launch(self, group: Group) -> None:
        """Start every part of the group, without waiting for health; what a start raises comes through."""
        # Known before it runs, so that a stop in the middle finds it.
        self._groups.append(group)
        self._say(f"starting {', '.join(part.name for part in group.parts)}")
        for part in group.parts:
            await part.start()
            watch = _Watch(part=part)
            watch.keeper = asyncio.create_task(self._keep(watch), name=f"keep {part.name}")
            self._watches.append(watch)
            self.on_start()

    async def wait_healthy(self) -> None:
        """Wait until every part launched is healthy at once; StartFailed as soon as one is hopeless."""
        while self.unhealthy():
            if self._hopeless is not None:
                raise StartFailed(self._hopeless)
            self._changed.clear()
            await self._changed.wait()

    def unhealthy(self) -> list[Part]:
        """Return the parts that are not healthy just now."""
        return [watch.part for watch in self._watches if not watch.is_healthy]

    def pids(self) -> dict[str, int]:
        """Return the pid of every part that has been started, by name."""
        return {watch.part.name: watch.part.pid for watch in self._watches if watch.part.pid is not None}

    async def stop(self) -> None:
        """Stop the groups, the last one launched first, each within its time; nothing runs afterwards."""
        keepers = [watch.keeper for watch in self._watches if watch.keeper is not None]
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        for group in reversed(self._groups):
            await asyncio.gather(*(part.stop(group.stop_seconds) for part in group.parts))

    async def _keep(self, watch: _Watch) -> None:
        backoff_seconds = _BACKOFF_SECONDS_FIRST
        runs_without_health = 0
        while True:
            exit_code, healthy_seconds = await self._run_to_its_end(watch)
            if healthy_seconds >= _MENDED_AFTER_SECONDS:
                backoff_seconds = _BACKOFF_SECONDS_FIRST
            runs_without_health += 1
            if not watch.has_been_healthy and runs_without_health >= _RUNS_WITHOUT_HEALTH_MAX:
                self._give_up(watch.part, exit_code)
                return
            self._say(
                f"{watch.part.name} ended ({_described(exit_code)}); "
                f"starting it again in {backoff_seconds:.1f} s. Its log: {watch.part.log_path}"
            )
            await asyncio.sleep(backoff_seconds)
            backoff_seconds = min(2 * backoff_seconds, _BACKOFF_SECONDS_MAX)
            while not await self._started_again(watch.part):  # noqa: ASYNC110 - a start has no event
                await asyncio.sleep(backoff_seconds)

    async def _run_to_its_end(self, watch: _Watch) -> tuple[int, float]:
        """Wait for the end of the current run; its exit code and for how many seconds it was healthy."""
        loop = asyncio.get_running_loop()
        ended = asyncio.ensure_future(watch.part.wait())
        ready = asyncio.ensure_future(watch.part.wait_ready())
        healthy_at: float | None = None
        try:
            await asyncio.wait({ended, ready}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done() and ready.exception() is None:
                healthy_at = loop.time()
                watch.has_been_healthy = True
                watch.is_healthy = True
                self._changed.set()
            exit_code = await ended
        finally:
            watch.is_healthy = False
            for waiter in (ended, ready):
                waiter.cancel()
            await asyncio.gather(ended, ready, return_exceptions=True)
        return exit_code, 0.0 if healthy_at is None else loop.time() - healthy_at

    async def _started_again(self, part: Part) -> bool:
        try:
            await part.start()
        except Exception as error:  # noqa: BLE001 - whatever it is, it may have gone by the next attempt
            self._say(f"{part.name} cannot be started again: {error}")
            return False
        self.on_start()
        return True

    def _give_up(self, part: Part, exit_code: int) -> None:
        self._hopeless = (
            f"{part.name} ended {_RUNS_WITHOUT_HEALTH_MAX} times without becoming healthy, "
            f"the last time with {_described(exit_code)}. "
            f"The end of {part.log_path}:\n{tail_of(part.log_path)}"
        )
        self._changed.set()


def _described(exit_code: int) -> str:
    if exit_code >= 0:
        return f"exit code {exit_code}"
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(-exit_code).name}"
    return f"killed by signal {-exit_code}"
