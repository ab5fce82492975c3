from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from services.quota.domain.checks import Check, matching
from services.quota.domain.decisions import Counted, Decision, DenyReason, Outcome, Remedy, decide
from services.quota.domain.limits import Counter, Limit, LimitKind, Usage, Window, WindowStyle, plan_limit
from services.quota.domain.maxima import COUNTER_MAX
from tests.unit.quota.samples import (
    AGENTS,
    CALLS,
    MINUTES,
    agents_limit,
    counter,
    decide_check,
    minutes_limit,
    reserve_check,
)


def decided(limits: Sequence[Limit], usage: Mapping[Counter, Usage], check: Check) -> Decision:
    return decide(matching(limits, check), Counted(usage, {}), check)[0]


def test_without_a_matching_limit_everything_is_allowed() -> None:
    decision = decided([minutes_limit(0)], {}, decide_check("o", {CALLS: 5}))
    assert (decision.outcome, decision.states) == (Outcome.ALLOWED, ())


def test_the_hard_limit_is_the_limit_and_its_grace_band_rounded_down() -> None:
    assert minutes_limit(105, grace_percent=10).hard == 115
    assert minutes_limit(9, grace_percent=10).hard == 9
    assert minutes_limit(0, grace_percent=100).hard == 0
    assert minutes_limit(None, grace_percent=10).hard is None
    assert minutes_limit(COUNTER_MAX, grace_percent=10).hard == COUNTER_MAX


def test_one_denying_limit_denies_all_and_comes_first() -> None:
    limits = [minutes_limit(100), agents_limit(1)]
    usage = {counter(AGENTS): Usage(0, 1)}
    decision = decided(limits, usage, reserve_check("o", {MINUTES: 1, AGENTS: 1}))
    assert (decision.outcome, decision.reason) == (Outcome.DENIED, DenyReason.CONCURRENCY)
    assert [(state.counter.meter, state.outcome) for state in decision.states] == [
        (AGENTS, Outcome.DENIED),
        (MINUTES, Outcome.ALLOWED),
    ]
    assert decision.states[1].held == 0


def test_a_reached_period_limit_is_the_reason_before_a_reached_concurrency_limit() -> None:
    limits = [agents_limit(0), minutes_limit(0)]
    decision = decided(limits, {}, decide_check("o", {MINUTES: 1, AGENTS: 1}))
    assert decision.reason is DenyReason.LIMIT_REACHED


def test_an_unlimited_meter_is_allowed_and_says_what_is_counted() -> None:
    decision = decided([minutes_limit(None)], {counter(MINUTES): Usage(7, 2)}, reserve_check("o", {MINUTES: 5}))
    state = decision.states[0]
    assert (decision.outcome, state.used, state.held, state.remaining) == (Outcome.ALLOWED, 7, 7, None)


def test_a_limit_that_was_lowered_below_usage_leaves_nothing_and_never_less() -> None:
    decision = decided([minutes_limit(10)], {counter(MINUTES): Usage(50, 5)}, decide_check("o", {MINUTES: 0}))
    assert decision.outcome is Outcome.DENIED
    assert decision.states[0].remaining == 0


@pytest.mark.parametrize(
    ("used", "held", "quantity", "remedy"),
    [
        (40, 60, 10, Remedy.RELEASE),
        (100, 0, 10, Remedy.RESET),
        (91, 50, 10, Remedy.RESET),
        (0, 0, 101, Remedy.NOTHING),
    ],
    ids=["holds_are_in_the_way", "usage_is", "usage_alone_would_be", "larger_than_the_limit"],
)
def test_a_denial_knows_what_could_let_the_same_check_through(
    used: int, held: int, quantity: int, remedy: Remedy
) -> None:
    usage = {counter(MINUTES): Usage(used, held)}
    decision = decided([minutes_limit(100)], usage, decide_check("o", {MINUTES: quantity}))
    assert decision.outcome is Outcome.DENIED
    assert decision.remedy is remedy


def test_of_several_denying_limits_the_one_that_takes_longest_decides_the_remedy() -> None:
    limits = [minutes_limit(100), agents_limit(1)]
    usage = {counter(MINUTES): Usage(100, 0), counter(AGENTS): Usage(0, 1)}
    assert decided(limits, usage, decide_check("o", {AGENTS: 1})).remedy is Remedy.RELEASE
    assert decided(limits, usage, decide_check("o", {MINUTES: 1, AGENTS: 1})).remedy is Remedy.RESET
    assert decided(limits, usage, decide_check("o", {MINUTES: 1, AGENTS: 2})).remedy is Remedy.NOTHING


def test_two_limits_on_one_meter_are_both_decided() -> None:
    limits = [plan_limit(MINUTES, LimitKind.CONCURRENCY, 5, 0), minutes_limit(100)]
    decision = decided(limits, {counter(MINUTES): Usage(90, 0)}, decide_check("o", {MINUTES: 6}))
    assert [(state.limit.kind, state.outcome) for state in decision.states] == [
        (LimitKind.CONCURRENCY, Outcome.DENIED),
        (LimitKind.PERIOD, Outcome.ALLOWED),
    ]


@pytest.mark.parametrize("seconds", [1, 60, 3_600, 86_400])
def test_what_a_sliding_window_no_longer_counts_is_older_than_its_length(seconds: int) -> None:
    window = Window(seconds * 1_000_000, WindowStyle.SLIDING)
    for now_us in range(10**15, 10**15 + window.slot_us, max(1, window.slot_us // 997)):
        oldest = now_us // window.slot_us - window.slots_counted + 1
        assert oldest * window.slot_us <= now_us - window.length_us
