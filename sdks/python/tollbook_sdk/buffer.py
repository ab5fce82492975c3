"""Usage that waits to be sent: bounded, in order, filled from any thread."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from tollbook.metering.v1 import metering_pb2, task_time_pb2
from tollbook_sdk.errors import BufferFull, ClientClosed
from tollbook_sdk.settings import LostUsage

if TYPE_CHECKING:
    from tollbook_sdk.spool import Segment

log = logging.getLogger("tollbook_sdk")

Usage: TypeAlias = metering_pb2.UsageEvent | task_time_pb2.ReportTaskTimeRequest

BUFFER_FULL = "BUFFER_FULL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """What metering made of usage."""

    sequence: int = 0
    """Its number in the ledger; 0: nothing was recorded."""
    total_ms: int = 0
    """Of a report: what its task has come to."""
    refused: str = ""
    """The ErrorReason that it was refused with; empty: it was taken."""


@dataclass(eq=False, slots=True)
class Waiting:
    """One event or report."""

    usage: Usage
    on_delivered: Callable[[Delivered], None] | None = None
    """Called on the SDK's loop, once."""
    segment: Segment | None = field(default=None)
    """The file that has it; None: not on disk."""
    is_settled: bool = False
    """Whether it needs nothing any more."""

    def delivered(self, delivered: Delivered) -> None:
        """Tells whoever wants to know."""
        if self.on_delivered is not None:
            self.on_delivered(delivered)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageCounts:
    """What became of usage since the client was made. At any moment taken = recorded + refused + waiting."""

    waiting: int
    """Taken and not acknowledged yet."""
    taken: int
    recorded: int
    """Acknowledged by metering: committed and synced, now or before."""
    refused: int
    """Refused by metering for what it is; reported to `on_lost`."""
    turned_away: int
    """Never taken, because the buffer was full; reported to `on_lost`."""


class UsageBuffer:
    """A queue from callers to the sender. What is being sent still counts against the bound."""

    def __init__(
        self, events_max: int, on_lost: Callable[[LostUsage], None] | None = None, *, is_kept: bool = False
    ) -> None:
        """`is_kept`: what is put is to be kept on disk, and `take_fresh` has it."""
        self._events_max = events_max
        self._on_lost = on_lost
        self._lock = threading.Lock()
        self._is_closed = False
        self._queue: deque[Waiting] = deque()
        self._fresh: list[Waiting] = []
        self._is_kept = is_kept
        self._waiting = self._taken = self._recorded = self._refused = self._turned_away = 0
        self.on_put: Callable[[], None] = lambda: None
        """Called, outside of the lock, after something was put; wakes the sender."""

    def put(self, item: Waiting) -> None:
        """Takes it, or raises BufferFull and has said so to `on_lost`. Never waits."""
        if self.try_put(item):
            return
        message = f"{self._events_max} events wait to be sent already"
        with self._lock:
            self._turned_away += 1
        self.lose(item.usage, BUFFER_FULL, message)
        raise BufferFull(message)

    def try_put(self, item: Waiting) -> bool:
        """Takes it, or answers False, and then it is still the caller's. Never waits. Raises ClientClosed."""
        with self._lock:
            if self._is_closed:
                raise ClientClosed(ClientClosed.__doc__)
            if self._waiting >= self._events_max:
                return False
            self._add([item])
        self.on_put()
        return True

    def put_found(self, items: Sequence[Waiting]) -> None:
        """Takes what an earlier process left on disk, bound or not: a segment is small, and losing it is no choice."""
        with self._lock:
            self._add(items)

    def _add(self, items: Sequence[Waiting]) -> None:
        self._queue.extend(items)
        if self._is_kept:
            self._fresh.extend(items)
        self._taken += len(items)
        self._waiting += len(items)

    def take(self, events_max: int, bytes_max: int) -> list[Waiting]:
        """The first ones, at least one if there are any; they stay waiting until `settle` or `put_back`."""
        taken: list[Waiting] = []
        bytes_left = bytes_max
        with self._lock:
            while self._queue and len(taken) < events_max:
                bytes_left -= self._queue[0].usage.ByteSize()
                if taken and bytes_left < 0:
                    break
                taken.append(self._queue.popleft())
        return taken

    def take_fresh(self) -> list[Waiting]:
        """What was put since the last time; it stays waiting."""
        with self._lock:
            taken, self._fresh = self._fresh, []
        return taken

    def put_back(self, items: Sequence[Waiting]) -> None:
        """Puts what could not be sent where it was, in its order."""
        with self._lock:
            self._queue.extendleft(reversed(items))

    def settle(self, item: Waiting, delivered: Delivered, message: str = "") -> None:
        """Notes what became of one, once, and tells whoever wants to know."""
        with self._lock:
            item.is_settled = True
            self._waiting -= 1
            if delivered.refused:
                self._refused += 1
            else:
                self._recorded += 1
        if delivered.refused:
            self.lose(item.usage, delivered.refused, message)
        item.delivered(delivered)

    def lose(self, usage: Usage, reason: str, message: str) -> None:
        """Says that this usage will not reach the ledger by itself."""
        log.error("usage_lost reason=%s message=%s", reason, message)
        if self._on_lost is not None:
            try:
                self._on_lost(LostUsage(usage=usage, reason=reason, message=message))
            except Exception:
                log.exception("on_lost_raised")

    def close(self) -> list[Waiting]:
        """Takes nothing any more; what still waits, in order."""
        with self._lock:
            self._is_closed = True
            left = list(self._queue)
            self._queue.clear()
        return left

    @property
    def has_room(self) -> bool:
        """Whether it is less than half full."""
        with self._lock:
            return self._waiting * 2 < self._events_max

    def counts(self) -> UsageCounts:
        """How much became of what, in one look."""
        with self._lock:
            return UsageCounts(
                waiting=self._waiting,
                taken=self._taken,
                recorded=self._recorded,
                refused=self._refused,
                turned_away=self._turned_away,
            )
