"""One suite in the foreground, from the first process to the last."""

import asyncio
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cli.suite.console import Console
from cli.suite.endpoints import EndpointsFile
from cli.suite.errors import Refused, StartFailed
from cli.suite.ports import Ports, refuse_ports_in_use
from cli.suite.state import locked_state
from cli.suite.supervisor import Group, Supervisor
from kit.postgres.embedded import PostgresCannotStart
from kit.redis.embedded import RedisCannotStart

HEALTHY_WITHIN_SECONDS = 180.0

# After a SIGKILL the kernel ends the processes of the last run; PostgreSQL takes a moment.
_PREDECESSOR_SECONDS_MAX = 10.0

_ResultT = TypeVar("_ResultT")


async def _nothing() -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """What a suite consists of, in the order in which it starts; it stops in the opposite order.

    `prepare` runs when the stores answer and before the programs start, `seed` when everything is healthy and
    before the suite is announced, `afterwards` once it is: that one may take as long as it likes, and its
    failure, reported to the user, does not stop the suite.
    """

    stores: Sequence[Group]
    programs: Sequence[Group]
    addresses: Mapping[str, object]
    prepare: Callable[[], Awaitable[None]] = _nothing
    seed: Callable[[], Awaitable[None]] = _nothing
    afterwards: Callable[[], Awaitable[None]] = _nothing


def run_suite(
    *,
    state_dir: Path,
    ports: Ports,
    names: Sequence[str],
    draw: Callable[[Path, Console], Blueprint],
    healthy_within_seconds: float = HEALTHY_WITHIN_SECONDS,
) -> None:
    """Run a suite from its first process to its last, until SIGTERM, SIGINT or SIGHUP.

    It is announced in `endpoints.json` while it is up, and what dies of it is restarted.
    `names` says which of the ports it needs, `draw` makes its blueprint once the state folder is ours.
    Returns after an orderly stop. Refused, StartFailed and what a store's start raises come through after
    everything that had been started was stopped; where the folder is held or a port is taken, nothing has
    been.
    """
    endpoints_path = state_dir / "endpoints.json"
    with locked_state(state_dir) as predecessor_was_killed:
        # A killed run leaves its file behind.
        endpoints_path.unlink(missing_ok=True)
        patience_seconds = _PREDECESSOR_SECONDS_MAX if predecessor_was_killed else 0.0
        refuse_ports_in_use(ports, names, patience_seconds=patience_seconds)
        console = Console(state_dir / "logs" / "up.log")
        blueprint = draw(state_dir, console)
        asyncio.run(_run_in_foreground(blueprint, endpoints_path, console, healthy_within_seconds))


def exit_code_of(work: Callable[[], None]) -> int:
    """Do the work and tell the user why not, where it cannot be: 0 done, 1 failed to start, 2 refused."""
    try:
        work()
    except Refused as refusal:
        print(f"tollbook: {refusal}", file=sys.stderr)
        return 2
    except (StartFailed, PostgresCannotStart, RedisCannotStart) as failure:
        print(f"tollbook: {failure}", file=sys.stderr)
        return 1
    return 0


async def _run_in_foreground(
    blueprint: Blueprint, endpoints_path: Path, console: Console, healthy_within_seconds: float
) -> None:
    supervisor = Supervisor(say=console.say)
    endpoints = EndpointsFile(endpoints_path, addresses=blueprint.addresses, pids=supervisor.pids)
    supervisor.on_start = endpoints.refresh
    stop_requested = _stop_event()
    life = asyncio.create_task(_live(blueprint, supervisor, endpoints, console, healthy_within_seconds))
    stopper = asyncio.create_task(stop_requested.wait())
    try:
        await asyncio.wait({life, stopper}, return_when=asyncio.FIRST_COMPLETED)
        if life.done():
            # It ends by itself only where the start fails.
            life.result()
    finally:
        life.cancel()
        stopper.cancel()
        await asyncio.gather(life, stopper, return_exceptions=True)
        endpoints.remove()
        console.say("stopping")
        stopping_since = time.monotonic()
        await supervisor.stop()
        console.say(f"stopped after {time.monotonic() - stopping_since:.1f} s")


async def in_daemon_thread(work: Callable[[], _ResultT]) -> _ResultT:
    """Run blocking work beside the loop, in a thread that does not keep the process from ending.

    `asyncio.to_thread` would: a migration that waits for someone else's lock could then outlast a SIGTERM.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[_ResultT] = loop.create_future()

    def hand_over(settle: Callable[[], None]) -> None:
        # Nobody waits any more where the future was cancelled or the loop has gone.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(lambda: None if outcome.done() else settle())

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - it is raised where the work is awaited
            raised = error
            hand_over(lambda: outcome.set_exception(raised))
        else:
            hand_over(lambda: outcome.set_result(result))

    threading.Thread(target=run, daemon=True).start()
    return await outcome


async def _live(
    blueprint: Blueprint,
    supervisor: Supervisor,
    endpoints: EndpointsFile,
    console: Console,
    healthy_within_seconds: float,
) -> None:
    try:
        async with asyncio.timeout(healthy_within_seconds):
            for group in blueprint.stores:
                await supervisor.launch(group)
            await supervisor.wait_healthy()
            await blueprint.prepare()
            for group in blueprint.programs:
                await supervisor.launch(group)
            await supervisor.wait_healthy()
            await blueprint.seed()
    except TimeoutError:
        raise StartFailed(_what_is_missing(supervisor, healthy_within_seconds)) from None
    endpoints.publish()
    try:
        await blueprint.afterwards()
    except Exception as error:  # noqa: BLE001 - the suite is up all the same
        console.say(f"{type(error).__name__}: {error}")
    await asyncio.get_running_loop().create_future()


def _what_is_missing(supervisor: Supervisor, seconds: float) -> str:
    missing = supervisor.unhealthy()
    what = ", ".join(f"{part.name} (log: {part.log_path})" for part in missing) or "migrations or first data"
    return f"not healthy after {seconds:.0f} s, waiting for: {what}"


def _stop_event() -> asyncio.Event:
    requested = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, requested.set)
    loop.add_signal_handler(signal.SIGINT, requested.set)
    # Ignored, it was meant to be: that is what nohup does.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        loop.add_signal_handler(signal.SIGHUP, requested.set)
    return requested
