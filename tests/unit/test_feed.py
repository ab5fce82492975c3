from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from prometheus_client import REGISTRY

from kit.errors import DependencyUnavailable, LogRewound, OutOfRetention
from kit.feed import START, Follower, Head, Page, Position


class Log:
    """A log of integers per key, with a connection that can break."""

    def __init__(self) -> None:
        self.entries: dict[str, list[tuple[int, str]]] = {}
        self.moved = asyncio.Event()
        self.breaks = 0
        self.breaks_badly = False

    def append(self, key: str, *values: int) -> None:
        log = self.entries.setdefault(key, [])
        log.extend((value, f"c{len(log) + offset}") for offset, value in enumerate(values))
        self.moved.set()

    def head(self, key: str) -> Position:
        log = self.entries[key]
        return Position(len(log), log[-1][1])

    async def watch(self) -> AsyncIterator[Sequence[Head]]:
        while True:
            self.moved.clear()
            yield [Head(key, self.head(key)) for key in self.entries]
            if self.breaks_badly:
                self.breaks_badly = False
                raise RuntimeError
            if self.breaks:
                self.breaks -= 1
                raise DependencyUnavailable(dependency="the log")
            await self.moved.wait()

    async def read(self, key: str, after: Position) -> AsyncIterator[Page[int]]:
        log = self.entries[key]
        if after.sequence and (after.sequence > len(log) or log[after.sequence - 1][1] != after.commit_id):
            raise LogRewound(sequence=after.sequence)
        for start in range(after.sequence, len(log), 2):
            page = log[start : start + 2]
            yield Page(tuple(value for value, _ in page), Position(start + len(page), page[-1][1]))


class Sums:
    """Sums per key with their position, as a store would keep them: both or none."""

    def __init__(self) -> None:
        self.state: dict[str, tuple[Position, int]] = {}
        self.rebuilt: list[str] = []
        self.failures = 0
        self.changed = asyncio.Condition()

    async def position(self, key: str) -> Position | None:
        return self.state[key][0] if key in self.state else None

    async def apply(self, key: str, after: Position, page: Page[int]) -> bool:
        await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            raise DependencyUnavailable(dependency="the store")
        position, total = self.state[key]
        if position != after:
            return False
        self.state[key] = (page.position, total + sum(page.entries))
        async with self.changed:
            self.changed.notify_all()
        return True

    async def rebuild(self, key: str) -> None:
        self.rebuilt.append(key)
        self.state[key] = (START, 0)

    async def reaches(self, key: str, total: int) -> None:
        async with asyncio.timeout(5), self.changed:
            await self.changed.wait_for(lambda: key in self.state and self.state[key][1] == total)


async def running(*followers: Follower[int]) -> list[asyncio.Task[None]]:
    return [asyncio.create_task(follower.run()) for follower in followers]


async def stop(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_follower_applies_what_is_there_and_what_comes() -> None:
    log, sums = Log(), Sums()
    log.append("a", 1, 2, 3)
    tasks = await running(Follower("tests", log, sums))
    await sums.reaches("a", 6)
    log.append("a", 10)
    log.append("b", 5)
    await sums.reaches("a", 16)
    await sums.reaches("b", 5)
    await stop(tasks)


async def test_two_followers_of_one_store_apply_everything_once() -> None:
    log, sums = Log(), Sums()
    log.append("a", *range(1, 101))
    tasks = await running(Follower("one", log, sums), Follower("two", log, sums))
    await sums.reaches("a", 5050)
    log.append("a", 1)
    await sums.reaches("a", 5051)
    await stop(tasks)


async def test_a_follower_that_joins_pages_applies_them_in_one_write_and_waits_for_no_more_than_there_are() -> None:
    log, sums = Log(), Sums()
    log.append("a", *range(1, 12))
    applied: list[tuple[int, ...]] = []
    apply = sums.apply

    async def noted(key: str, after: Position, page: Page[int]) -> bool:
        applied.append(page.entries)
        return await apply(key, after, page)

    sums.apply = noted  # type: ignore[method-assign]
    tasks = await running(Follower("joining", log, sums, entries_at_once=5))
    await sums.reaches("a", 66)
    assert applied == [(1, 2, 3, 4, 5, 6), (7, 8, 9, 10, 11)]
    log.append("a", 100)
    await sums.reaches("a", 166)
    assert sums.state["a"][0] == log.head("a")
    await stop(tasks)


async def test_pages_that_were_joined_before_the_feed_broke_are_read_again_and_applied_once() -> None:
    class Breaking(Log):
        breaks_reading = 3

        async def read(self, key: str, after: Position) -> AsyncIterator[Page[int]]:
            count = 0
            async for page in super().read(key, after):
                yield page
                count += 1
                if self.breaks_reading and count == 2:
                    self.breaks_reading -= 1
                    raise DependencyUnavailable(dependency="the log")

    log, sums = Breaking(), Sums()
    log.append("a", *range(1, 12))
    tasks = await running(Follower("joining", log, sums, entries_at_once=6))
    await sums.reaches("a", 66)
    await stop(tasks)


async def test_a_broken_feed_and_a_failing_store_lose_nothing() -> None:
    log, sums = Log(), Sums()
    log.breaks, sums.failures = 3, 2
    log.append("a", 1, 2, 3)
    tasks = await running(Follower("tests", log, sums))
    await sums.reaches("a", 6)
    log.append("a", 4)
    await sums.reaches("a", 10)
    await stop(tasks)


async def test_a_follower_of_a_rewound_log_rebuilds() -> None:
    log, sums = Log(), Sums()
    log.append("a", 1, 2, 3)
    tasks = await running(Follower("tests", log, sums))
    await sums.reaches("a", 6)
    log.entries["a"] = [(7, "other")]
    log.moved.set()
    await sums.reaches("a", 7)
    assert sums.rebuilt == ["a", "a"]
    await stop(tasks)


class Indifferent(Sums):
    """Wants no key."""

    async def position(self, key: str) -> Position | None:
        assert key
        return None

    async def rebuild(self, key: str) -> None:
        self.rebuilt.append(key)
        async with self.changed:
            self.changed.notify_all()


def lag(name: str) -> float | None:
    return REGISTRY.get_sample_value("tollbook_follower_lag_entries", {"feed": name})


async def test_lag_is_what_is_not_applied_and_a_key_of_no_interest_has_none() -> None:
    log, sums, indifferent = Log(), Sums(), Indifferent()
    log.append("a", 1, 2, 3)
    log.append("b", 1)
    sums.failures = 1_000
    tasks = await running(Follower("lagging", log, sums), Follower("indifferent", log, indifferent))
    async with asyncio.timeout(5), indifferent.changed:
        await indifferent.changed.wait_for(lambda: sorted(indifferent.rebuilt) == ["a", "b"])
    await asyncio.sleep(0)
    assert (lag("lagging"), lag("indifferent")) == (4, 0)
    sums.failures = 0
    await sums.reaches("a", 6)
    await sums.reaches("b", 1)
    await asyncio.sleep(0)
    assert lag("lagging") == 0
    await stop(tasks)


async def test_a_follower_that_runs_again_follows_the_keys_it_had_not_begun() -> None:
    log, sums = Log(), Sums()
    log.append("a", 1, 2, 3)
    log.breaks_badly = True
    follower = Follower("again", log, sums)
    with pytest.raises(RuntimeError):
        await follower.run()
    tasks = await running(follower)
    await sums.reaches("a", 6)
    await stop(tasks)


async def test_a_log_that_is_rewound_at_every_look_is_rebuilt_ever_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    enough = asyncio.Event()
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        if seconds:
            pauses.append(seconds)
            if len(pauses) == 8:
                enough.set()
        await sleep(0)

    class Restless(Log):
        async def read(self, key: str, after: Position) -> AsyncIterator[Page[int]]:
            if key in self.entries:
                raise LogRewound(sequence=after.sequence)
            yield Page((), after)

    log, sums = Restless(), Sums()
    log.append("a", 1)
    monkeypatch.setattr(asyncio, "sleep", noted)
    tasks = await running(Follower("restless", log, sums))
    async with asyncio.timeout(5):
        await enough.wait()
    await stop(tasks)
    assert pauses[:8] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


# ---- entries that are gone


class ForgetfulLog(Log):
    """One that keeps the entries of a key from a position on."""

    def __init__(self) -> None:
        super().__init__()
        self.horizons: dict[str, int] = {}

    async def read(self, key: str, after: Position) -> AsyncIterator[Page[int]]:
        if after.sequence < self.horizons.get(key, 0):
            raise OutOfRetention(problem="the next entries are gone")
        async for page in super().read(key, after):
            yield page


class Snapshots(Sums):
    """Sums that begin from the owner's, as of a position."""

    def __init__(self, log: ForgetfulLog) -> None:
        super().__init__()
        self.log = log

    async def rebuild(self, key: str) -> None:
        self.rebuilt.append(key)
        self.state[key] = (self.log.head(key), sum(value for value, _ in self.log.entries[key]))
        async with self.changed:
            self.changed.notify_all()


class Whole(Sums):
    """Sums that can only be made from every entry."""

    def __init__(self) -> None:
        super().__init__()
        self.tried_again = asyncio.Event()

    async def rebuild(self, key: str) -> None:
        self.rebuilt.append(key)
        if len(self.rebuilt) > 1:
            self.tried_again.set()
        raise OutOfRetention(problem="the first entries are gone")


async def test_a_follower_of_entries_that_are_gone_begins_from_a_snapshot_and_follows_on() -> None:
    log = ForgetfulLog()
    sums = Snapshots(log)
    log.append("a", 1, 2, 3)
    sums.state["a"] = (Position(1, "c0"), 1)
    log.horizons["a"] = 2
    tasks = await running(Follower("tests", log, sums))
    await sums.reaches("a", 6)
    log.append("a", 10)
    await sums.reaches("a", 16)
    await stop(tasks)
    assert sums.rebuilt == ["a"]


async def test_a_follower_that_needs_entries_that_are_gone_stays_where_it_is_and_does_not_hold_up_others() -> None:
    log, sums = ForgetfulLog(), Whole()
    log.append("a", 1, 2, 3)
    log.append("b", 5)
    sums.state |= {"a": (Position(1, "c0"), 1), "b": (START, 0)}
    log.horizons["a"] = 2
    tasks = await running(Follower("tests", log, sums))
    await sums.reaches("b", 5)
    await asyncio.wait_for(sums.tried_again.wait(), 5)
    await stop(tasks)
    assert sums.state["a"] == (Position(1, "c0"), 1)


async def test_a_follower_tells_how_far_each_key_is_applied() -> None:
    log, sums = Log(), Sums()
    log.append("a", 1, 2, 3)
    reached: asyncio.Queue[tuple[str, Position]] = asyncio.Queue()
    tasks = await running(Follower("tests", log, sums, reached=lambda *told: reached.put_nowait(told)))
    assert await asyncio.wait_for(reached.get(), 5) == ("a", log.head("a"))
    log.append("a", 4)
    assert await asyncio.wait_for(reached.get(), 5) == ("a", log.head("a"))
    await stop(tasks)
