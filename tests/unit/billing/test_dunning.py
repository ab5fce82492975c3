from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.errors import InvalidField
from services.billing.domain.dunning import DunningAction, DunningPolicy, dunning_policy, next_turn

BEGIN = datetime(2026, 11, 1, 10, tzinfo=UTC)
POLICY = DunningPolicy()
NAMES = [step.name for step in POLICY.steps()]


def after(days: float) -> datetime:
    return BEGIN + timedelta(days=days)


def taken(policy: DunningPolicy, *, every: timedelta, days: int) -> list[tuple[float, str]]:
    """The steps that a worker takes which looks so often."""
    done, steps, now = set[str](), [], BEGIN
    while now <= BEGIN + timedelta(days=days):
        turn = next_turn(policy, BEGIN, done, now)
        done |= {*turn.overtaken}
        if turn.step is None:
            now += every
            continue
        done.add(turn.step.name)
        steps.append(((now - BEGIN) / timedelta(days=1), turn.step.name))
    return steps


def test_the_steps_come_on_their_days() -> None:
    assert taken(POLICY, every=timedelta(hours=6), days=90) == [
        (0, "REMIND_1"),
        (3, "REMIND_2"),
        (7, "REMIND_3"),
        (14, "SUSPEND"),
        (60, "GIVE_UP"),
    ]


def test_nothing_is_due_between_two_steps_and_the_next_time_is_said() -> None:
    turn = next_turn(POLICY, BEGIN, {"REMIND_1"}, after(2))
    assert (turn.step, turn.overtaken, turn.next_time) == (None, (), after(3))


def test_nothing_is_due_after_the_last_step() -> None:
    turn = next_turn(POLICY, BEGIN, NAMES, after(1000))
    assert (turn.step, turn.next_time) == (None, None)


def test_a_reminder_that_a_later_step_has_overtaken_is_left_out() -> None:
    turn = next_turn(POLICY, BEGIN, set(), after(8))
    assert (turn.step and turn.step.name, turn.overtaken, turn.next_time) == (
        "REMIND_3",
        ("REMIND_1", "REMIND_2"),
        after(14),
    )


def test_suspension_is_never_left_out() -> None:
    turn = next_turn(POLICY, BEGIN, set(), after(100))
    assert turn.step is not None
    assert (turn.step.action, turn.overtaken) == (DunningAction.SUSPEND, ("REMIND_1", "REMIND_2", "REMIND_3"))
    assert turn.next_time == after(60)


def test_a_step_begins_at_its_instant_and_not_before() -> None:
    done = {"REMIND_1", "REMIND_2", "REMIND_3"}
    assert next_turn(POLICY, BEGIN, done, after(14) - timedelta(microseconds=1)).step is None
    assert next_turn(POLICY, BEGIN, done, after(14)).step is not None


def test_reminders_are_remembered_by_number_and_not_by_day() -> None:
    later = dunning_policy("1,4,9", 20, 90)
    assert next_turn(later, BEGIN, {"REMIND_1"}, after(2)).next_time == after(4)


@given(hours=st.integers(1, 24 * 30), days=st.integers(0, 100))
def test_however_rarely_a_worker_looks_each_step_is_taken_once_in_order_and_never_early(hours: int, days: int) -> None:
    steps = taken(POLICY, every=timedelta(hours=hours), days=days)
    names = [name for _, name in steps]
    assert names == sorted(set(names), key=NAMES.index)
    due = {step.name: step.after / timedelta(days=1) for step in POLICY.steps()}
    assert all(day >= due[name] for day, name in steps)


@pytest.mark.parametrize(
    "words",
    [
        ("0,3,3", 14, 60),
        ("0,3,7", 7, 60),
        ("0,3,7", 14, 14),
        ("-1", 14, 60),
        ("0", 14, 366),
        ("x", 14, 60),
        ("0,0.5", 14, 60),
    ],
)
def test_a_policy_whose_days_do_not_rise_is_refused(words: tuple[str, int, int]) -> None:
    with pytest.raises(InvalidField, match="dunning"):
        dunning_policy(*words)


def test_a_policy_without_reminders_suspends_and_gives_up() -> None:
    assert [step.name for step in dunning_policy("", 0, 1).steps()] == ["SUSPEND", "GIVE_UP"]


def test_too_many_reminders_are_refused() -> None:
    with pytest.raises(InvalidField, match="at most"):
        dunning_policy(",".join(str(day) for day in range(11)), 20, 60)
