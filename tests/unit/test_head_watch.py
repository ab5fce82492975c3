from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import count

import pytest

from kit.errors import DependencyUnavailable
from kit.feed import Head, Position
from kit.head_watch import FROM_THE_START, HEADS_AT_ONCE_MAX, HeadWatch, Look


class Owner:
    """Heads that move, and how often they were looked at. A mark is the number of the look it was given by."""

    def __init__(self, *keys: str) -> None:
        self.moves: list[Head] = []
        self.marks: list[str] = []
        self.error: Exception | None = None
        self.looked = asyncio.Condition()
        for key in keys:
            self.move(key)

    def move(self, key: str, sequence: int = 1) -> Head:
        head = Head(key, Position(sequence, f"commit of {sequence}"))
        self.moves.append(head)
        return head

    async def read(self, mark: str) -> Look:
        if self.error is not None:
            raise self.error
        self.marks.append(mark)
        latest = {head.key: head for head in self.moves[int(mark) :]}
        async with self.looked:
            self.looked.notify_all()
        return Look(list(latest.values()), str(len(self.moves)))

    async def looks(self, more: int) -> None:
        """Waits until heads were looked at so many times more."""
        upto = len(self.marks) + more
        async with self.looked:
            await self.looked.wait_for(lambda: len(self.marks) >= upto)

    def watch(self) -> HeadWatch:
        return HeadWatch(self.read, every_seconds=0)


def by_key(heads: Sequence[Head]) -> dict[str, int]:
    assert len({head.key for head in heads}) == len(heads), "a head is told twice at once"
    return {head.key: head.position.sequence for head in heads}


async def told(watch: AsyncIterator[Sequence[Head]]) -> dict[str, int]:
    async with asyncio.timeout(5):
        return by_key(await anext(watch))


async def test_every_head_is_told_once_and_then_what_moved() -> None:
    owner = Owner("a", "b")
    watch = owner.watch().watch()
    assert await told(watch) == {"a": 1, "b": 1}
    owner.move("b", 2)
    assert await told(watch) == {"b": 2}
    await watch.aclose()


async def test_an_owner_without_heads_says_so_and_then_tells_the_first() -> None:
    owner = Owner()
    watch = owner.watch().watch()
    assert await told(watch) == {}
    owner.move("a")
    assert await told(watch) == {"a": 1}
    await watch.aclose()


async def test_hundreds_of_watchers_share_every_look() -> None:
    owner = Owner("a", "b")
    heads = owner.watch()
    watches = [heads.watch() for _ in range(300)]
    assert await asyncio.gather(*map(told, watches)) == [{"a": 1, "b": 1}] * 300
    assert owner.marks.count(FROM_THE_START) == 1
    looks = len(owner.marks)
    owner.move("b", 2)
    waiting = asyncio.gather(*map(told, watches))
    await owner.looks(2)
    assert await waiting == [{"b": 2}] * 300
    assert len(owner.marks) < looks + 20
    for watch in watches:
        await watch.aclose()


async def test_a_watcher_that_comes_later_is_told_every_head_without_another_look_at_all_of_them() -> None:
    owner = Owner("a")
    heads = owner.watch()
    first = heads.watch()
    await told(first)
    owner.move("b")
    assert await told(first) == {"b": 1}
    later = heads.watch()
    assert await told(later) == {"a": 1, "b": 1}
    assert owner.marks.count(FROM_THE_START) == 1
    await later.aclose()
    await first.aclose()


async def test_a_slow_watcher_is_told_the_last_position_of_each_head_that_moved_and_holds_up_nobody() -> None:
    owner = Owner("a", "b", "c")
    heads = owner.watch()
    slow, quick = heads.watch(), heads.watch()
    await told(slow)
    await told(quick)
    for sequence in range(2, 100):
        owner.move("a", sequence)
        assert await told(quick) == {"a": sequence}
    owner.move("c", 2)
    assert await told(quick) == {"c": 2}
    assert await told(slow) == {"a": 99, "c": 2}
    await slow.aclose()
    await quick.aclose()


async def test_a_watcher_that_is_cancelled_leaves_the_others_watching() -> None:
    owner = Owner("a")
    heads = owner.watch()
    staying, leaving = heads.watch(), heads.watch()
    await told(staying)
    await told(leaving)
    waiting = asyncio.create_task(anext(leaving))
    await owner.looks(1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    owner.move("a", 2)
    assert await told(staying) == {"a": 2}
    await staying.aclose()


async def test_nobody_looks_while_nobody_watches() -> None:
    owner = Owner("a")
    heads = owner.watch()
    watch = heads.watch()
    await told(watch)
    await watch.aclose()
    looks = len(owner.marks)
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(owner.marks) == looks
    again = heads.watch()
    assert await told(again) == {"a": 1}
    await again.aclose()


async def test_a_look_that_fails_ends_every_watch_and_the_next_one_begins_anew() -> None:
    owner = Owner("a")
    heads = owner.watch()
    watches = [heads.watch() for _ in range(3)]
    await asyncio.gather(*map(told, watches))
    owner.error = DependencyUnavailable(dependency="the store")
    for watch in watches:
        with pytest.raises(DependencyUnavailable):
            await told(watch)
    with pytest.raises(DependencyUnavailable):
        await told(heads.watch())
    owner.error = None
    # What moved back while nobody looked (a restored backup) is told, because everything is.
    owner.moves = [Head("a", Position(1, "another"))]
    again = heads.watch()
    assert await anext(again) == owner.moves
    assert owner.marks.count(FROM_THE_START) == 2
    await again.aclose()


async def test_ten_thousand_heads_are_told_in_parts_and_each_of_them_once() -> None:
    owner = Owner(*(f"org-{number}" for number in range(10_000)))
    watch = owner.watch().watch()
    found: dict[str, int] = {}
    for parts in count(1):
        part = await told(watch)
        assert len(part) <= HEADS_AT_ONCE_MAX
        assert found.keys().isdisjoint(part)
        found |= part
        if len(found) == 10_000:
            break
        assert parts < 10
    owner.move("org-7", 2)
    assert await told(watch) == {"org-7": 2}
    await watch.aclose()
