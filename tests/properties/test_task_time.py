"""Task time: the sum of what reports add is the time that they cover, in whatever order and however often they come."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from services.metering.domain.events import Subject, TaskOutcome
from services.metering.domain.task_time import NEVER_REPORTED, ReportStatus, TaskPhase, TaskReport, TaskTime, take

INTERVAL_MS, GAP_MAX_MS = 10_000, 20_000

# Few enough silences that nothing is forgotten; steps around every edge of the rule.
steps = st.lists(
    st.one_of(
        st.integers(1, GAP_MAX_MS + 2), st.sampled_from([INTERVAL_MS, GAP_MAX_MS, GAP_MAX_MS + 1, 2 * GAP_MAX_MS + 1])
    ),
    max_size=14,
)


def times_from(gaps: list[int]) -> list[int]:
    times = [1_000_000]
    for gap in gaps:
        times.append(times[-1] + gap)
    return times


def covered_ms(times: list[int]) -> int:
    """The rule in its plainest words, over report times in order."""
    return sum(later - earlier if later - earlier <= GAP_MAX_MS else INTERVAL_MS for earlier, later in pairwise(times))


def report(time_ms: int, *, ends: bool = False) -> TaskReport:
    return TaskReport(
        subject=Subject(organization_id="acme", task_id="t"),
        phase=TaskPhase.END if ends else TaskPhase.HEARTBEAT,
        time_ms=time_ms,
        outcome=TaskOutcome.SUCCEEDED if ends else TaskOutcome.UNSPECIFIED,
    )


def send(times: list[int], *, end_ms: int | None = None) -> tuple[TaskTime, dict[str, int]]:
    """The task afterwards, and the quantities by the id of their event; no id comes twice."""
    task, recorded = NEVER_REPORTED, dict[str, int]()
    for time_ms in times:
        taken = take(task, report(time_ms, ends=time_ms == end_ms))
        assert taken.added_ms >= 0
        assert taken.task.total_ms == task.total_ms + taken.added_ms
        if taken.event is not None:
            assert taken.event.id not in recorded
            recorded[taken.event.id] = taken.event.measurements[0].quantity
        else:
            assert taken.added_ms == 0
        task = taken.task
    return task, recorded


@given(steps, st.data())
def test_any_order_and_repetition_of_reports_comes_to_the_time_they_cover(gaps: list[int], data: st.DataObject) -> None:
    times = times_from(gaps)
    shuffled = data.draw(st.permutations(times + data.draw(st.lists(st.sampled_from(times), max_size=8))))
    task, recorded = send(shuffled)
    assert task.total_ms == sum(recorded.values()) == covered_ms(times)


@given(steps, st.data())
def test_an_end_that_overtakes_heartbeats_changes_nothing_about_the_sum(gaps: list[int], data: st.DataObject) -> None:
    times = times_from(gaps)
    shuffled = data.draw(st.permutations(times))
    task, recorded = send(shuffled, end_ms=times[-1])
    assert task.total_ms == sum(recorded.values()) == covered_ms(times)
    assert task.end_ms == times[-1]
    assert sum(event_id.endswith(":end") for event_id in recorded) == 1


@given(steps, st.integers(1, 10**9))
def test_a_report_after_any_silence_adds_at_most_two_intervals(gaps: list[int], silence: int) -> None:
    times = times_from(gaps)
    task, _ = send(times)
    added = take(task, report(times[-1] + silence)).added_ms
    assert added == (silence if silence <= GAP_MAX_MS else INTERVAL_MS)


@given(gaps=steps, silence=st.integers(GAP_MAX_MS + 1, 10**9), ends=st.booleans())
def test_a_crash_of_the_caller_never_bills_past_the_last_heartbeat_plus_one_interval(
    gaps: list[int], silence: int, *, ends: bool
) -> None:
    times = times_from(gaps)
    task, _ = send(times)
    # Never heard of again; then heard of again after a silence, or told to have ended.
    assert task.total_ms <= times[-1] - times[0]
    again = take(task, report(times[-1] + silence, ends=ends)).task
    assert again.total_ms <= times[-1] - times[0] + INTERVAL_MS, (
        "heard of again, or told to have failed, after a silence"
    )


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=60))
def test_no_sequence_of_reports_ever_counts_more_than_the_time_between_the_first_and_the_last(times: list[int]) -> None:
    task, recorded = send(times)
    assert task.total_ms == sum(recorded.values()) <= max(times) - min(times)


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=60))
def test_a_report_that_was_taken_is_covered_ever_after(times: list[int]) -> None:
    task, _ = send(times)
    for time_ms in times:
        assert take(task, report(time_ms)).status in (ReportStatus.COVERED, ReportStatus.TOO_LATE)
