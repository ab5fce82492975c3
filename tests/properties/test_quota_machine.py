"""No sequence of calls, events, changes and losses makes quota leak, overspend or lose count: in memory, on Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar, cast

import msgpack
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis.asyncio import Redis

from kit.clock import SystemClock
from kit.errors import NotFound, RequestIdReused
from kit.redis.client import connect_redis
from kit.redis.embedded import EmbeddedRedis
from kit.testing.stores import temporary_redis
from services.quota.adapters.memory import MemoryCounters
from services.quota.adapters.redis_counters.keys import keys_of
from services.quota.adapters.redis_counters.store import RedisCounters
from services.quota.application.ports import Answer, ChangeRequest, Extended, Grant
from services.quota.domain.checks import Check, Consumption, Mode, Subject, content_digest
from services.quota.domain.entitlements import Period, Standing
from services.quota.domain.errors import ReservationEnded
from services.quota.domain.limits import (
    ORGANIZATION,
    Counter,
    LevelMeter,
    Limit,
    LimitKind,
    LimitScope,
    Scope,
    ScopeKind,
    Window,
    WindowStyle,
)
from services.quota.domain.terms import Terms
from services.quota.domain.usage import UsageEntry
from services.quota.domain.windows import WindowCounter
from tests.properties.quota_plain import Held, Plain
from tests.unit.quota.house import House, Store
from tests.unit.quota.samples import (
    AGENTS,
    CALLS,
    HOUR_US,
    MINUTES,
    agents_limit,
    entitlement,
    minutes_limit,
    new_organization_id,
)

T = TypeVar("T")
METERS = (MINUTES, AGENTS, CALLS)
DAY_US = 86_400_000_000
PERIOD_US = 30 * DAY_US
# What others looked at before is still counted when a limit looks at it again.
DAY, SLIDING_DAY = Window(DAY_US, WindowStyle.FIXED), Window(DAY_US, WindowStyle.SLIDING)
OWN_LIMITS = (
    Limit("each-user", LimitScope(ScopeKind.USER), MINUTES, LimitKind.PERIOD, 0, 0),
    Limit("ann", LimitScope(ScopeKind.USER, "ann"), AGENTS, LimitKind.CONCURRENCY, 0, 0),
    Limit("calls", LimitScope(ScopeKind.ORGANIZATION), CALLS, LimitKind.WINDOW, 0, 0, DAY),
    Limit("project", LimitScope(ScopeKind.PROJECT), CALLS, LimitKind.WINDOW, 0, 10, SLIDING_DAY),
    Limit("shadow", LimitScope(ScopeKind.ORGANIZATION), MINUTES, LimitKind.PERIOD, 0, 0, shadow=True),
)
SCOPES = (ORGANIZATION, *(Scope(kind, name) for kind in (ScopeKind.PROJECT, ScopeKind.USER) for name in ("ann", "bob")))

# Few of everything, or hardly two steps would meet.
NAMES = st.sampled_from(["r1", "r2"])
PARTS = st.tuples(st.sampled_from(["", "ann", "bob"]), st.sampled_from(["", "ann"]))
ASKED = st.dictionaries(st.sampled_from(METERS), st.none() | st.integers(0, 30), min_size=1, max_size=3)
AMOUNTS = st.dictionaries(st.sampled_from(METERS), st.integers(0, 30), max_size=3)
VALUES = st.none() | st.integers(0, 90) | st.integers(60, 90)
SELDOM = st.integers(0, 7).map(lambda drawn: drawn == 7)


class QuotaMachine(RuleBasedStateMachine):
    """Does everything to a store and on paper. What time ends, the store is asked to end: nothing here waits."""

    def __init__(self, runner: asyncio.Runner, make_store: Callable[[], Store], client: Redis | None) -> None:
        super().__init__()
        self._runner = runner
        self._client = client
        self._store = make_store()
        self._organization_id = new_organization_id()
        self._house = House(self._store, self._organization_id)
        self._plain = Plain()
        self._changes = 0
        self._reversible: list[UsageEntry] = []

    def _run(self, work: Awaitable[T]) -> T:
        async def wait() -> T:
            return await work

        return self._runner.run(wait())

    def _settled(self, attempt: Callable[..., Awaitable[T]]) -> T:
        async def with_terms(terms: Terms, period_confirmed: bool) -> T:  # noqa: FBT001 - called by Settle
            return await attempt(terms, period_confirmed=period_confirmed)

        return self._run(self._house.settle(self._organization_id, with_terms))

    # --- what is in force

    @initialize(minutes=VALUES, agents=VALUES)
    def begin(self, minutes: int | None, agents: int | None) -> None:
        now_us = self._settings_now_us()
        self._plain.starts = (now_us - PERIOD_US // 2, now_us + PERIOD_US // 2)
        self.change_plan(minutes, agents, is_suspended=False)

    @rule(minutes=VALUES, agents=VALUES, is_suspended=SELDOM)
    def change_plan(self, minutes: int | None, agents: int | None, is_suspended: bool) -> None:  # noqa: FBT001
        limits = (minutes_limit(minutes, grace_percent=10), agents_limit(agents))
        self._plain.limits |= {limit.limit_id: limit for limit in limits}
        self._plain.is_active = not is_suspended
        self._put_plan()

    @rule(which=st.sampled_from(OWN_LIMITS), value=VALUES)
    def set_limit(self, which: Limit, value: int | None) -> None:
        limit = replace(which, value=value)
        self._plain.limits[limit.limit_id] = limit
        self._changes += 1
        request = ChangeRequest(request_id=f"q{self._changes}", digest=b"", actor="test")
        self._run(self._house.set_limit(self._organization_id, limit, request))

    @rule(hours=st.integers(1, 3))
    def roll_over(self, hours: int) -> None:
        start, end = self._plain.starts
        self._plain.starts = (start + hours * HOUR_US, end + hours * HOUR_US)
        self._put_plan()

    def _put_plan(self) -> None:
        self._changes += 1
        plan = [limit for limit in self._plain.limits.values() if limit.limit_id.startswith("plan:")]
        standing = Standing.ACTIVE if self._plain.is_active else Standing.SUSPENDED
        period = Period(*self._plain.starts)
        version = self._changes
        entitled = entitlement(self._organization_id, *plan, version=version, period=period, standing=standing)
        self._house.plans.set(entitled)
        self._run(self._house.plan_changes.catch_up(self._organization_id))

    # --- checks

    @rule(name=NAMES, asked=ASKED, parts=PARTS, is_brief=st.booleans())
    def reserve(self, name: str, asked: Mapping[str, int | None], parts: tuple[str, str], is_brief: bool) -> None:  # noqa: FBT001
        check = self._check(asked, parts, Mode.RESERVE, name, reserve_us=1 if is_brief else HOUR_US)
        self._ask(check, parts, asked, is_due=is_brief)

    @rule(name=NAMES | st.just(""), asked=ASKED, parts=PARTS)
    def consume(self, name: str, asked: Mapping[str, int | None], parts: tuple[str, str]) -> None:
        self._ask(self._check(asked, parts, Mode.CONSUME, name), parts, asked, is_due=False)

    @rule(asked=ASKED, parts=PARTS)
    def decide(self, asked: Mapping[str, int | None], parts: tuple[str, str]) -> None:
        self._ask(self._check(asked, parts, Mode.DECIDE, ""), parts, asked, is_due=False)

    @rule(data=st.data())
    @precondition(lambda self: any(each.content for each in self._plain.reservations.values()))
    def retry(self, data: st.DataObject) -> None:
        contents = [each.content for each in self._plain.reservations.values() if each.content]
        check = data.draw(st.sampled_from(contents))
        assert not self._settled(partial(self._store.check, check)).decision.is_denied

    def _ask(self, check: Check, parts: tuple[str, str], asked: Mapping[str, int | None], *, is_due: bool) -> None:
        name, plain, scopes = check.request_id, self._plain, scopes_of(parts)
        first = self._first_content(name)
        if first is not None and first not in ("any", check):
            with_error = self._refusal(partial(self._store.check, check))
            assert with_error is RequestIdReused
            return
        answer: Answer = self._settled(partial(self._store.check, check))
        if first is not None:
            assert not answer.decision.is_denied
            return
        allowed = plain.allows(scopes, asked, answer.decided_us)
        assert answer.decision.is_denied is not allowed, (answer, check)
        if not allowed or check.mode is Mode.DECIDE:
            return
        plain.admit(scopes, asked, answer.decided_us)
        if check.mode is Mode.RESERVE:
            plain.reserve(name, check, scopes, asked, is_due=is_due)
        elif name:
            plain.tombstones.pop(name, None)
            plain.consumed[name] = check

    def _first_content(self, name: str) -> object | None:
        known = self._plain.reservations.get(name)
        if known is not None:
            return known.content or "any"
        return self._plain.consumed.get(name) if name else None

    # --- reservations once they are made

    @rule(name=NAMES, asked=ASKED | st.just({}), parts=PARTS, other=SELDOM, is_brief=st.booleans())
    def extend(
        self,
        name: str,
        asked: Mapping[str, int | None],
        parts: tuple[str, str],
        other: bool,  # noqa: FBT001
        is_brief: bool,  # noqa: FBT001
    ) -> None:
        plain, known = self._plain, self._plain.reservations.get(name)
        if known is not None and not other:
            parts = parts_of(known.scopes)
        target = self._check(asked, parts, Mode.RESERVE, name, reserve_us=1 if is_brief else HOUR_US)
        attempt = partial(self._store.extend, target)
        is_over = known is not None and (known.closing or known.end not in ("", "time"))
        if is_over or name in plain.consumed or plain.tombstones.get(name, ({}, False))[1]:
            assert self._refusal(attempt) is ReservationEnded
            return
        is_open = known is not None and not known.end
        if known is not None and is_open and known.scopes != scopes_of(parts):
            assert self._refusal(attempt) is RequestIdReused
            return
        if not is_open and not asked:
            assert self._refusal(attempt) is NotFound
            return
        extended: Extended = self._settled(attempt)
        self._extended(extended, target, known if is_open else None, asked, is_due=is_brief)

    def _extended(
        self,
        extended: Extended,
        target: Check,
        known: Held | None,
        asked: Mapping[str, int | None],
        *,
        is_due: bool,
    ) -> None:
        plain, scopes, now_us = self._plain, target.subject.scopes, extended.answer.decided_us
        held = known.held if known else {}
        grown = {
            meter: None if amount is None else max(0, amount - held.get(meter, 0)) for meter, amount in asked.items()
        }
        allowed = plain.allows(scopes, grown, now_us, growth_only=known is not None)
        assert extended.answer.decision.is_denied is not allowed, (extended, target)
        assert extended.restored is (allowed and known is None)
        if not allowed:
            return
        plain.admit(scopes, grown, now_us)
        if known is None:
            plain.make_anew(target.request_id, None, scopes, asked, is_due=is_due)
            return
        known.is_due, known.head_seen = is_due, None
        known.grow(grown, dict(known.held))

    @rule(name=NAMES, asked=ASKED, parts=PARTS, other=SELDOM, is_brief=st.booleans())
    def register(
        self,
        name: str,
        asked: Mapping[str, int | None],
        parts: tuple[str, str],
        other: bool,  # noqa: FBT001
        is_brief: bool,  # noqa: FBT001
    ) -> None:
        known = self._plain.reservations.get(name)
        if known is not None and not other:
            parts = parts_of(known.scopes)
        check = self._check(asked, parts, Mode.RESERVE, name, reserve_us=1 if is_brief else HOUR_US)
        for again in (False, True):
            made = self._settled(partial(self._store.register, [Grant(check, content_digest(check))]))
            holds = self._plain.register(name, check, scopes_of(parts), asked, is_due=is_brief)
            assert [answer.decision.is_denied for answer in made] == [False] * holds, again

    @rule(name=NAMES, actuals=AMOUNTS)
    def commit(self, name: str, actuals: Mapping[str, int]) -> None:
        known = self._plain.reservations.get(name)
        if known is None:
            with pytest.raises(NotFound):
                self._run(self._store.commit(self._organization_id, name, actuals))
            return
        settlement = self._run(self._store.commit(self._organization_id, name, actuals)).settlement
        for meter in known.held:
            known.held[meter] = min(known.held[meter], max(0, actuals.get(meter, 0) - known.drawn.get(meter, 0)))
        beyond = {meter: actual - known.granted.get(meter, 0) for meter, actual in actuals.items()}
        assert settlement.held == {meter: amount for meter, amount in known.held.items() if amount}
        assert settlement.overrun == (
            {} if known.is_restored else {meter: amount for meter, amount in beyond.items() if amount > 0}
        )
        if known.end:
            return
        if not settlement.held:
            known.finish("settled")
        elif not known.closing:
            known.closing, known.is_due, known.head_seen = "settling", False, None

    @rule(name=NAMES)
    def release(self, name: str) -> None:
        known = self._plain.reservations.get(name)
        if known is None:
            with pytest.raises(NotFound):
                self._run(self._store.release(self._organization_id, name))
            return
        is_free = self._run(self._store.release(self._organization_id, name))
        if not known.end and not any(known.held.values()):
            known.finish("released")
        assert is_free is bool(known.end)
        if not known.end:
            known.closing, known.is_due = "releasing", True

    @rule()
    def expire(self) -> None:
        due = self._run(self._store.due(self._organization_id))
        assert sorted(due) == sorted(
            name for name, each in self._plain.reservations.items() if each.is_due and not each.end
        )
        head = len(self._plain.entries)
        freed = self._run(self._store.free(self._organization_id, due, head_sequence=head))
        assert freed.freed_count == self._plain.free_due()

    # --- the ledger

    @rule(name=NAMES, amounts=AMOUNTS, parts=PARTS, final=SELDOM, hours=st.sampled_from([0, -1, 1]))
    def use(
        self,
        name: str,
        amounts: Mapping[str, int],
        parts: tuple[str, str],
        final: bool,  # noqa: FBT001
        hours: int,
    ) -> None:
        event_time_us = self._plain.starts[0] + hours * HOUR_US
        entry = UsageEntry(0, event_time_us, tuple(amounts.items()), name, bool(name) and final, scopes_of(parts))
        self._record(entry)
        self._reversible.append(entry)

    @rule()
    @precondition(lambda self: self._reversible)
    def take_back(self) -> None:
        entry = self._reversible.pop()
        amounts = tuple((meter, -amount) for meter, amount in entry.quantities)
        self._record(replace(entry, quantities=amounts, reservation_id="", reservation_final=False))

    def _record(self, entry: UsageEntry) -> None:
        self._plain.entries.append(entry)
        self._house.record(entry)
        if self._is_lost():
            self._plain.applied = len(self._plain.entries)

    @rule()
    def follow(self) -> None:
        self._run(self._house.follow())
        if not self._is_lost():
            self._plain.apply_all()

    @rule(does=SELDOM)
    def lose(self, does: bool) -> None:  # noqa: FBT001
        if not does:
            return
        if self._client is not None:
            self._run(self._client.flushall())
        elif isinstance(self._store, MemoryCounters):
            self._store.lose_everything()
        self._plain.lose()

    @rule()
    def lose_holds(self) -> None:
        if self._client is not None:
            keys = keys_of(self._organization_id)
            self._run(self._client.delete(keys.held, keys.expiries))
        elif isinstance(self._store, MemoryCounters):
            self._store.lose_holds(self._organization_id)
        self._plain.lose_holds()
        # Whoever asks next rebuilds, at the position that is known still.
        self.look()

    # --- what must hold

    @rule()
    def look(self) -> None:
        counters = [Counter(scope, meter) for scope in SCOPES for meter in METERS]
        looked_at = [limit for limit in self._plain.limits.values() if limit.window is not None]
        windows = {
            WindowCounter(Counter(scope, limit.meter), limit.window): (scope, limit)
            for limit in looked_at
            for scope in SCOPES
            if limit.window is not None and scope.kind is limit.scope.kind
        }

        async def read(terms: Terms, *, period_confirmed: bool) -> Any:
            return await self._store.read(terms, counters, list(windows), period_confirmed=period_confirmed)

        readings = self._settled(read)
        state = self._run(self._store.state(self._organization_id))
        assert state is not None
        assert state.position.sequence == self._plain.applied == readings.applied_sequence
        for counter in counters:
            scope, meter = counter.scope, counter.meter
            assert readings.usage[counter].held == self._plain.held(scope, meter), counter
            if scope == ORGANIZATION or LevelMeter(scope.kind, meter) in state.tracked:
                assert readings.usage[counter].used == self._plain.used(scope, meter), counter
        for window, (scope, limit) in windows.items():
            expected = self._plain.in_window(scope, limit, readings.instant.now_us)
            assert readings.rates[window].quantity == expected, window

    @invariant()
    def nothing_in_redis_stays_for_ever_and_every_hold_has_an_owner_and_an_end(self) -> None:
        if self._client is not None:
            self._run(self._inspect(self._client))

    async def _inspect(self, client: Any) -> None:  # whose types say bytes or str, and here it is bytes
        keys = keys_of(self._organization_id)
        for key in await client.keys(f"quota:{{{self._organization_id}}}:*"):
            assert await client.ttl(key) > 0, key
        epoch = await client.hget(keys.state, "epoch")
        if epoch is None:
            return
        expected: dict[bytes, int] = {}
        ends = {b"|" + epoch: float("inf")}
        for key in await client.keys(keys.reservation("*")):
            record = await client.hgetall(key)
            if record[b"epoch"] != epoch or b"tombstone" in record or b"ended" in record:
                continue
            assert b"owner" in record
            ends[key.rsplit(b":", 1)[1]] = float(record[b"expire_us"])
            for field, amount in record.items():
                if field.startswith(b"held|"):
                    for prefix in msgpack.unpackb(record[b"scopes"], raw=True):
                        counter = prefix + field.removeprefix(b"held|")
                        expected[counter] = expected.get(counter, 0) + int(amount)
        held = await client.hgetall(keys.held)
        if not held:
            return  # lost, and nobody asked since
        assert held.pop(b"epoch") == epoch
        assert {field: int(amount) for field, amount in held.items()} == {
            field: amount for field, amount in expected.items() if amount
        }
        assert dict(await client.zrange(keys.expiries, 0, -1, withscores=True)) == ends
        still_open = {name.encode() for name, each in self._plain.reservations.items() if not each.end}
        assert set(ends) - {b"|" + epoch} == still_open

    def teardown(self) -> None:
        """Once all has ended, nothing is held."""
        if not self._changes:
            return
        self.look()
        for name in list(self._plain.reservations):
            self.release(name)
        self.follow()
        self.expire()
        self.look()
        assert not any(any(each.held.values()) for each in self._plain.reservations.values())

    # --- shorthands

    def _check(
        self,
        asked: Mapping[str, int | None],
        parts: tuple[str, str],
        mode: Mode,
        name: str,
        *,
        reserve_us: int = 0,
    ) -> Check:
        user_id, project_id = parts
        return Check(
            request_id=name,
            subject=Subject(organization_id=self._organization_id, user_id=user_id, project_id=project_id),
            consumptions=tuple(Consumption(meter, asked[meter]) for meter in sorted(asked)),
            mode=mode,
            reserve_us=reserve_us,
            owner="key-1",
        )

    def _refusal(self, attempt: Callable[..., Awaitable[object]]) -> type[Exception]:
        with pytest.raises((RequestIdReused, ReservationEnded, NotFound)) as refused:
            self._settled(attempt)
        return refused.type

    def _is_lost(self) -> bool:
        return self._run(self._store.state(self._organization_id)) is None

    def _settings_now_us(self) -> int:
        return int(SystemClock().now().timestamp() * 1_000_000)


def scopes_of(parts: tuple[str, str]) -> tuple[Scope, ...]:
    user_id, project_id = parts
    named = ((ScopeKind.PROJECT, project_id), (ScopeKind.USER, user_id))
    return (ORGANIZATION, *(Scope(kind, name) for kind, name in named if name))


def parts_of(scopes: tuple[Scope, ...]) -> tuple[str, str]:
    names = {scope.kind: scope.id for scope in scopes}
    return names.get(ScopeKind.USER, ""), names.get(ScopeKind.PROJECT, "")


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as started:
        yield started


@pytest.fixture
def own_redis() -> Iterator[EmbeddedRedis]:
    """A Redis that the machine may empty."""
    with temporary_redis(not_durable=True) as server:
        yield server


def test_memory_neither_leaks_nor_overspends_nor_loses_count(runner: asyncio.Runner) -> None:
    def make_store() -> Store:
        return MemoryCounters(SystemClock())

    run_state_machine_as_test(
        cast("type[QuotaMachine]", partial(QuotaMachine, runner, make_store, None)),
        settings=settings(max_examples=150, stateful_step_count=50, deadline=None),
    )


def test_redis_neither_leaks_nor_overspends_nor_loses_count(runner: asyncio.Runner, own_redis: EmbeddedRedis) -> None:
    async def connect() -> Redis:
        return connect_redis(own_redis.url, timeout_seconds=5)

    client = runner.run(connect())

    def make_store() -> Store:
        return RedisCounters(client, command_seconds=5)

    run_state_machine_as_test(
        cast("type[QuotaMachine]", partial(QuotaMachine, runner, make_store, client)),
        settings=settings(max_examples=150, stateful_step_count=50, deadline=None),
    )
    runner.run(client.aclose())
