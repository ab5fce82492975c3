"""Following another service's change log, exactly once.

The owner of a log says which keys (organizations) moved and hands over entries after a position. A follower keeps
its position in the same atomic write as the effect of the entries, so a crash, a retry or a second follower of the same
store repeats nothing and skips nothing. A position carries the commit_id of its entry; when the log does not know it,
the log was rewound (a restored backup, a lost failover) and the follower rebuilds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import structlog
from prometheus_client import Gauge

from kit.errors import LogRewound, OutOfRetention, Refused
from kit.telemetry.metrics import FOLLOWER_LAG

log = structlog.get_logger()

RETRY_SECONDS_MIN = 0.1
RETRY_SECONDS_MAX = 5.0
# A feed that is back is watched again within this time: what changed meanwhile must be in force within a second.
WATCH_RETRY_SECONDS_MAX = 0.5

E = TypeVar("E")


@dataclass(frozen=True, slots=True)
class Position:
    """A place in one log: the number of the last entry seen and the random id of the commit that wrote it."""

    sequence: int
    commit_id: str


START = Position(0, "")


@dataclass(frozen=True, slots=True)
class Head:
    """How far one key's log reaches."""

    key: str
    position: Position


@dataclass(frozen=True, slots=True)
class Change:
    """An entry of a change log that keeps its bodies as JSON objects."""

    position: Position
    kind: str
    body: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Page(Generic[E]):
    """Entries in sequence without a gap, and the position after the last of them."""

    entries: tuple[E, ...]
    position: Position


class Feed(Protocol[E]):
    """Another service's log."""

    def watch(self) -> AsyncIterator[Sequence[Head]]:
        """Every head first, then those that move. Ends or raises when the connection does."""
        ...

    def read(self, key: str, after: Position) -> AsyncIterator[Page[E]]:
        """The entries after a position, page by page, up to the head. Raises LogRewound, and OutOfRetention when the
        next ones are no longer kept.
        """
        ...


class Effect(Protocol[E]):
    """What a follower does with entries, in a store of its own."""

    async def position(self, key: str) -> Position | None:
        """How far the key is applied; None when nothing is kept for it yet, and `rebuild` must begin it."""
        ...

    async def apply(self, key: str, after: Position, page: Page[E]) -> bool:
        """Applies a page and moves the position to its end in one atomic write, if the position is still `after`.
        False when it is not: somebody else was faster, nothing was done.
        """
        ...

    async def rebuild(self, key: str) -> None:
        """Begins the key, or begins it again when the log was rewound or its next entries are no longer kept, from the
        owner's snapshot or from the start. Afterwards `position` is not None, unless the key is of no interest. Raises
        OutOfRetention, with nothing changed, when it needs entries that are gone: the key stays where it is.
        """
        ...


class Lag:
    """How many entries a follower is behind, over all keys, kept up in a metric."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._heads: dict[str, int] = {}
        self._reached: dict[str, int] = {}
        self._entries = 0

    def note(self, key: str, *, head: int | None = None, reached: int | None = None) -> None:
        """Takes note of how far a key's log reaches, and of how far the follower got in it. A key of which it is not
        known how far the follower got does not count.
        """
        # The sum over all keys is kept, not made anew: a look at every key for every key would take their square.
        self._entries -= self._behind(key)
        if head is not None:
            self._heads[key] = head
        if reached is not None:
            self._reached[key] = reached
        self._entries += self._behind(key)
        self._gauge.set(self._entries)

    def begin(self, key: str) -> None:
        """From now on the key counts, from its first entry if nothing else is known."""
        if key not in self._reached:
            self.note(key, reached=0)

    def _behind(self, key: str) -> int:
        return max(0, self._heads.get(key, 0) - self._reached[key]) if key in self._reached else 0


class Follower(Generic[E]):
    """Keeps an effect in step with a feed. One `run` per process; any number of processes."""

    def __init__(
        self,
        name: str,
        feed: Feed[E],
        effect: Effect[E],
        *,
        parallel_keys: int = 8,
        entries_at_once: int = 1,
        reached: Callable[[str, Position], None] | None = None,
    ) -> None:
        """entries_at_once: pages are joined until they have so many entries, for an effect whose write costs much
        however little is in it. Nothing waits for that: the feed's end is a page's end.

        reached: is told each position up to which a key is applied, in the store, as it gets there.
        """
        self._reached = reached
        self._name = name
        self._entries_at_once = entries_at_once
        self._feed = feed
        self._effect = effect
        self._parallel = asyncio.Semaphore(parallel_keys)
        self._heads: dict[str, Position] = {}
        self._lag = Lag(FOLLOWER_LAG.labels(name))
        self._busy: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Follows until cancelled. When the feed breaks it is watched anew, with growing pauses."""
        pause = RETRY_SECONDS_MIN
        try:
            while True:
                try:
                    async for heads in self._feed.watch():
                        pause = RETRY_SECONDS_MIN
                        for head in heads:
                            self._heads[head.key] = head.position
                            self._lag.begin(head.key)
                            self._lag.note(head.key, head=head.position.sequence)
                            self._start(head.key)
                except Refused as error:
                    log.warning("feed_broken", feed=self._name, error=str(error))
                await asyncio.sleep(pause)
                pause = min(pause * 2, WATCH_RETRY_SECONDS_MAX)
        finally:
            tasks = tuple(self._busy.values())
            for task in tasks:
                task.cancel()
            # Waited for, and forgotten here: one that was cancelled before its first step never does it itself, and a
            # key that is thought busy would not be followed by the next run.
            await asyncio.gather(*tasks, return_exceptions=True)
            self._busy.clear()

    async def catch_up(self, key: str) -> None:
        """Applies what the feed has for the key now. Raises what the feed or the store raise."""
        position = await self._effect.position(key)
        if position is None:
            await self._effect.rebuild(key)
            position = await self._effect.position(key)
            if position is None:
                return
        try:
            async for page in joined(self._feed.read(key, position), self._entries_at_once):
                if not await self._effect.apply(key, position, page):
                    return  # another process is ahead of us; the next head finds where it got to
                position = page.position
                self._lag.note(key, reached=position.sequence)
        except LogRewound:
            log.warning("log_rewound", feed=self._name, key=key, sequence=position.sequence)
            await self._effect.rebuild(key)
        except OutOfRetention:
            log.warning("entries_gone", feed=self._name, key=key, sequence=position.sequence)
            await self._effect.rebuild(key)

    def _start(self, key: str) -> None:
        if key not in self._busy:
            self._busy[key] = asyncio.create_task(self._follow(key))

    async def _follow(self, key: str) -> None:
        pause = RETRY_SECONDS_MIN
        before: Position | None = None
        try:
            while True:
                aim = self._heads[key]
                try:
                    async with self._parallel:
                        await self.catch_up(key)
                        reached = await self._effect.position(key)
                except OutOfRetention as error:
                    log.error("follower_lost", feed=self._name, key=key, error=str(error))  # noqa: TRY400 - no defect
                except Refused as error:
                    log.warning("follower_retries", feed=self._name, key=key, error=str(error))
                except Exception:
                    log.exception("follower_failed", feed=self._name, key=key)
                else:
                    if reached is not None and self._reached is not None:
                        self._reached(key, reached)
                    # A key of no interest has nothing to be behind with.
                    self._lag.note(key, reached=aim.sequence if reached is None else reached.sequence)
                    if aim == self._heads[key] and (reached is None or reached.sequence >= aim.sequence):
                        return
                    if reached != before:
                        pause, before = RETRY_SECONDS_MIN, reached
                await asyncio.sleep(pause)
                pause = min(pause * 2, RETRY_SECONDS_MAX)
        finally:
            self._busy.pop(key, None)


async def joined(pages: AsyncIterator[Page[E]], entries: int) -> AsyncIterator[Page[E]]:
    """The same entries in larger pages: of at least so many, but for the last."""
    together: list[E] = []
    position: Position | None = None
    async for page in pages:
        together += page.entries
        position = page.position
        if len(together) >= entries:
            yield Page(tuple(together), position)
            together, position = [], None
    if position is not None:
        yield Page(tuple(together), position)
