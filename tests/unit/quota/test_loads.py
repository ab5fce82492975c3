"""What goes to the store in one call."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from services.quota.application.grants import Granted, Grants
from services.quota.application.ports import Answer, Grant, Instant
from services.quota.domain.checks import Check, Consumption, Subject, matching
from services.quota.domain.decisions import Decision, Outcome
from services.quota.domain.limits import Limit, LimitKind, LimitScope, ScopeKind
from services.quota.domain.loads import Load, loads
from services.quota.domain.maxima import CHECKS_TOGETHER_MAX, COUNTERS_TOGETHER_MAX, LIMITS_TOGETHER_MAX
from services.quota.domain.terms import Terms
from tests.unit.quota.samples import (
    HOUR_US,
    MINUTES,
    agents_limit,
    entitlement,
    minutes_limit,
    period_around,
    reserve_check,
    terms,
)

EVERY_PART = Subject(
    organization_id="acme", project_id="p", team_id="t", user_id="u", agent_id="a", task_id="k", session_id="s"
)

FEW = terms(entitlement("acme", minutes_limit(1)))


def small(number: int) -> Check:
    return reserve_check("acme", {MINUTES: 1}, request_id=f"r{number}")


def large(number: int) -> Check:
    """As large as a check may be."""
    consumptions = tuple(Consumption(f"meter_{meter:02}", 1) for meter in range(16))
    return replace(small(number), subject=EVERY_PART, consumptions=consumptions)


def test_a_check_has_a_counter_for_each_of_its_meters_and_scopes() -> None:
    for check in (small(1), large(1), replace(small(1), subject=replace(EVERY_PART, team_id="", session_id=""))):
        assert check.counters_count == len(check.counters)


def test_so_many_checks_and_counters_go_in_one_call_and_none_is_left_out_or_overtaken() -> None:
    checks = [large(number) if number % 7 == 0 else small(number) for number in range(700)]
    calls = list(loads(checks, lambda: FEW))
    assert [check for call in calls for check in call] == checks
    for call in calls:
        assert 0 < len(call) <= CHECKS_TOGETHER_MAX
        assert sum(check.counters_count for check in call) <= COUNTERS_TOGETHER_MAX
    assert [len(call) for call in loads([small(number) for number in range(200)], lambda: FEW)] == [
        CHECKS_TOGETHER_MAX,
        72,
    ]
    assert list(loads([], lambda: FEW)) == []


def many(count: int) -> Terms:
    """So many limits of each level on the meter that is asked about, and one on another."""
    own = [
        Limit(f"{kind.value}-{number}", LimitScope(kind, id_), MINUTES, LimitKind.PERIOD, number, 0)
        for kind, id_ in ((ScopeKind.ORGANIZATION, None), (ScopeKind.USER, None), (ScopeKind.USER, "u"))
        for number in range(count)
    ]
    return terms(entitlement("acme", minutes_limit(1)), *own, agents_limit(1))


def test_the_limits_that_apply_to_a_check_are_counted_as_they_are_matched() -> None:
    asked = many(7)
    for user_id in ("", "u", "other"):
        check = replace(small(1), subject=Subject(organization_id="acme", user_id=user_id, team_id="t"))
        assert asked.limits_count(check) == len(matching(asked.limits, check))


@pytest.mark.parametrize(("asked", "in_one"), [(many(60), LIMITS_TOGETHER_MAX // 181), (None, 10)])
def test_so_many_limits_are_decided_in_one_call_and_when_they_are_not_known_as_many_are_expected_as_may_be(
    asked: Terms | None, in_one: int
) -> None:
    checks = [replace(small(number), subject=EVERY_PART) for number in range(50)]
    calls = list(loads(checks, lambda: asked))
    assert [check for call in calls for check in call] == checks
    assert {len(call) for call in calls[:-1]} == {in_one}


def test_a_check_that_meets_more_limits_than_go_in_one_call_goes_alone() -> None:
    checks = [small(number) for number in range(3)]
    assert [len(call) for call in loads(checks, lambda: many(LIMITS_TOGETHER_MAX))] == [1, 1, 1]


def test_the_largest_check_goes_in_every_call() -> None:
    assert Load(None, checks_max=1).takes(large(1))


def test_grants_are_registered_in_calls_no_larger() -> None:
    grants = Grants()
    answer = Answer(
        decision=Decision(Outcome.ALLOWED, None, ()),
        reservation=None,
        entitlement_version=1,
        period=period_around(datetime.now(UTC)),
        applied_sequence=0,
        decided_us=0,
        instant=Instant(0, None),
        degraded=True,
    )
    for number in range(12):
        granted = Granted(Grant(large(number), ""), answer, HOUR_US)
        grants.give("acme", (), {}, now_us=0, granted=granted)
    told: list[str] = []
    while page := grants.page("acme", FEW, at_most=50, now_us=1):
        assert sum(each.grant.check.counters_count for each in page.granted) <= COUNTERS_TOGETHER_MAX
        told += [each.grant.check.request_id for each in page.granted]
        grants.registered("acme", page)
    assert told == [f"r{number}" for number in range(12)]
