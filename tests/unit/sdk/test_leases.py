from __future__ import annotations

import threading

import pytest

from tests.unit.sdk.stage import AWAY, rest, stage
from tollbook.metering.v1.metering_pb2 import Subject
from tollbook_sdk.errors import QuotaDenied, SuiteUnavailable
from tollbook_sdk.leases import LeaseTerms, Purse


async def test_a_lease_spends_what_it_holds_and_no_more() -> None:
    async with stage({"api_calls": 1000}) as at:
        at.suite.is_lagging = True
        lease = await at.lease(10)
        at.suite.failure = AWAY
        assert [lease.purse.try_spend(4) for _ in range(4)] == [True, True, False, False]
        assert lease.purse.try_spend(2)
        assert (lease.purse.left, lease.purse.spent) == (0, 10)


async def test_a_denied_spend_changes_nothing() -> None:
    async with stage({"api_calls": 1000}) as at:
        lease = await at.lease(10)
        assert not lease.purse.try_spend(11)
        assert (lease.purse.left, lease.purse.spent, lease.purse.take_unreported()) == (10, 0, {})
        with pytest.raises(ValueError, match="below 0"):
            lease.purse.try_spend(-1)


async def test_what_is_spent_is_recorded_under_the_task_that_spent_it_and_draws_the_lease_down() -> None:
    async with stage({"api_calls": 1000}) as at:
        lease = await at.lease(10)
        lease.purse.try_spend(1, "a")
        lease.purse.try_spend(2, "b")
        lease.purse.try_spend(1, "a")
        await at.clock.advance(1)
        by_task = {event.subject.task_id: event.measurements[0].quantity for event in at.suite.events.values()}
        assert by_task == {"a": 2, "b": 2}
        assert {event.reservation_id for event in at.suite.events.values()} == {"lease"}
        assert (at.suite.used["api_calls"], at.suite.held("api_calls")) == (4, 6)


async def test_a_lease_that_runs_low_is_filled_up_before_it_is_empty() -> None:
    async with stage({"api_calls": 1000}) as at:
        lease = await at.lease(10)
        for _ in range(50):
            assert lease.purse.try_spend(2)
            await rest()
        assert lease.purse.spent == 100
        await at.clock.advance(2)
        assert at.suite.used["api_calls"] == 100


async def test_used_and_held_never_pass_the_limit_however_far_the_counters_lag() -> None:
    async with stage({"api_calls": 100}) as at:
        at.suite.is_lagging = True
        lease = await at.lease(20)
        for turn in range(400):
            lease.purse.try_spend(3)
            await at.clock.advance(0.3)
            if turn % 7 == 0:
                at.suite.catch_up()
            assert at.suite.used["api_calls"] + at.suite.held("api_calls") <= 100
            # All that was and may still be spent is covered by what is used and held.
            assert lease.purse.spent + lease.purse.left <= at.suite.used["api_calls"] + at.suite.held("api_calls")
        at.suite.is_lagging = False
        await at.clock.advance(5)
        at.suite.catch_up()
        assert at.suite.used["api_calls"] <= 100
        assert at.suite.recorded("api_calls") == lease.purse.spent


async def test_the_last_of_a_limit_is_leased_although_it_is_less_than_the_size() -> None:
    async with stage({"api_calls": 25}) as at:
        lease = await at.lease(20)
        spent = 0
        for _ in range(60):
            spent += lease.purse.try_spend(1)
            await at.clock.advance(1)
        assert spent == 25
        assert lease.denial is not None
        assert lease.denial.reason == "LIMIT_REACHED"
        small = at.lease(20, name="another")
        with pytest.raises(QuotaDenied):
            await small


async def test_a_first_lease_takes_what_is_left_when_the_size_is_not() -> None:
    async with stage({"api_calls": 7}) as at:
        lease = await at.lease(20)
        assert lease.purse.left == 7


async def test_an_idle_lease_is_renewed_and_holds_no_more_than_at_first() -> None:
    async with stage({"api_calls": 100}) as at:
        lease = await at.lease(10)
        await at.clock.advance(600)
        assert lease.purse.is_valid
        assert at.suite.held("api_calls") == 10


async def test_a_lease_stops_its_margin_before_the_reservation_ends_when_it_cannot_be_renewed() -> None:
    async with stage({"api_calls": 100}) as at:
        lease = await at.lease(10, seconds=30, margin=2)
        at.suite.failure = AWAY
        await at.clock.advance(27.9)
        assert lease.purse.try_spend(1)
        await at.clock.advance(0.1)
        assert not lease.purse.try_spend(1)
        assert at.suite.reservations["lease"].ends == at.clock.running() + 2


async def test_f18_after_a_partition_of_30_seconds_the_overshoot_is_at_most_the_sum_of_the_leases() -> None:
    limit, size, count = 100, 10, 4
    async with stage({"api_calls": limit}) as at:
        leases = [await at.lease(size, seconds=10, margin=1, name=f"lease-{number}") for number in range(count)]
        at.suite.failure = AWAY
        for _ in range(30):
            for lease in leases:
                lease.purse.try_spend(1)
            await at.clock.advance(1)
        assert sum(lease.purse.spent for lease in leases) <= size * count
        # Meanwhile the holds have ended, and somebody else is allowed everything.
        at.suite.failure = None
        others = limit - at.suite.used["api_calls"] - at.suite.held("api_calls")
        at.suite.used["api_calls"] += others
        await at.clock.advance(60)
        overshoot = at.suite.used["api_calls"] - limit
        assert 0 < overshoot <= size * count
        assert at.suite.recorded("api_calls") == sum(lease.purse.spent for lease in leases)
        assert not any(lease.purse.try_spend(1) for lease in leases)


async def test_a_lease_comes_back_after_a_partition_when_something_is_left() -> None:
    async with stage({"api_calls": 100}) as at:
        lease = await at.lease(10, seconds=10, margin=1)
        lease.purse.try_spend(3)
        at.suite.failure = AWAY
        await at.clock.advance(30)
        assert not lease.purse.try_spend(1)
        at.suite.failure = None
        await at.clock.advance(40)
        assert lease.purse.try_spend(10)
        assert at.suite.recorded("api_calls") == 3


async def test_a_hold_that_was_lost_with_the_counters_is_taken_anew_before_anything_more_is_spent() -> None:
    async with stage({"api_calls": 100}) as at:
        lease = await at.lease(10, seconds=30)
        lease.purse.try_spend(4)
        await at.clock.advance(2)
        at.suite.lose_counters()
        await at.clock.advance(20)
        assert at.suite.held("api_calls") == lease.purse.left == 10
        assert lease.purse.try_spend(10)


async def test_a_closed_lease_spends_nothing_and_holds_nothing() -> None:
    async with stage({"api_calls": 100}) as at:
        lease = await at.lease(10)
        lease.purse.try_spend(4)
        await lease.close()
        await rest()
        assert not lease.purse.try_spend(1)
        assert (at.suite.used["api_calls"], at.suite.held("api_calls")) == (4, 0)


async def test_spending_that_a_full_buffer_cannot_take_yet_is_reported_later_and_not_lost() -> None:
    async with stage({"api_calls": 100}, buffer_events_max=1) as at:
        lease = await at.lease(50)
        at.suite.failure = AWAY
        for task in "abc":
            lease.purse.try_spend(1, task)
            await at.clock.advance(1)
        at.suite.failure = None
        await at.clock.advance(60)
        assert at.suite.recorded("api_calls") == 3
        assert at.lost == []


async def test_there_is_no_lease_without_the_suite_whatever_the_policy() -> None:
    async with stage({"api_calls": 100}) as at:
        at.suite.failure = AWAY
        with pytest.raises(SuiteUnavailable):
            await at.lease(10)


async def test_what_is_allowed_without_the_counters_is_no_lease_and_renews_none() -> None:
    async with stage({"api_calls": 100}) as at:
        lease = await at.lease(10, seconds=30, margin=2)
        at.suite.is_degraded = True
        assert lease.purse.try_spend(8)
        await at.clock.advance(27.9)
        assert lease.purse.left == 2
        await at.clock.advance(0.1)
        assert not lease.purse.is_valid
        with pytest.raises(SuiteUnavailable):
            await at.lease(10, name="another")


async def test_an_answer_that_is_lost_leaves_no_lease_behind() -> None:
    async with stage({"api_calls": 100}) as at:
        at.suite.failure, at.suite.loses_answers = AWAY, True
        with pytest.raises(SuiteUnavailable):
            await at.lease(10)
        await rest()
        assert at.suite.held("api_calls") == 0


def test_threads_that_spend_at_once_spend_no_more_than_was_granted() -> None:
    purse = Purse(lambda: 0.0)
    purse.grant(10_000, ends=1.0, low=0)
    spent: list[int] = []

    def spend() -> None:
        spent.append(sum(purse.try_spend(3) for _ in range(2_000)))

    threads = [threading.Thread(target=spend) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(spent) == 3_333
    assert (purse.left, purse.spent) == (1, 9_999)


@pytest.mark.parametrize(
    ("size", "seconds", "margin"), [(0, 30, 2), (2**53, 30, 2), (1, 0.5, 0), (1, 90_000, 2), (1, 10, 5), (1, 10, -1)]
)
def test_terms_that_cannot_work_are_refused(size: int, seconds: float, margin: float) -> None:
    with pytest.raises(ValueError, match="not in"):
        LeaseTerms(
            lease_id="l", subject=Subject(), meter="api_calls", size=size, seconds=seconds, margin_seconds=margin
        )
