"""Time as the SDK needs it, so that tests can hold it still."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time."""

    def wall_ns(self) -> int:
        """Nanoseconds since 1970, by this machine."""
        ...

    def running(self) -> float:
        """Seconds since some moment, never set back or forward, those that the machine slept included. Any thread."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Returns when that much has passed."""
        ...


# A monotonic clock that stood still while the machine slept would keep a lease alive that has ended. Where the system
# has no such clock (macOS counts sleep in its monotonic one), the monotonic clock it is.
_RUNNING = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class SystemClock:
    """The machine's clocks."""

    def wall_ns(self) -> int:
        """As Clock."""
        return time.time_ns()

    def running(self) -> float:
        """As Clock."""
        return time.clock_gettime(_RUNNING)

    async def sleep(self, seconds: float) -> None:
        """As Clock."""
        await asyncio.sleep(seconds)
