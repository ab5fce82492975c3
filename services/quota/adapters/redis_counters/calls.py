"""How commands go to Redis."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType

from redis.exceptions import RedisError, ResponseError

from kit.breaker import Breaker
from kit.errors import DependencyUnavailable
from kit.redis.client import Commands, Script, within
from kit.redis.cluster import ClusterCommands
from services.quota.application.ports import (
    StoreUnavailable,
)
from services.quota.domain.entitlements import Period
from services.quota.domain.maxima import REMEMBERED_AFTER_END_US

SCRIPTS = Path(__file__).with_name("scripts")
RECORDS = "records"
"""The script that those begin with that look at reservations."""

KEPT_AFTER_PERIOD_MS = 40 * 24 * 3_600_000
"""Longer than the ledger accepts events back, so that nothing is dropped that could still change."""
REMEMBERED_AFTER_END_MS = REMEMBERED_AFTER_END_US // 1_000

COMMANDS_IN_FLIGHT_MAX = 8
"""Redis runs one script at a time: more commands would not be answered sooner, but wait on their connections while
their budget runs. Waiting for their turn, they are bounded by the deadline of their own call instead.
"""

# What a server says that cannot work now, also when one of our scripts ran into it. Any other error is a defect.
_CANNOT_NOW = (
    *("OOM ", "BUSY ", "MISCONF", "READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS"),
)

Argument = str | int | bytes


class Calls:
    """Commands on their way to one Redis, or to a cluster: in turn, within their budget, and none while it is away."""

    def __init__(self, client: Commands, *, command_seconds: float, breaker: Breaker | None) -> None:
        """command_seconds: how long to wait for the answer to one command; breaker: while it is open none is sent."""
        self._breaker = breaker or Breaker()
        # A script sees the keys of one slot.
        self.is_one_node = not isinstance(client, ClusterCommands)
        self.client = within(client, seconds=command_seconds)
        self._answering = _Answering(self._breaker)

    def answering(self) -> AbstractAsyncContextManager[None]:
        """Stands around each command. Raises StoreUnavailable when the store cannot answer now."""
        return self._answering

    def script(self, *names: str) -> Script:
        """A script of the files of these names, one after the other."""
        return Script(self.client, *(SCRIPTS / f"{name}.lua" for name in names))

    def check_of_many(self) -> Script:
        """check.lua, once for each of many organizations."""
        check = (SCRIPTS / "check.lua").read_text()
        function = f"local function check(KEYS, ARGV)\n{check}\nend\n"
        return Script(self.client, SCRIPTS / f"{RECORDS}.lua", function, SCRIPTS / "each.lua")

    def refuse_while_open(self) -> None:
        """Before the work of asking, which would be in vain."""
        if self._breaker.is_open:
            raise StoreUnavailable(dependency="Redis")


class OverRedis:
    """A part of the store."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._client = calls.client
        self._answering = calls.answering


class _Answering:
    """Around one command: its turn, and what the breaker learns from how it ends. A class, since a generator for each
    command would cost several times as much.
    """

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker
        self._turn = asyncio.Semaphore(COMMANDS_IN_FLIGHT_MAX)

    async def __aenter__(self) -> None:
        await self._turn.acquire()
        # Asked when it has its turn: those that waited for theirs while it opened wait no longer.
        if not self._breaker.admits():
            self._turn.release()
            raise StoreUnavailable(dependency="Redis")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._turn.release()
        if error is None:
            self._breaker.answered()
        elif not isinstance(error, TimeoutError | RedisError | OSError | DependencyUnavailable):
            self._breaker.abandoned()
        else:
            # A refusal is an answer: nobody waits for the next one in vain.
            self._breaker.answered() if isinstance(error, ResponseError) else self._breaker.failed()
            if type(error) is ResponseError and not cannot_now(error):
                return
            raise StoreUnavailable(dependency="Redis") from error


def cannot_now(error: ResponseError) -> bool:
    """Whether a refusal passes by itself."""
    return any(state in str(error) for state in _CANNOT_NOW)


def kept_until_ms(period: Period) -> int:
    """When keys of an organization in this period may be dropped, in Unix milliseconds."""
    # From now, should billing name a period that is long over: keys must not vanish as they are written.
    return max(period.end_us // 1_000, time.time_ns() // 1_000_000) + KEPT_AFTER_PERIOD_MS
