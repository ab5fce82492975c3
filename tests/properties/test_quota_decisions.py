"""decide() and its Lua twin agree, whatever is limited, counted and asked, over the whole tree."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from kit.feed import START
from kit.redis.client import connect_redis
from kit.redis.embedded import EmbeddedRedis
from services.quota.adapters.redis_counters.keys import counter_field, keys_of
from services.quota.adapters.redis_counters.store import RedisCounters
from services.quota.application.ports import InForce
from services.quota.domain.checks import Check, Consumption, Mode, Subject, matching
from services.quota.domain.decisions import Counted, Decision, decide, decide_all
from services.quota.domain.entitlements import Standing
from services.quota.domain.limits import (
    Counter,
    Limit,
    LimitKind,
    LimitScope,
    Scope,
    ScopeKind,
    Usage,
    Window,
    WindowStyle,
)
from services.quota.domain.maxima import COUNTER_MAX
from services.quota.domain.terms import OwnLimits, Terms
from services.quota.domain.windows import Slots, WindowCounter, admitted_at
from tests.unit.quota.samples import AGENTS, CALLS, HOUR_US, MINUTES, entitlement, new_organization_id

METERS = (MINUTES, AGENTS, CALLS)
DAY_US = 86_400_000_000
# Where doubles, rounding and comparisons break: around 0, around each other, around 2^53.
NUMBERS = st.one_of(
    st.integers(0, 12),
    st.integers(90, 112),
    st.integers(2**52 - 2, 2**52 + 2),
    st.integers(COUNTER_MAX - 12, COUNTER_MAX),
)
NAMES = st.sampled_from(["", "a", "b"])
SUBJECTS = st.builds(
    Subject,
    organization_id=st.just(""),
    project_id=NAMES,
    team_id=NAMES,
    user_id=NAMES,
    agent_id=NAMES,
    task_id=NAMES,
)
SCOPES = st.one_of(
    st.just(LimitScope(ScopeKind.ORGANIZATION)),
    st.builds(
        LimitScope, st.sampled_from([kind for kind in ScopeKind if kind.value != "organization"]), st.none() | NAMES
    ).filter(lambda scope: scope.id != ""),
)
# A window of a day: it does not turn while an example runs.
WINDOWS = st.builds(Window, st.just(DAY_US), st.sampled_from(WindowStyle))


@st.composite
def limit(draw: st.DrawFn) -> Limit:
    """Any limit."""
    kind = draw(st.sampled_from(LimitKind))
    return Limit(
        f"limit-{draw(st.integers(0, 10**6))}",
        draw(SCOPES),
        draw(st.sampled_from(METERS)),
        kind,
        draw(st.none() | NUMBERS),
        draw(st.integers(0, 100)),
        draw(WINDOWS) if kind is LimitKind.WINDOW else None,
        shadow=draw(st.booleans()),
    )


LIMITS = st.lists(limit(), max_size=8, unique_by=lambda each: each.limit_id)
COUNTS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=24, max_size=24)
SLOTS = st.dictionaries(st.integers(0, 90), NUMBERS, max_size=4)
QUANTITIES = st.dictionaries(st.sampled_from(METERS), st.none() | NUMBERS, min_size=1)
MODES = st.sampled_from(Mode)


def check_of(subject: Subject, quantities: Mapping[str, int | None], mode: Mode, request_id: str) -> Check:
    return Check(
        request_id=request_id,
        subject=subject,
        consumptions=tuple(Consumption(meter, quantities[meter]) for meter in sorted(quantities)),
        mode=mode,
        reserve_us=HOUR_US if mode is Mode.RESERVE else 0,
    )


@dataclass
class Twin:
    """check.lua on a Redis whose counters are set to anything."""

    runner: asyncio.Runner
    client: Redis

    async def begin(self, terms: Terms, usage: Mapping[Counter, Usage], slots: Mapping[WindowCounter, Slots]) -> None:
        store, keys = RedisCounters(self.client, command_seconds=5), keys_of(terms.organization_id)
        await store.put(InForce(terms.entitlement, START))
        await store.put_limits(terms.own)
        used = {each: seen.used for each, seen in usage.items()}
        assert await store.reset(terms.entitlement, expected=None, position=START, tracked=terms.tracked, used=used)
        for each, seen in usage.items():
            await self.client.hset(keys.held, counter_field(each), str(seen.held))
        for window, kept in slots.items():
            for number, quantity in kept.items():
                await self.client.hset(keys.window(window), str(number), str(quantity))

    async def now_us(self) -> int:
        seconds, microseconds = await self.client.time()
        return int(seconds) * 1_000_000 + int(microseconds)


@pytest.fixture(scope="module")
def twin(redis_server: EmbeddedRedis) -> Iterator[Twin]:
    with asyncio.Runner() as runner:

        async def connect() -> Redis:
            return connect_redis(redis_server.url, timeout_seconds=5)

        client = runner.run(connect())
        yield Twin(runner, client)
        runner.run(client.aclose())


def terms_of(limits: list[Limit], standing: Standing) -> Terms:
    organization_id = new_organization_id()
    half = len(limits) // 2
    own = OwnLimits(organization_id=organization_id, sequence=1, commit_id="c1", limits=tuple(limits[half:]))
    return Terms(entitlement(organization_id, *limits[:half], standing=standing), own)


def decided(
    terms: Terms, checks: list[Check], counted: Counted, *, all_or_none: bool
) -> tuple[Sequence[Decision], Counted]:
    """What the domain says of the checks."""
    standing = terms.entitlement.standing
    asked = [(matching(terms.limits, check), check) for check in checks]
    if all_or_none:
        return decide_all(asked, counted, standing=standing)
    decisions: list[Decision] = []
    for applied, check in asked:
        decision, counted = decide(applied, counted, check, standing=standing)
        decisions.append(decision)
    return decisions, counted


@settings(max_examples=400, deadline=None)
@given(
    LIMITS,
    st.lists(st.tuples(SUBJECTS, QUANTITIES, MODES), min_size=1, max_size=4),
    COUNTS,
    st.lists(SLOTS, min_size=8, max_size=8),
    st.sampled_from(Standing),
    st.booleans(),
)
def test_decide_equals_its_lua_twin(  # noqa: PLR0917 - what hypothesis draws
    twin: Twin,
    limits: list[Limit],
    asked: list[tuple[Subject, dict[str, int | None], Mode]],
    counts: list[tuple[int, int]],
    ages: list[dict[int, int]],
    standing: Standing,
    all_or_none: bool,  # noqa: FBT001 - drawn
) -> None:
    terms = terms_of(limits, standing)
    checks = [
        check_of(replace(subject, organization_id=terms.organization_id), quantities, mode, f"r{place}")
        for place, (subject, quantities, mode) in enumerate(asked)
    ]
    if all_or_none:
        checks = [replace(check, mode=Mode.CONSUME, request_id="", reserve_us=0) for check in checks]

    async def compare() -> None:
        counters = sorted({counter for check in checks for counter, _ in check.counters}, key=counter_field)
        usage = {counter: Usage(*count) for counter, count in zip(counters, counts, strict=False)}
        now_us = await twin.now_us()
        keys = {
            WindowCounter(each.counter, each.limit.window): None
            for check in checks
            for each in matching(terms.limits, check)
            if each.limit.window is not None
        }
        slots = {
            key: {now_us // key.window.slot_us - age: quantity for age, quantity in kept.items()}
            for key, kept in zip(keys, ages, strict=False)
        }
        await twin.begin(terms, usage, slots)
        store = RedisCounters(twin.client, command_seconds=5)
        answers = await (store.check_all if all_or_none else store.check_many)(checks, terms)
        windows = {key: admitted_at(key.window, slots.get(key, {}), now_us) for key in keys}
        counted = Counted(usage, windows)
        decisions, counted = decided(terms, checks, counted, all_or_none=all_or_none)
        for check, answer, decision in zip(checks, answers, decisions, strict=True):
            assert not isinstance(answer, Exception)
            assert answer.decision == decision, check
            assert (answer.reservation is not None) is (check.mode is Mode.RESERVE and not decision.is_denied)
        readings = await store.read(terms, counters, list(keys))
        for counter in counters:
            assert readings.usage[counter] == counted.usage.get(counter, Usage()), counter
        for key in keys:
            assert readings.rates[key].quantity == counted.windows[key].quantity
            assert readings.rates[key].empty_us == counted.windows[key].empty_us

    twin.runner.run(compare())


def counted_of(limits: list[Limit], check: Check, counts: list[tuple[int, int]]) -> Counted:
    counters = sorted({counter for counter, _ in check.counters}, key=counter_field)
    usage = {counter: Usage(*count) for counter, count in zip(counters, counts, strict=False)}
    windows = {
        WindowCounter(each.counter, each.limit.window): admitted_at(each.limit.window, {}, DAY_US)
        for each in matching(limits, check)
        if each.limit.window is not None
    }
    return Counted(usage, windows)


@given(LIMITS, SUBJECTS, QUANTITIES, COUNTS, MODES)
@example(
    [Limit("l", LimitScope(ScopeKind.USER), MINUTES, LimitKind.CONCURRENCY, 3, 0)],
    Subject(organization_id="", user_id="a"),
    {MINUTES: 3},
    [(0, 0)] * 24,
    Mode.RESERVE,
)
def test_what_is_moved_never_passes_a_hard_limit_of_any_level(
    limits: list[Limit],
    subject: Subject,
    quantities: dict[str, int | None],
    counts: list[tuple[int, int]],
    mode: Mode,
) -> None:
    check = check_of(subject, quantities, mode, "r1")
    before = counted_of(limits, check, counts)
    decision, after = decide(matching(limits, check), before, check)
    if decision.is_denied:
        assert after == before
        return
    for each in matching(limits, check):
        if each.limit.shadow or each.limit.hard is None:
            continue
        if each.limit.window is not None:
            assert after.windows[WindowCounter(each.counter, each.limit.window)].quantity <= each.limit.hard
            continue
        held = after.usage.get(each.counter, Usage()).held
        used = after.usage.get(each.counter, Usage()).used if each.limit.kind is LimitKind.PERIOD else 0
        grew = held > before.usage.get(each.counter, Usage()).held
        assert not grew or used + held <= each.limit.hard


@given(LIMITS, SUBJECTS, st.dictionaries(st.sampled_from(METERS), st.integers(1, 200), min_size=1), COUNTS)
def test_what_is_allowed_is_also_allowed_in_a_smaller_quantity(
    limits: list[Limit], subject: Subject, quantities: dict[str, int], counts: list[tuple[int, int]]
) -> None:
    check = check_of(subject, quantities, Mode.DECIDE, "")
    smaller = check_of(subject, {meter: quantity - 1 for meter, quantity in quantities.items()}, Mode.DECIDE, "")
    counted = counted_of(limits, check, counts)
    if not decide(matching(limits, check), counted, check)[0].is_denied:
        assert not decide(matching(limits, smaller), counted, smaller)[0].is_denied


@given(LIMITS, SUBJECTS, QUANTITIES, COUNTS, MODES)
def test_a_shadow_limit_never_changes_the_answer(
    limits: list[Limit],
    subject: Subject,
    quantities: dict[str, int | None],
    counts: list[tuple[int, int]],
    mode: Mode,
) -> None:
    check = check_of(subject, quantities, mode, "r1")
    counted = counted_of(limits, check, counts)
    visible = [each for each in limits if not each.shadow]
    with_shadows, _ = decide(matching(limits, check), counted, check)
    without, _ = decide(matching(visible, check), counted, check)
    assert (with_shadows.outcome, with_shadows.reason) == (without.outcome, without.reason)


def test_a_counter_of_a_member_is_another_than_that_of_the_organization() -> None:
    assert counter_field(Counter(Scope(ScopeKind.USER, "a"), MINUTES)) == f"user|a|{MINUTES}"
