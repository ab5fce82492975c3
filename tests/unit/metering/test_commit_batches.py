"""Group commit, over a ledger whose transactions the test ends by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from kit.errors import DependencyUnavailable, Overloaded
from services.metering.application.commit_batches import CommitBatches, UsageBatches
from services.metering.domain import limits
from services.metering.domain.acceptance import Outcome, Status
from services.metering.domain.events import Measurement, Subject, UsageEvent
from tests.held_ledger import HeldLedger

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture
def ledger() -> HeldLedger:
    return HeldLedger()


@pytest.fixture
def batches(ledger: HeldLedger) -> UsageBatches:
    return CommitBatches(ledger, kind="events", transactions=1)


def event(name: str, organization_id: str = "a") -> UsageEvent:
    return UsageEvent(
        id=name,
        source="tests",
        subject=Subject(organization_id=organization_id),
        event_time_ns=int(NOW.timestamp()) * 10**9,
        measurements=(Measurement("api_calls", 1),),
    )


def events(name: str, count: int, organization_id: str = "a") -> list[UsageEvent]:
    return [event(f"{name}-{number}", organization_id) for number in range(count)]


def sending(batches: UsageBatches, *names: str, organization_id: str = "a") -> asyncio.Task[Sequence[Outcome]]:
    return asyncio.create_task(batches.append([event(name, organization_id) for name in names], now=NOW))


async def settle() -> None:
    """Lets everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_lone_batch_is_committed_at_once_and_alone(batches: UsageBatches, ledger: HeldLedger) -> None:
    sent = sending(batches, "1", "2")
    await settle()
    assert [each.names for each in ledger.begun] == [["1", "2"]]
    ledger.begun[0].may_end.set_result(None)
    assert await sent == [Outcome(Status.ACCEPTED, 1), Outcome(Status.ACCEPTED, 2)]


async def test_what_arrives_during_a_commit_is_committed_together_and_answered_apart(
    batches: UsageBatches, ledger: HeldLedger
) -> None:
    first = sending(batches, "1")
    await settle()
    second, third = sending(batches, "2", "1"), sending(batches, "3", organization_id="b")
    await settle()
    ledger.holds = False
    ledger.begun[0].may_end.set_result(None)
    assert await second == [Outcome(Status.ACCEPTED, 2), Outcome(Status.DUPLICATE, 1)]
    assert await third == [Outcome(Status.ACCEPTED, 1)]
    assert await first == [Outcome(Status.ACCEPTED, 1)]
    assert [each.names for each in ledger.begun] == [["1"], ["2", "1", "3"]]


async def test_what_arrives_while_a_transaction_is_put_off_joins_it(ledger: HeldLedger) -> None:
    batches = CommitBatches(ledger, kind="events", transactions=2, gather_seconds=0.2)
    ledger.holds = False
    first = sending(batches, "1")
    await settle()
    await asyncio.gather(first, sending(batches, "2"), sending(batches, "3", organization_id="b"))
    assert [each.names for each in ledger.begun] == [["1", "2", "3"]]


async def test_callers_of_one_turn_of_the_loop_share_a_transaction(batches: UsageBatches, ledger: HeldLedger) -> None:
    ledger.holds = False
    await asyncio.gather(*(batches.append([event(str(number))], now=NOW) for number in range(10)))
    assert [len(each.events) for each in ledger.begun] == [10]


async def test_a_joint_transaction_is_dated_by_its_last_batch(batches: UsageBatches, ledger: HeldLedger) -> None:
    ledger.holds = False
    moments = [NOW + timedelta(seconds=2), NOW]
    await asyncio.gather(*(batches.append([event(str(moment))], now=moment) for moment in moments))
    assert ledger.begun[0].now == moments[0]


@pytest.mark.parametrize("limit", ["COMMIT_EVENTS_MAX", "COMMIT_BYTES_MAX"])
async def test_a_transaction_takes_no_more_than_its_maximum(
    batches: UsageBatches, ledger: HeldLedger, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(limits, limit, {"COMMIT_EVENTS_MAX": 5, "COMMIT_BYTES_MAX": 6_500}[limit])
    ledger.holds = False
    await asyncio.gather(*(batches.append(events(name, 2), now=NOW) for name in "uvwxyz"))
    assert [len(each.events) for each in ledger.begun] == [4, 4, 4]


async def test_a_batch_above_the_maximum_of_a_transaction_has_one_of_its_own(
    batches: UsageBatches, ledger: HeldLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "COMMIT_EVENTS_MAX", 5)
    ledger.holds = False
    await asyncio.gather(*(batches.append(events(name, count), now=NOW) for name, count in (("x", 1), ("y", 9))))
    assert [len(each.events) for each in ledger.begun] == [1, 9]


async def test_one_organization_is_never_in_two_transactions_and_keeps_its_order(ledger: HeldLedger) -> None:
    batches = CommitBatches(ledger, kind="events", transactions=3)
    waiting = [sending(batches, "a1")]
    await settle()
    waiting += [sending(batches, "a2"), sending(batches, "b1", organization_id="b"), sending(batches, "a3")]
    await settle()
    assert [each.names for each in ledger.begun] == [["a1"], ["b1"]]
    ledger.begun[0].may_end.set_result(None)
    await settle()
    assert [each.names for each in ledger.begun] == [["a1"], ["b1"], ["a2", "a3"]]
    ledger.begun[1].may_end.set_result(None)
    ledger.begun[2].may_end.set_result(None)
    assert [(await sent)[0].sequence for sent in waiting] == [1, 2, 1, 3]


async def test_transactions_run_side_by_side_up_to_their_number(
    ledger: HeldLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "COMMIT_EVENTS_MAX", 1)
    batches = CommitBatches(ledger, kind="events", transactions=3)
    waiting = [sending(batches, name, organization_id=name) for name in "abcde"]
    await settle()
    assert [each.names for each in ledger.begun] == [["a"], ["b"], ["c"]]
    ledger.holds = False
    for transaction in list(ledger.begun):
        transaction.may_end.set_result(None)
    await asyncio.gather(*waiting)


async def test_a_poison_batch_fails_alone(batches: UsageBatches, ledger: HeldLedger) -> None:
    ledger.holds = False
    ledger.poison = {"bad"}
    good, bad, fine = sending(batches, "good"), sending(batches, "bad", "with it"), sending(batches, "fine")
    assert (await good, await fine) == ([Outcome(Status.ACCEPTED, 1)], [Outcome(Status.ACCEPTED, 2)])
    with pytest.raises(ValueError, match="poison"):
        await bad
    assert await ledger.count() == 2


async def test_a_poison_batch_leaves_those_beside_it_their_shared_transactions(
    batches: UsageBatches, ledger: HeldLedger
) -> None:
    ledger.holds = False
    ledger.poison = {"37"}
    waiting = [sending(batches, str(number)) for number in range(64)]
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert [number for number, answer in enumerate(answers) if isinstance(answer, Exception)] == [37]
    assert await ledger.count() == 63
    # The one of all, and two for each of six halvings.
    assert len(ledger.begun) == 13


async def test_an_unreachable_store_is_told_to_each_and_not_tried_again(
    batches: UsageBatches, ledger: HeldLedger
) -> None:
    sent = [sending(batches, "1"), sending(batches, "2")]
    await settle()
    ledger.begun[0].may_end.set_exception(DependencyUnavailable(dependency="Postgres"))
    errors = await asyncio.gather(*sent, return_exceptions=True)
    assert [str(error)[:29] for error in errors] == ["Postgres cannot be reached now"[:29]] * 2
    assert errors[0] is not errors[1]
    assert len(ledger.begun) == 1
    ledger.holds = False
    assert await batches.append([event("1")], now=NOW) == [Outcome(Status.ACCEPTED, 1)]


async def test_a_store_that_never_answers_holds_its_batches_for_a_bounded_time(
    batches: UsageBatches, ledger: HeldLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "COMMIT_SECONDS_MAX", 0.01)
    with pytest.raises(DependencyUnavailable):
        await batches.append([event("1")], now=NOW)
    ledger.holds = False
    assert await batches.append([event("2")], now=NOW) == [Outcome(Status.ACCEPTED, 1)]


async def test_a_caller_cancelled_before_its_transaction_takes_its_batch_along(
    batches: UsageBatches, ledger: HeldLedger
) -> None:
    first = sending(batches, "1")
    await settle()
    given_up, kept = sending(batches, "2", "3"), sending(batches, "4")
    await settle()
    given_up.cancel()
    ledger.holds = False
    ledger.begun[0].may_end.set_result(None)
    await asyncio.gather(first, kept)
    assert [each.names for each in ledger.begun] == [["1"], ["4"]]


async def test_a_caller_cancelled_in_its_transaction_leaves_a_whole_batch(
    batches: UsageBatches, ledger: HeldLedger
) -> None:
    given_up, kept = sending(batches, "1", "2"), sending(batches, "3")
    await settle()
    given_up.cancel()
    ledger.begun[0].may_end.set_result(None)
    assert await kept == [Outcome(Status.ACCEPTED, 3)]
    assert await ledger.count() == 3
    ledger.holds = False
    assert await sending(batches, "1", "2") == [Outcome(Status.DUPLICATE, 1), Outcome(Status.DUPLICATE, 2)]


async def test_too_much_is_refused_at_once_with_a_delay_and_taken_again_later(
    batches: UsageBatches, ledger: HeldLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HELD_EVENTS_MAX", 4)
    taken = [sending(batches, "1", "2"), sending(batches, "3", "4")]
    await settle()
    with pytest.raises(Overloaded) as caught:
        await batches.append([event("5")], now=NOW)
    assert caught.value.retry_delay == timedelta(seconds=limits.OVERLOADED_RETRY_SECONDS)
    ledger.holds = False
    ledger.begun[0].may_end.set_result(None)
    await asyncio.gather(*taken)
    assert await batches.append([event("5")], now=NOW) == [Outcome(Status.ACCEPTED, 5)]


async def test_bytes_are_bounded_as_events_are(
    batches: UsageBatches, ledger: HeldLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HELD_BYTES_MAX", 2_000)
    taken = sending(batches, "1", "2")
    await settle()
    with pytest.raises(Overloaded):
        await batches.append([event("3")], now=NOW)
    ledger.begun[0].may_end.set_result(None)
    await taken


@pytest.mark.parametrize("limit", ["HELD_EVENTS_OF_ONE_MAX", "HELD_BYTES_OF_ONE_MAX"])
async def test_one_organization_cannot_take_the_room_of_the_others(
    batches: UsageBatches, ledger: HeldLedger, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(limits, limit, {"HELD_EVENTS_OF_ONE_MAX": 2, "HELD_BYTES_OF_ONE_MAX": 2_800}[limit])
    taken = [sending(batches, "1"), sending(batches, "2")]
    await settle()
    with pytest.raises(Overloaded):
        await batches.append([event("3"), event("4", "b")], now=NOW)
    later = asyncio.create_task(batches.append_later([event("5")], now=NOW))
    later_still = asyncio.create_task(batches.append_later([event("6"), event("7", "b")], now=NOW))
    others = [
        asyncio.create_task(batches.append_later([event("8", "c")], now=NOW)),
        sending(batches, "9", organization_id="d"),
    ]
    await settle()
    assert [len(batches._entering), batches._held.items] == [2, 4]
    ledger.holds = False
    ledger.begun[0].may_end.set_result(None)
    await asyncio.gather(*taken, *others)
    assert [outcome.sequence for task in (later, later_still) for outcome in await (await task)] == [3, 4, 1]
    await settle()
    assert not batches._held_of


async def test_who_can_wait_is_taken_in_order_and_leaves_room_for_who_cannot(
    batches: UsageBatches, ledger: HeldLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HELD_EVENTS_MAX", 4)
    first = await batches.append_later(events("first", 2), now=NOW)
    await settle()
    later = [asyncio.create_task(batches.append_later(events(name, 1), now=NOW)) for name in ("x", "y", "z")]
    await settle()
    assert not any(task.done() for task in later)
    at_once = sending(batches, "at once")
    await settle()
    ledger.holds = False
    ledger.begun[0].may_end.set_result(None)
    assert [outcome.sequence for outcome in await first] == [1, 2]
    assert [(await (await task))[0].sequence for task in later] == [4, 5, 6]
    assert (await at_once)[0].sequence == 3


async def test_who_gives_up_waiting_for_room_is_forgotten(
    batches: UsageBatches, ledger: HeldLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HELD_EVENTS_MAX", 2)
    first = await batches.append_later(events("first", 1), now=NOW)
    await settle()
    given_up = asyncio.create_task(batches.append_later(events("given up", 1), now=NOW))
    kept = asyncio.create_task(batches.append_later(events("kept", 1), now=NOW))
    await settle()
    given_up.cancel()
    ledger.holds = False
    ledger.begun[0].may_end.set_result(None)
    await first
    assert (await (await kept))[0].sequence == 2
    assert [each.names for each in ledger.begun] == [["first-0"], ["kept-0"]]


async def test_who_gives_up_waiting_for_room_leaves_nothing_behind_and_lets_the_next_in(
    batches: UsageBatches, ledger: HeldLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HELD_EVENTS_MAX", 4)
    first = await batches.append_later(events("first", 1), now=NOW)
    await settle()
    given_up = [asyncio.create_task(batches.append_later(events(name, 2), now=NOW)) for name in ("large", "larger")]
    await settle()
    kept = asyncio.create_task(batches.append_later(events("kept", 1), now=NOW))
    await settle()
    assert len(batches._entering) == 3
    for task in reversed(given_up):
        task.cancel()
    await settle()
    assert not batches._entering
    ledger.holds = False
    ledger.begun[0].may_end.set_result(None)
    await first
    assert (await (await kept))[0].sequence == 2


async def test_nothing_is_held_once_everything_was_answered(batches: UsageBatches, ledger: HeldLedger) -> None:
    ledger.holds = False
    ledger.poison = {"bad"}
    sent = [sending(batches, name) for name in ("1", "2", "bad", "3")]
    await asyncio.sleep(0)
    sent[1].cancel()
    await asyncio.gather(*sent, return_exceptions=True)
    await settle()
    assert (batches._held.items, batches._held.bytes, len(batches._waiting), batches._busy) == (0, 0, 0, set())


async def test_closing_waits_for_the_transactions_under_way(batches: UsageBatches, ledger: HeldLedger) -> None:
    sent = sending(batches, "1")
    await settle()
    closing = asyncio.create_task(batches.close())
    await settle()
    assert not closing.done()
    ledger.begun[0].may_end.set_result(None)
    await closing
    assert await sent == [Outcome(Status.ACCEPTED, 1)]
