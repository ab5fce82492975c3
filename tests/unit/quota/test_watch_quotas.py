from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

import pytest

from kit.errors import DependencyUnavailable
from services.quota.application.list_quotas import Quotas
from services.quota.application.watch_quotas import WatchQuotas
from services.quota.domain.decisions import LimitState
from services.quota.domain.limits import ORGANIZATION, Counter
from tests.unit.quota.samples import MINUTES, entitlement, minutes_limit

ENTITLED = entitlement("acme", minutes_limit(100))


def used(quantity: int, *, sequence: int = 0) -> Quotas:
    state = LimitState(minutes_limit(100), Counter(ORGANIZATION, MINUTES), quantity, 0)
    return Quotas(ENTITLED, (state,), sequence)


class Listing:
    """What ListQuotas says, or raises."""

    def __init__(self) -> None:
        self.now: Quotas | Exception = used(0)
        self.asked: list[str] = []

    async def __call__(self, organization_id: str) -> Quotas:
        self.asked.append(organization_id)
        if isinstance(self.now, Exception):
            raise self.now
        return self.now


async def following(looks: AsyncGenerator[Quotas | None], watch: WatchQuotas) -> Quotas | None:
    """What comes with the next look."""
    waiting = asyncio.ensure_future(anext(looks))
    # It gets to where it waits.
    await asyncio.sleep(0)
    await watch.look()
    return await waiting


async def test_the_first_is_what_is_and_then_what_has_changed() -> None:
    listing = Listing()
    watch = WatchQuotas(listing)
    async with aclosing(watch("acme")) as looks:
        assert await anext(looks) == used(0)
        assert await following(looks, watch) is None
        listing.now = used(5)
        assert await following(looks, watch) == used(5)


async def test_the_sequence_alone_is_no_change() -> None:
    listing = Listing()
    watch = WatchQuotas(listing)
    async with aclosing(watch("acme")) as looks:
        await anext(looks)
        listing.now = used(0, sequence=9)
        assert await following(looks, watch) is None


async def test_a_watcher_that_comes_back_late_gets_the_latest_alone() -> None:
    listing = Listing()
    watch = WatchQuotas(listing)
    async with aclosing(watch("acme")) as looks:
        await anext(looks)
        for quantity in range(1, 6):
            listing.now = used(quantity)
            await watch.look()
        assert await anext(looks) == used(5)
        assert await following(looks, watch) is None


async def test_many_watchers_cost_one_look_each_time() -> None:
    listing = Listing()
    watch = WatchQuotas(listing)
    watchers = [watch("acme") for _ in range(20)]
    for looks in watchers:
        await anext(looks)
    listing.asked.clear()
    await watch.look()
    assert listing.asked == ["acme"]
    for looks in watchers:
        await looks.aclose()


async def test_an_organization_that_nobody_watches_any_more_is_not_looked_at() -> None:
    listing = Listing()
    watch = WatchQuotas(listing)
    looks = watch("acme")
    await anext(looks)
    waiting = asyncio.ensure_future(anext(looks))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    listing.asked.clear()
    await watch.look()
    assert listing.asked == []


async def test_a_store_that_is_away_for_a_moment_is_not_told() -> None:
    listing = Listing()
    watch = WatchQuotas(listing)
    async with aclosing(watch("acme")) as looks:
        await anext(looks)
        listing.now = DependencyUnavailable(dependency="Redis")
        for _ in range(9):
            assert await following(looks, watch) is None
        listing.now = used(1)
        assert await following(looks, watch) == used(1)


async def test_a_store_that_stays_away_ends_the_watch_with_what_is_wrong() -> None:
    listing = Listing()
    watch = WatchQuotas(listing)
    async with aclosing(watch("acme")) as looks:
        await anext(looks)
        listing.now = DependencyUnavailable(dependency="Redis")
        for _ in range(9):
            await following(looks, watch)
        with pytest.raises(DependencyUnavailable):
            await following(looks, watch)


async def test_what_fails_at_the_start_is_told_at_once() -> None:
    listing = Listing()
    listing.now = DependencyUnavailable(dependency="billing")
    watch = WatchQuotas(listing)
    with pytest.raises(DependencyUnavailable):
        await anext(watch("acme"))


async def test_a_defect_for_one_organization_is_no_matter_of_another() -> None:
    class Troubled(Listing):
        async def __call__(self, organization_id: str) -> Quotas:
            if organization_id == "bad" and self.asked.count("bad"):
                raise ValueError
            return await super().__call__(organization_id)

    listing = Troubled()
    watch = WatchQuotas(listing)
    async with aclosing(watch("bad")) as bad, aclosing(watch("acme")) as good:
        await anext(bad)
        await anext(good)
        listing.now = used(3)
        assert await following(good, watch) == used(3)


def test_the_token_is_that_of_what_is_shown() -> None:
    assert used(1).token == used(1, sequence=7).token
    assert used(1).token != used(2).token
    assert used(1).token != replace(used(1), entitlement=replace(ENTITLED, version=2)).token
