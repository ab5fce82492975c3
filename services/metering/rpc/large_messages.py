"""Large messages of foreign formats: read beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from services.metering.domain import limits

T = TypeVar("T")


class LargeMessages:
    """Turns what arrived into events without keeping every other call waiting.

    Reading a body of the largest size takes seconds when it is made to. A large one is read in a thread, so that the
    loop has its turns in between, and one at a time, so that many of them are no more than one.
    """

    def __init__(self) -> None:
        # A thread of its own: one that cannot be stopped when its caller gives up still counts as the one.
        self._thread = ThreadPoolExecutor(max_workers=1)

    async def read(self, size_bytes: int, convert: Callable[[], T]) -> T:
        """What `convert` answers, or raises. It must touch nothing but the message."""
        if size_bytes <= limits.READ_AT_ONCE_BYTES_MAX:
            return convert()
        return await asyncio.get_running_loop().run_in_executor(self._thread, convert)
