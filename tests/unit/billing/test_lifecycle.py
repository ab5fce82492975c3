"""What each command makes of a subscription's timeline."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from kit.errors import InvalidState
from services.billing.domain import lifecycle
from services.billing.domain.lifecycle import Command
from services.billing.domain.subscriptions import PaymentStanding, SubscriptionStatus
from services.billing.domain.timeline import Phase, PlanRef, Timeline

START = datetime(2028, 1, 31, 9, 30, tzinfo=UTC)
FEBRUARY = datetime(2028, 2, 29, 9, 30, tzinfo=UTC)
MARCH = datetime(2028, 3, 31, 9, 30, tzinfo=UTC)
TICK = timedelta(microseconds=1)
DAY = timedelta(days=1)
STARTER, PRO, YEARLY = PlanRef("starter", 1), PlanRef("pro", 3), PlanRef("pro_yearly", 1)
GOOD, PAST_DUE, SUSPENDED = PaymentStanding


def begun(*, trial_days: int = 0, plan: PlanRef = STARTER) -> Timeline:
    return lifecycle.begin(
        "sub", plan, currency_code="USD", start=START, trial_days=trial_days, opening=START + timedelta(minutes=30)
    )


def phases(timeline: Timeline) -> list[tuple[datetime, PlanRef]]:
    return [(phase.start, phase.plan) for phase in timeline.phases]


# --- beginning


def test_a_subscription_begins_open_on_one_plan() -> None:
    timeline = begun()
    assert timeline.phases == (Phase(start=START, plan=STARTER),)
    assert (timeline.start, timeline.anchor, timeline.end) == (START, START, None)


def test_a_trial_is_a_phase_and_a_period_before_the_anchor() -> None:
    timeline = begun(trial_days=14)
    assert timeline.anchor == START + 14 * DAY
    assert timeline.phases == (
        Phase(start=START, plan=STARTER, is_trial=True),
        Phase(start=timeline.anchor, plan=STARTER),
    )
    assert timeline.period_at(START) == timeline.period_at(timeline.anchor - TICK)
    assert lifecycle.status_at(timeline, GOOD, timeline.anchor - TICK) is SubscriptionStatus.TRIALING
    assert lifecycle.status_at(timeline, GOOD, timeline.anchor) is SubscriptionStatus.ACTIVE


# --- another plan


def test_a_change_at_once_holds_from_that_instant_and_leaves_what_was() -> None:
    timeline = lifecycle.change_plan(begun(), PRO, now=START + DAY, at=START + DAY)
    assert phases(timeline) == [(START, STARTER), (START + DAY, PRO)]


def test_a_change_at_the_periods_end_holds_from_the_boundary_instant() -> None:
    now = START + DAY
    at = lifecycle.paid_until(begun(), now, interval_months=1)
    timeline = lifecycle.change_plan(begun(), PRO, now=now, at=at)
    assert at == FEBRUARY
    assert timeline.phase_at(FEBRUARY - TICK).plan == STARTER
    assert timeline.phase_at(FEBRUARY).plan == PRO
    assert lifecycle.scheduled_plan(timeline, now) == Phase(start=FEBRUARY, plan=PRO)
    assert lifecycle.next_change(timeline, now) == FEBRUARY
    assert lifecycle.next_change(timeline, FEBRUARY) is None


def test_who_schedules_another_change_replaces_the_first() -> None:
    once = lifecycle.change_plan(begun(), PRO, now=START + DAY, at=FEBRUARY)
    twice = lifecycle.change_plan(once, YEARLY, now=START + 2 * DAY, at=FEBRUARY)
    assert phases(twice) == [(START, STARTER), (FEBRUARY, YEARLY)]
    at_once = lifecycle.change_plan(twice, PRO, now=START + 3 * DAY, at=START + 3 * DAY)
    assert phases(at_once) == [(START, STARTER), (START + 3 * DAY, PRO)]


def test_the_plan_in_force_takes_a_scheduled_change_back() -> None:
    scheduled = lifecycle.change_plan(begun(), PRO, now=START + DAY, at=FEBRUARY)
    for at in (START + 2 * DAY, FEBRUARY):
        assert lifecycle.change_plan(scheduled, STARTER, now=START + 2 * DAY, at=at) == begun()


def test_f31_b30_two_changes_within_a_day_are_two_phases_and_back_and_forth_in_one_instant_is_none() -> None:
    morning, noon = START + DAY, START + DAY + timedelta(hours=4)
    up = lifecycle.change_plan(begun(), PRO, now=morning, at=morning)
    down = lifecycle.change_plan(up, STARTER, now=noon, at=noon)
    assert phases(down) == [(START, STARTER), (morning, PRO), (noon, STARTER)]
    assert lifecycle.change_plan(up, STARTER, now=morning, at=morning) == begun()


def test_f31_a_change_at_the_boundary_instant_belongs_to_the_new_period() -> None:
    timeline = lifecycle.change_plan(begun(), PRO, now=FEBRUARY, at=FEBRUARY)
    assert timeline.period_at(FEBRUARY).end == MARCH
    assert lifecycle.paid_until(begun(), FEBRUARY, interval_months=1) == MARCH
    assert lifecycle.paid_until(begun(), FEBRUARY - TICK, interval_months=1) == FEBRUARY
    assert phases(timeline) == [(START, STARTER), (FEBRUARY, PRO)]


def test_f31_a_change_in_the_instant_of_the_beginning_leaves_nothing_of_the_first_plan() -> None:
    assert lifecycle.change_plan(begun(), PRO, now=START, at=START) == begun(plan=PRO)


def test_what_is_paid_by_the_year_ends_with_the_year_from_the_anchor() -> None:
    timeline = begun(trial_days=14)
    assert lifecycle.paid_until(timeline, START + DAY, interval_months=12) == timeline.anchor
    assert lifecycle.paid_until(timeline, timeline.anchor, interval_months=12) == timeline.anchor.replace(year=2029)
    second = timeline.anchor.replace(year=2029)
    assert lifecycle.paid_until(timeline, second, interval_months=12) == timeline.anchor.replace(year=2030)


def test_a_change_during_the_trial_keeps_the_trials_end() -> None:
    timeline = lifecycle.change_plan(begun(trial_days=14), PRO, now=START + DAY, at=START + DAY)
    assert timeline.phases == (
        Phase(start=START, plan=STARTER, is_trial=True),
        Phase(start=START + DAY, plan=PRO, is_trial=True),
        Phase(start=START + 14 * DAY, plan=PRO),
    )


# --- cancel


def test_f31_a_cancellation_at_the_periods_end_leaves_the_last_day_in_force() -> None:
    timeline = lifecycle.cancel(begun(), now=FEBRUARY - DAY, at=FEBRUARY)
    assert lifecycle.status_at(timeline, GOOD, FEBRUARY - TICK) is SubscriptionStatus.ACTIVE
    assert lifecycle.status_at(timeline, GOOD, FEBRUARY) is SubscriptionStatus.CANCELED
    assert lifecycle.next_change(timeline, FEBRUARY - DAY) == FEBRUARY


def test_a_cancellation_replaces_a_scheduled_change() -> None:
    scheduled = lifecycle.change_plan(begun(), PRO, now=START + DAY, at=FEBRUARY)
    timeline = lifecycle.cancel(scheduled, now=START + 2 * DAY, at=FEBRUARY)
    assert timeline.phases == begun().phases
    assert timeline.end == FEBRUARY


def test_a_scheduled_change_replaces_a_cancellation_for_the_same_instant() -> None:
    canceled = lifecycle.cancel(begun(), now=START + DAY, at=FEBRUARY)
    timeline = lifecycle.change_plan(canceled, PRO, now=START + 2 * DAY, at=FEBRUARY)
    assert timeline.end is None
    assert phases(timeline) == [(START, STARTER), (FEBRUARY, PRO)]


def test_a_change_at_once_leaves_a_cancellation_scheduled() -> None:
    canceled = lifecycle.cancel(begun(), now=START + DAY, at=FEBRUARY)
    timeline = lifecycle.change_plan(canceled, PRO, now=START + 2 * DAY, at=START + 2 * DAY)
    assert timeline.end == FEBRUARY


def test_a_cancellation_taken_back_leaves_no_trace() -> None:
    canceled = lifecycle.cancel(begun(), now=START + DAY, at=FEBRUARY)
    assert lifecycle.resume(canceled, now=START + 2 * DAY) == begun()


def test_a_cancellation_at_the_trials_end_taken_back_is_charged_from_the_trials_end_on() -> None:
    trial = begun(trial_days=14)
    canceled = lifecycle.cancel(trial, now=START + DAY, at=trial.anchor)
    assert canceled.phases == trial.phases[:1]
    assert lifecycle.resume(canceled, now=START + 2 * DAY) == trial
    changed = lifecycle.change_plan(canceled, PRO, now=START + 2 * DAY, at=trial.anchor)
    assert changed.end is None
    assert changed.phases[-1] == Phase(start=trial.anchor, plan=PRO)
    at_once = lifecycle.change_plan(canceled, PRO, now=START + 2 * DAY, at=START + 2 * DAY)
    assert lifecycle.resume(at_once, now=START + 3 * DAY).phases[-1] == Phase(start=trial.anchor, plan=PRO)


def test_a_cancellation_in_the_instant_of_a_change_leaves_nothing_of_the_change() -> None:
    changed = lifecycle.change_plan(begun(), PRO, now=START + DAY, at=START + DAY)
    timeline = lifecycle.cancel(changed, now=START + DAY, at=START + DAY)
    assert timeline.end == START + DAY
    assert [segment.phase.plan for segment in timeline.segments(timeline.period_at(START))] == [STARTER]


# --- pause


def test_a_pause_holds_from_now_on_and_over_what_is_scheduled() -> None:
    scheduled = lifecycle.change_plan(begun(), PRO, now=START + DAY, at=FEBRUARY)
    timeline = lifecycle.pause(scheduled, now=START + 2 * DAY)
    assert timeline.phases == (
        Phase(start=START, plan=STARTER),
        Phase(start=START + 2 * DAY, plan=STARTER, is_paused=True),
        Phase(start=FEBRUARY, plan=PRO, is_paused=True),
    )
    resumed = lifecycle.resume(timeline, now=START + 3 * DAY)
    assert resumed.phases[2:] == (Phase(start=START + 3 * DAY, plan=STARTER), Phase(start=FEBRUARY, plan=PRO))


def test_a_pause_does_not_lengthen_a_trial() -> None:
    trial = begun(trial_days=14)
    paused = lifecycle.pause(trial, now=START + DAY)
    assert paused.phases[-1] == Phase(start=trial.anchor, plan=STARTER, is_paused=True)
    resumed = lifecycle.resume(paused, now=trial.anchor + DAY)
    assert resumed.phases[-1] == Phase(start=trial.anchor + DAY, plan=STARTER)


def test_what_neither_pauses_nor_ends_cannot_be_resumed() -> None:
    with pytest.raises(InvalidState):
        lifecycle.resume(begun(), now=START + DAY)


# --- status


def test_of_several_truths_the_one_that_denies_most_is_told() -> None:
    trial = begun(trial_days=14)
    paused = lifecycle.pause(trial, now=START)
    ended = replace(paused, end=START + DAY)
    at = START + 2 * DAY
    told = {
        (name, standing): lifecycle.status_at(timeline, standing, at).value
        for name, timeline in {"trial": trial, "paused": paused, "ended": ended}.items()
        for standing in PaymentStanding
    }
    assert told == {
        ("trial", GOOD): "TRIALING",
        ("trial", PAST_DUE): "PAST_DUE",
        ("trial", SUSPENDED): "SUSPENDED",
        ("paused", GOOD): "PAUSED",
        ("paused", PAST_DUE): "PAUSED",
        ("paused", SUSPENDED): "SUSPENDED",
        ("ended", GOOD): "CANCELED",
        ("ended", PAST_DUE): "CANCELED",
        ("ended", SUSPENDED): "CANCELED",
    }


@pytest.mark.parametrize(
    ("command", "allowed"),
    [
        (Command.CHANGE_PLAN, {"TRIALING", "ACTIVE", "PAST_DUE", "PAUSED"}),
        (Command.PAUSE, {"TRIALING", "ACTIVE"}),
        (Command.RESUME, {"TRIALING", "ACTIVE", "PAST_DUE", "SUSPENDED", "PAUSED"}),
        (Command.CANCEL, {"TRIALING", "ACTIVE", "PAST_DUE", "SUSPENDED", "PAUSED"}),
    ],
)
def test_each_status_takes_its_commands_and_refuses_the_others(command: Command, allowed: set[str]) -> None:
    for status in SubscriptionStatus:
        if status.value in allowed:
            lifecycle.require_allowed(command, status)
        else:
            with pytest.raises(InvalidState, match=status.value):
                lifecycle.require_allowed(command, status)
