"""The life of a subscription: any sequence of commands and of time, against a model that keeps no timeline."""

from __future__ import annotations

import asyncio
import calendar
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kit.errors import AlreadyExists, InvalidField, InvalidState
from kit.feed import START, Position
from kit.money import Money
from kit.testing.clock import FakeClock
from services.billing.adapters.memory.books import MemoryBooks
from services.billing.adapters.memory.catalog import MemoryPlans
from services.billing.adapters.memory.change_list import MemoryChangeList
from services.billing.adapters.memory.organizations import MemoryOrganizations
from services.billing.adapters.memory.usage import MemoryUsage
from services.billing.application.act_on_subscription import ActOnSubscription
from services.billing.application.apply_scheduled_changes import ApplyScheduledChanges
from services.billing.application.cancel_subscription import CancelSubscription
from services.billing.application.change_plan import ChangePlan
from services.billing.application.create_subscription import CreateSubscription
from services.billing.application.find_wanted_plan import FindWantedPlan
from services.billing.application.pause_subscription import PauseSubscription
from services.billing.application.ports.subscriptions import Act
from services.billing.application.resume_subscription import ResumeSubscription
from services.billing.application.subscription_in_force import SubscriptionInForce
from services.billing.domain.catalog import Interval
from services.billing.domain.lifecycle import ChangeTime
from services.billing.domain.subscriptions import PaymentStanding
from services.billing.domain.timeline import Timeline
from tests.unit.billing.plans import FREE, METERS, STARTER, book

T = TypeVar("T")

ACME = "acme"
PRO = replace(STARTER, plan_id="pro", price_books=(book(Money(14900, "USD")),))
YEARLY = replace(STARTER, plan_id="yearly", interval=Interval.YEAR, price_books=(book(Money(49000, "USD")),))
A_MONTH_IN_CENTS = {"starter": 4900, "pro": 14900, "yearly": 4083}
MONTHS_PAID = {"starter": 1, "pro": 1, "yearly": 12}

trials = st.sampled_from([0, 14, 30])
HOURS = st.timedeltas(timedelta(), timedelta(days=2))
plan_ids = st.sampled_from(sorted(A_MONTH_IN_CENTS))
change_times = st.sampled_from([None, ChangeTime.AT_ONCE, ChangeTime.AT_PERIOD_END])
moments = st.builds(
    lambda year, month, day, second: (
        datetime(year, month, min(day, calendar.monthrange(year, month)[1]), tzinfo=UTC) + timedelta(seconds=second)
    ),
    st.integers(2027, 2028),
    st.integers(1, 12),
    st.integers(26, 31),
    st.integers(0, 86_399),
)


def months_after(anchor: datetime, months: int) -> datetime:
    """The model's own calendar."""
    years, month = divmod(anchor.month - 1 + months, 12)
    last = calendar.monthrange(anchor.year + years, month + 1)[1]
    return anchor.replace(year=anchor.year + years, month=month + 1, day=min(anchor.day, last))


@dataclass
class Model:
    """What is in force, and the two things that may lie ahead."""

    plan: str = "free"
    anchor: datetime | None = None
    is_paused: bool = False
    standing: str = "GOOD"
    scheduled: tuple[datetime, str] | None = None
    cancel_at: datetime | None = None

    def status(self, now: datetime) -> str:
        if self.standing == "SUSPENDED":
            return "SUSPENDED"
        if self.is_paused:
            return "PAUSED"
        if self.standing == "PAST_DUE":
            return "PAST_DUE"
        return "TRIALING" if self.anchor is not None and now < self.anchor else "ACTIVE"

    def paid_until(self, now: datetime) -> datetime:
        assert self.anchor is not None
        if now < self.anchor:
            return self.anchor
        months = MONTHS_PAID[self.plan]
        while months_after(self.anchor, months) <= now:
            months += MONTHS_PAID[self.plan]
        return months_after(self.anchor, months)

    def may_change(self, now: datetime) -> bool:
        return self.plan != "free" and self.status(now) != "SUSPENDED"

    def may_pause(self, now: datetime) -> bool:
        return self.plan != "free" and self.status(now) in ("ACTIVE", "TRIALING")

    def may_resume(self) -> bool:
        return self.is_paused or self.cancel_at is not None

    def at(self, now: datetime) -> Model:
        """It, after time has passed."""
        if self.cancel_at is not None and self.cancel_at <= now:
            return Model()
        if self.scheduled is not None and self.scheduled[0] <= now:
            return replace(self, plan=self.scheduled[1], scheduled=None)
        return self


class Lives(RuleBasedStateMachine):
    """One organization's."""

    @initialize(start=moments, plan_id=plan_ids, trial_days=trials)
    def begin(self, start: datetime, plan_id: str, trial_days: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.clock = FakeClock(start)
        self.model = Model()
        self.requests = 0
        self.position, self.followed = START, [(0, "", "")]
        self.history: dict[str, Timeline] = {}
        self.history_time = start
        self.books, plans, usage = MemoryBooks(), MemoryPlans(), MemoryUsage(*METERS.values())
        self.run(plans.apply((FREE, STARTER, PRO, YEARLY), request_id="r", digest=b"", actor="tests"))
        organizations = MemoryOrganizations({ACME: start - timedelta(days=1)})
        self.in_force = SubscriptionInForce(self.books, plans, organizations, self.clock)
        act = ActOnSubscription(self.books, plans, self.in_force, self.clock)
        wanted = FindWantedPlan(plans, usage)
        self.create = CreateSubscription(self.books, wanted, self.in_force, self.clock)
        self.change_plan, self.cancel_subscription = ChangePlan(wanted, act), CancelSubscription(act)
        self.pause_subscription, self.resume_subscription = PauseSubscription(act), ResumeSubscription(act)
        self.work = ApplyScheduledChanges(MemoryChangeList(self.books), self.in_force, self.clock)
        self.sell(plan_id, trial_days, 0)

    def teardown(self) -> None:
        self.loop.close()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(call)

    def asked(self) -> dict[str, Any]:
        self.requests += 1
        return {"request_id": f"r{self.requests}", "actor": "tests"}

    @property
    def now(self) -> datetime:
        return self.clock.now()

    # --- time

    @rule(by=st.one_of(HOURS, HOURS, st.timedeltas(timedelta(), timedelta(days=45))), a_worker_looks=st.booleans())
    def time_passes(self, by: timedelta, *, a_worker_looks: bool) -> None:
        self.clock.advance(by)
        self.model = self.model.at(self.now)
        if a_worker_looks:
            self.run(self.work())

    @precondition(lambda self: self.model.plan != "free")
    @rule(off=st.sampled_from([timedelta(microseconds=-1), timedelta(), timedelta(microseconds=1)]))
    def time_passes_to_the_end_of_what_is_paid(self, off: timedelta) -> None:
        by = self.model.paid_until(self.now) + off - self.now
        self.clock.advance(max(by, timedelta()))
        self.model = self.model.at(self.now)

    # --- commands

    @precondition(lambda self: self.model.plan == "free")
    @rule(plan_id=plan_ids, trial_days=trials, back=st.sampled_from([0, 0, 3]))
    def sell(self, plan_id: str, trial_days: int, back: int) -> None:
        start = self.now - timedelta(days=back)
        billed_until = max(
            (each.end for each in self.history.values() if each.end and each.phases[0].plan.plan_id != "free"),
            default=start,
        )
        call = self.create(ACME, plan_id, start_time=start, trial_days=trial_days, **self.asked())
        if start < billed_until:
            with pytest.raises(InvalidField):
                self.run(call)
            return
        self.run(call)
        self.model = Model(plan=plan_id, anchor=start + timedelta(days=trial_days))

    @precondition(lambda self: self.model.may_change(self.now))
    @rule(plan_id=plan_ids, change_time=change_times)
    def change(self, plan_id: str, change_time: ChangeTime | None) -> None:
        model, now = self.model, self.now
        self.run(self.change_plan(ACME, plan_id, change_time=change_time, **self.asked()))
        if plan_id == model.plan and model.scheduled:
            model.scheduled = None
            return
        rises = A_MONTH_IN_CENTS[plan_id] > A_MONTH_IN_CENTS[model.plan]
        if change_time is ChangeTime.AT_ONCE or (change_time is None and rises):
            model.plan, model.scheduled = plan_id, None
            return
        at = model.paid_until(now)
        model.scheduled = None if plan_id == model.plan else (at, plan_id)
        if model.cancel_at is not None and model.cancel_at <= at:
            model.cancel_at = None

    @precondition(lambda self: self.model.plan != "free")
    @rule()
    def cancel_at_period_end(self) -> None:
        self.run(self.cancel_subscription(ACME, **self.asked()))
        at = self.model.paid_until(self.now)
        self.model.cancel_at = at
        if self.model.scheduled is not None and self.model.scheduled[0] >= at:
            self.model.scheduled = None

    @precondition(lambda self: self.model.plan != "free")
    @rule()
    def cancel_at_once(self) -> None:
        self.run(self.cancel_subscription(ACME, change_time=ChangeTime.AT_ONCE, **self.asked()))
        self.model = Model()

    @precondition(lambda self: self.model.may_pause(self.now))
    @rule()
    def pause(self) -> None:
        self.run(self.pause_subscription(ACME, **self.asked()))
        self.model.is_paused = True

    @precondition(lambda self: self.model.may_resume())
    @rule()
    def resume(self) -> None:
        self.run(self.resume_subscription(ACME, **self.asked()))
        self.model.is_paused, self.model.cancel_at = False, None

    @rule(plan_id=plan_ids)
    def what_is_not_allowed_is_refused(self, plan_id: str) -> None:
        if not self.model.may_change(self.now):
            with pytest.raises(InvalidState):
                self.run(self.change_plan(ACME, plan_id, **self.asked()))
        if not self.model.may_pause(self.now):
            with pytest.raises(InvalidState):
                self.run(self.pause_subscription(ACME, **self.asked()))
        if not self.model.may_resume():
            with pytest.raises(InvalidState):
                self.run(self.resume_subscription(ACME, **self.asked()))
        if self.model.plan == "free":
            with pytest.raises(InvalidState):
                self.run(self.cancel_subscription(ACME, **self.asked()))
        else:
            with pytest.raises(AlreadyExists):
                self.run(self.create(ACME, plan_id, start_time=None, **self.asked()))

    @precondition(lambda self: self.model.plan != "free")
    @rule(standing=st.sampled_from([PaymentStanding.GOOD, *PaymentStanding]))
    def payment_says(self, standing: PaymentStanding) -> None:
        async def write() -> None:
            async with self.books.open(ACME) as books:
                current = await books.subscriptions.in_force()
                assert current is not None
                timeline = await books.subscriptions.timeline(current.subscription_id)
                act = Act(action="tests", actor="tests", request_id="", now=self.now)
                await books.subscriptions.change(timeline, standing, act)

        self.run(self.in_force(ACME))
        self.run(write())
        self.model.standing = standing.value

    # --- what always holds

    @invariant()
    def what_is_in_force_is_what_the_model_says(self) -> None:
        standing = self.run(self.in_force(ACME))
        found = standing.subscription
        assert (found.plan_id, found.status.value) == (self.model.plan, self.model.status(self.now))
        assert standing.period.start <= self.now < standing.period.end
        if self.model.plan != "free":
            assert found.anchor == self.model.anchor
            ahead = [*([self.model.scheduled[0]] if self.model.scheduled else []), self.model.cancel_at, found.anchor]
            assert found.next_change_time == min((each for each in ahead if each and each > self.now), default=None)

    @invariant()
    def followers_are_told_each_entitlement_once_in_order_and_the_last_is_in_force(self) -> None:
        found = self.run(self.in_force(ACME)).subscription
        page = self.run(self.read_after(self.position))
        self.position = page[1]
        self.followed += page[0]
        versions = [version for version, *_ in self.followed]
        assert versions == sorted(set(versions))
        assert all(one[1:] != other[1:] for one, other in pairwise(self.followed))
        assert self.followed[-1] == (found.entitlement_version, found.plan_id, found.status.value)

    @invariant()
    def timelines_tile_and_what_was_stays(self) -> None:
        self.run(self.in_force(ACME))
        timelines = self.run(self.read_timelines())
        for timeline in timelines:
            starts = [phase.start for phase in timeline.phases]
            assert starts[0] == timeline.start
            assert starts == sorted(set(starts))
            assert timeline.end is None or timeline.end >= timeline.start
        for one, other in pairwise(timelines):
            assert one.end == max(one.start, other.start)
        assert timelines[-1].end is None or timelines[-1].end > self.now
        for before in self.history.values():
            (after,) = (each for each in timelines if each.subscription_id == before.subscription_id)
            passed = [phase for phase in before.phases if phase.start < self.history_time]
            assert [phase for phase in after.phases if phase.start < self.history_time] == passed
        self.history = {each.subscription_id: each for each in timelines}
        self.history_time = self.now

    async def read_after(self, position: Position) -> tuple[list[tuple[int, str, str]], Position]:
        async with self.books.read(ACME) as books:
            page = await books.entitlements.after(position)
        return [(entry.version, entry.plan_id, entry.status.value) for entry in page.entries], page.position

    async def read_timelines(self) -> list[Timeline]:
        async with self.books.read(ACME) as books:
            return list(await books.subscriptions.timelines())


TestLives = Lives.TestCase
TestLives.settings = settings(
    max_examples=80, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
