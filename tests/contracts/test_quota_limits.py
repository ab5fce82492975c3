"""The promises of the record of organizations' own limits, on memory and on Postgres, and of where they are kept in
force, on memory and on Redis.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Protocol

import pytest

from kit.clock import SystemClock
from kit.errors import LimitExceeded, LogRewound, NotFound, RequestIdReused
from kit.feed import START, Feed, Position
from kit.postgres.database import Database
from kit.redis.client import connect_redis
from kit.redis.embedded import EmbeddedRedis
from services.quota.adapters.memory import MemoryCounters
from services.quota.adapters.memory_limits import MemoryLimits
from services.quota.adapters.postgres_limits import PostgresLimitChanges, PostgresLimits
from services.quota.adapters.redis_counters.store import RedisCounters
from services.quota.application.ports import ChangeRequest, InForce, Kept, LimitRecord, TermsShelf
from services.quota.domain.limits import (
    WHOLE_ORGANIZATION,
    Limit,
    LimitKind,
    LimitScope,
    ScopeKind,
    UnavailablePolicy,
    Window,
    WindowStyle,
)
from services.quota.domain.maxima import TRACKED_MAX
from services.quota.domain.terms import OwnLimits
from tests.unit.quota.samples import MINUTES, entitlement, minutes_limit, new_organization_id, own_limits, user_limit


class Changes(Feed[OwnLimits], Protocol):
    """The feed of a record's changes."""


@dataclass
class Book:
    """A record and its changes, and an organization that no other test uses."""

    record: LimitRecord
    changes: Changes
    organization_id: str

    async def set(self, limit: Limit, request_id: str, *, digest: bytes = b"d") -> Limit:
        return await self.record.set(self.organization_id, limit, request(request_id, digest=digest))

    async def delete(self, limit_id: str, request_id: str) -> None:
        await self.record.delete(self.organization_id, limit_id, request(request_id))

    async def own(self) -> OwnLimits:
        return await self.record.own_limits(self.organization_id)

    async def read(self, after: Position) -> list[OwnLimits]:
        return [entry async for page in self.changes.read(self.organization_id, after) for entry in page.entries]


def request(request_id: str, *, digest: bytes = b"d") -> ChangeRequest:
    return ChangeRequest(request_id=request_id, digest=digest, actor="tenant:key-1")


@pytest.fixture(params=["memory", "postgres"])
async def book(request: pytest.FixtureRequest, migrated: Callable[[str], dict[str, str]]) -> AsyncIterator[Book]:
    organization_id = new_organization_id()
    if request.param == "memory":
        memory = MemoryLimits()
        yield Book(memory, memory, organization_id)
        return
    databases = {kind: Database(url) for kind, url in migrated("quota").items()}
    record = PostgresLimits(databases["tenant"])
    changes = PostgresLimitChanges(databases["tenant"], databases["fleet"], record)
    yield Book(record, changes, organization_id)
    for database in databases.values():
        await database.close()


EVERYTHING = Limit(
    "everything",
    LimitScope(ScopeKind.USER, "u1"),
    MINUTES,
    LimitKind.WINDOW,
    2**53 - 1,
    1_000,
    Window(60_000_000, WindowStyle.SLIDING),
    UnavailablePolicy.DENY,
    shadow=True,
)
PLAIN = Limit("plain", WHOLE_ORGANIZATION, MINUTES, LimitKind.PERIOD, None, 0)


async def test_an_organization_begins_without_limits_of_its_own(book: Book) -> None:
    assert await book.own() == own_limits(book.organization_id)


async def test_limits_read_back_as_they_were_set_by_id(book: Book) -> None:
    await book.set(PLAIN, "q1")
    await book.set(EVERYTHING, "q2")
    own = await book.own()
    assert (own.limits, own.sequence) == ((EVERYTHING, PLAIN), 2)
    assert own.commit_id


async def test_a_limit_with_the_same_id_is_replaced(book: Book) -> None:
    await book.set(PLAIN, "q1")
    await book.set(replace(EVERYTHING, limit_id="plain"), "q2")
    assert (await book.own()).limits == (replace(EVERYTHING, limit_id="plain"),)


async def test_the_same_request_answers_as_the_first_time_and_changes_nothing(book: Book) -> None:
    assert await book.set(EVERYTHING, "q1") == EVERYTHING
    await book.set(replace(EVERYTHING, value=1), "q2")
    made_otherwise = replace(EVERYTHING, limit_id="another id made for it")
    assert await book.set(made_otherwise, "q1") == EVERYTHING
    own = await book.own()
    assert (own.limits, own.sequence) == ((replace(EVERYTHING, value=1),), 2)


async def test_a_request_id_with_other_content_is_refused_and_changes_nothing(book: Book) -> None:
    await book.set(PLAIN, "q1")
    with pytest.raises(RequestIdReused):
        await book.set(EVERYTHING, "q1", digest=b"other")
    with pytest.raises(RequestIdReused):
        await book.record.delete(book.organization_id, "plain", request("q1", digest=b"a deletion"))
    assert (await book.own()).limits == (PLAIN,)


async def test_a_deleted_limit_is_gone_and_deleting_again_changes_nothing(book: Book) -> None:
    await book.set(PLAIN, "q1")
    await book.delete("plain", "q2")
    await book.delete("plain", "q2")
    own = await book.own()
    assert (own.limits, own.sequence) == ((), 2)


async def test_a_limit_that_is_not_there_cannot_be_deleted_and_the_request_id_stays_free(book: Book) -> None:
    with pytest.raises(NotFound):
        await book.delete("plain", "q1")
    assert (await book.own()).sequence == 0
    await book.set(PLAIN, "q1")


async def test_changes_at_once_take_turns_and_none_is_lost(book: Book) -> None:
    limits = [replace(PLAIN, limit_id=f"l{number}") for number in range(8)]
    await asyncio.gather(*(book.set(limit, f"q-{limit.limit_id}") for limit in limits))
    own = await book.own()
    assert (own.limits, own.sequence) == (tuple(limits), 8)


async def test_copies_of_one_request_at_once_are_one_change(book: Book) -> None:
    names = [f"made-{number}" for number in range(6)]
    answers = await asyncio.gather(*(book.set(replace(PLAIN, limit_id=name), "q1") for name in names))
    assert len(set(answers)) == 1
    own = await book.own()
    assert (own.limits, own.sequence) == ((answers[0],), 1)


async def test_more_levels_and_meters_than_may_be_tracked_are_refused_and_change_nothing(book: Book) -> None:
    for number in range(TRACKED_MAX):
        await book.set(user_limit(1, limit_id=f"l{number}", meter=f"meter_{number}"), f"q{number}")
    with pytest.raises(LimitExceeded):
        await book.set(user_limit(1, limit_id="one more", meter="one_more"), "q-more")
    await book.set(user_limit(1, limit_id="same level and meter", meter="meter_0"), "q-same")
    own = await book.own()
    assert (len(own.limits), own.sequence) == (TRACKED_MAX + 1, TRACKED_MAX + 1)


async def test_changes_are_read_as_the_limits_of_the_head(book: Book) -> None:
    await book.set(PLAIN, "q1")
    first = await book.own()
    await book.set(EVERYTHING, "q2")
    newest = await book.own()
    assert await book.read(START) == [newest]
    assert await book.read(Position(first.sequence, first.commit_id)) == [newest]
    assert await book.read(Position(newest.sequence, newest.commit_id)) == []


async def test_a_position_of_another_history_is_told_that_the_log_was_rewound(book: Book) -> None:
    await book.set(PLAIN, "q1")
    for unknown in (Position(1, "another"), Position(2, "ahead")):
        with pytest.raises(LogRewound):
            await book.read(unknown)


async def test_heads_say_how_far_each_organization_s_changes_reach(book: Book) -> None:
    await book.set(PLAIN, "q1")
    own = await book.own()
    async for heads in book.changes.watch():
        found = {head.key: head.position for head in heads}
        assert found[book.organization_id] == Position(own.sequence, own.commit_id)
        break


# --- what is in force


@dataclass
class Shelf:
    """What keeps terms, and an organization that no other test uses."""

    store: TermsShelf
    organization_id: str

    def own(self, sequence: int, *limits: Limit, commit_id: str = "") -> OwnLimits:
        return own_limits(self.organization_id, *limits, sequence=sequence, commit_id=commit_id or f"c{sequence}")


@pytest.fixture(params=["memory", "redis"])
async def shelf(request: pytest.FixtureRequest, redis_server: EmbeddedRedis) -> AsyncIterator[Shelf]:
    if request.param == "memory":
        yield Shelf(MemoryCounters(SystemClock()), new_organization_id())
        return
    client = connect_redis(redis_server.url, timeout_seconds=5)
    yield Shelf(RedisCounters(client, command_seconds=5), new_organization_id())
    await client.aclose()


async def test_nothing_is_kept_of_an_organization_never_seen(shelf: Shelf) -> None:
    assert await shelf.store.kept(shelf.organization_id) == Kept(None, None)
    assert await shelf.store.limits_position(shelf.organization_id) is None


async def test_limits_of_a_later_entry_replace_those_kept_and_of_an_earlier_one_never(shelf: Shelf) -> None:
    old, new = shelf.own(1, PLAIN), shelf.own(2, EVERYTHING, PLAIN)
    assert await shelf.store.put_limits(old) == old
    assert await shelf.store.put_limits(new) == new
    assert await shelf.store.put_limits(old) == new
    assert await shelf.store.put_limits(shelf.own(2, commit_id="another")) == new
    assert await shelf.store.limits_position(shelf.organization_id) == Position(2, "c2")


async def test_limits_and_entitlement_are_kept_beside_each_other_whichever_comes_first(shelf: Shelf) -> None:
    own = await shelf.store.put_limits(shelf.own(1, PLAIN))
    assert await shelf.store.kept(shelf.organization_id) == Kept(None, own)
    entitled = await shelf.store.put(InForce(entitlement(shelf.organization_id, minutes_limit(5)), START))
    assert await shelf.store.kept(shelf.organization_id) == Kept(entitled, own)
    newer = await shelf.store.put_limits(shelf.own(2))
    assert await shelf.store.kept(shelf.organization_id) == Kept(entitled, newer)


async def test_after_a_rewound_log_lower_limits_replace_those_kept_once(shelf: Shelf) -> None:
    kept = await shelf.store.put_limits(shelf.own(9, PLAIN))
    restored = shelf.own(3, EVERYTHING)
    assert not await shelf.store.replace_limits(restored, expected=Position(9, "another"))
    assert await shelf.store.kept(shelf.organization_id) == Kept(None, kept)
    assert await shelf.store.replace_limits(restored, expected=Position(9, "c9"))
    assert not await shelf.store.replace_limits(kept, expected=Position(9, "c9"))
    assert await shelf.store.kept(shelf.organization_id) == Kept(None, restored)
