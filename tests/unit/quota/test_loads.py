"""What goes to the store in one call."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from services.quota.application.grants import Granted, Grants
from services.quota.application.ports import Answer, Grant, Instant
from services.quota.domain.checks import Check, Consumption, Subject
from services.quota.domain.decisions import Decision, Outcome
from services.quota.domain.loads import Load, loads
from services.quota.domain.maxima import CHECKS_TOGETHER_MAX, COUNTERS_TOGETHER_MAX
from tests.unit.quota.samples import HOUR_US, MINUTES, period_around, reserve_check

EVERY_PART = Subject(
    organization_id="acme", project_id="p", team_id="t", user_id="u", agent_id="a", task_id="k", session_id="s"
)


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
    calls = list(loads(checks))
    assert [check for call in calls for check in call] == checks
    for call in calls:
        assert 0 < len(call) <= CHECKS_TOGETHER_MAX
        assert sum(check.counters_count for check in call) <= COUNTERS_TOGETHER_MAX
    assert [len(call) for call in loads([small(number) for number in range(200)])] == [CHECKS_TOGETHER_MAX, 72]
    assert list(loads([])) == []


def test_the_largest_check_goes_in_every_call() -> None:
    assert Load(checks_max=1).takes(large(1))


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
    while page := grants.page("acme", at_most=50, now_us=1):
        assert sum(each.grant.check.counters_count for each in page.granted) <= COUNTERS_TOGETHER_MAX
        told += [each.grant.check.request_id for each in page.granted]
        grants.registered("acme", page)
    assert told == [f"r{number}" for number in range(12)]
