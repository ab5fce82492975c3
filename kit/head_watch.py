"""The owner's side of `Feed.watch`: telling any number of watchers which heads moved, at the cost of one poll."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import takewhile

from kit.feed import Head

POLL_SECONDS = 0.2
HEADS_AT_ONCE_MAX = 5_000
"""With the longest keys still a small message."""
FROM_THE_START = "0"


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at the heads of an owner found."""

    heads: Sequence[Head]
    """Those that moved since the mark that was looked from, and perhaps others."""
    mark: str
    """From where the next look sees everything that this one did not."""


ReadHeads = Callable[[str], Awaitable[Look]]
"""Looks from a mark of an earlier look, or FROM_THE_START, which sees every head."""


class HeadWatch:
    """Watches heads for everybody in this process who asks.

    Heads are looked at while there is a watcher, once for all of them. A watcher that is slow is told of the last
    position of each head that moved meanwhile, and of no other: what it did not take yet is kept nowhere, it follows
    from when each head last moved. Polling misses nothing, whenever a transaction commits: a head carries the latest
    state.
    """

    def __init__(self, read: ReadHeads, *, every_seconds: float = POLL_SECONDS) -> None:
        self._read = read
        self._every_seconds = every_seconds
        self._poll: _Poll | None = None
        # The poll serves many calls, so it carries the request id of none of them.
        self._context = contextvars.copy_context()

    async def watch(self) -> AsyncGenerator[Sequence[Head], None]:
        """Every head first (nothing, if there is none), then those that move, at most HEADS_AT_ONCE_MAX at once.
        Raises what looking raises, to every watcher; who watches again is told every head again.
        """
        poll = self._poll
        if poll is None or poll.is_over:
            poll = self._poll = _Poll()
            poll.start(self._read, self._every_seconds, self._context.copy())
        poll.watchers += 1
        try:
            async with aclosing(poll.moves()) as moves:
                async for heads in moves:
                    yield heads
        finally:
            poll.watchers -= 1
            if not poll.watchers:
                poll.stop()


class _Poll:
    """Looks again and again until it is stopped or fails, and what was seen so far."""

    def __init__(self) -> None:
        self.watchers = 0
        self._moved: dict[str, tuple[int, Head]] = {}
        """Each head with the number of the look that saw it move, in the order of these numbers."""
        self._looks = 0
        self._has_moved: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._error: Exception | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def is_over(self) -> bool:
        return self._task is None or self._task.done() or bool(self._task.cancelling())

    def start(self, read: ReadHeads, every_seconds: float, context: contextvars.Context) -> None:
        self._task = asyncio.create_task(self._run(read, every_seconds), context=context)

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def moves(self) -> AsyncGenerator[Sequence[Head], None]:
        seen = 0
        while True:
            while seen == self._looks:
                if self._error is not None:
                    raise self._error
                await asyncio.shield(self._has_moved)
            since, seen = seen, self._looks
            heads = self._moved_since(since)
            for start in range(0, max(1, len(heads)), HEADS_AT_ONCE_MAX):
                yield heads[start : start + HEADS_AT_ONCE_MAX]

    def _moved_since(self, look: int) -> list[Head]:
        return [head for _, head in takewhile(lambda moved: moved[0] > look, reversed(self._moved.values()))]

    async def _run(self, read: ReadHeads, every_seconds: float) -> None:
        mark = FROM_THE_START
        try:
            while True:
                look = await read(mark)
                mark = look.mark
                self._note(look.heads)
                await asyncio.sleep(every_seconds)
        except Exception as error:  # noqa: BLE001 - it is the watchers'
            self._error = error
            self._wake()

    def _note(self, heads: Iterable[Head]) -> None:
        moved = [head for head in heads if head.key not in self._moved or self._moved[head.key][1] != head]
        if not moved and self._looks:
            return
        self._looks += 1
        for head in moved:
            self._moved.pop(head.key, None)
            self._moved[head.key] = (self._looks, head)
        self._wake()

    def _wake(self) -> None:
        woken, self._has_moved = self._has_moved, asyncio.get_running_loop().create_future()
        woken.set_result(None)
