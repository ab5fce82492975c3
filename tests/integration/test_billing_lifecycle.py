"""Subscriptions on a real database, with several workers, and with the real quota service as their follower."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import psycopg
import pytest

from kit.clock import Clock, SystemClock
from kit.head_watch import HeadWatch
from kit.postgres.database import Database
from kit.postgres.embedded import EmbeddedPostgres
from kit.redis.embedded import EmbeddedRedis
from kit.testing.clock import FakeClock
from services.billing.adapters.memory.organizations import MemoryOrganizations
from services.billing.adapters.memory.usage import MemoryUsage
from services.billing.adapters.postgres_books.books import PostgresBooks
from services.billing.adapters.postgres_books.entitlements import PostgresEntitlementHeads
from services.billing.adapters.postgres_catalog import PostgresPlans
from services.billing.adapters.postgres_change_list import PostgresChangeList
from services.billing.application.act_on_subscription import ActOnSubscription
from services.billing.application.apply_scheduled_changes import ApplyScheduledChanges
from services.billing.application.cancel_subscription import CancelSubscription
from services.billing.application.change_plan import ChangePlan
from services.billing.application.create_subscription import CreateSubscription
from services.billing.application.find_plan import FindPlan
from services.billing.application.find_wanted_plan import FindWantedPlan
from services.billing.application.pause_subscription import PauseSubscription
from services.billing.application.ports.subscriptions import Act
from services.billing.application.read_entitlements import ReadEntitlements
from services.billing.application.resume_subscription import ResumeSubscription
from services.billing.application.subscription_in_force import SubscriptionInForce
from services.billing.domain import limits
from services.billing.domain.lifecycle import ChangeTime
from services.billing.domain.subscriptions import PaymentStanding
from services.billing.rpc.entitlement_servicer import EntitlementServicer
from services.billing.workers.working_off import LOOK_SOON_SECONDS, work_off
from tests.integration.billing_database import BillingDatabase, billing_database
from tests.integration.test_quota_process import Suite, eventually, own_redis, suite_on
from tests.unit.billing.plans import METERS, MINUTE, PLANS
from tollbook.quota.v1 import quota_pb2

__all__ = ["own_redis"]

NOW = datetime(2028, 1, 31, 9, tzinfo=UTC)
PERIOD_END = datetime(2028, 2, 29, 9, tzinfo=UTC)
ACME = "acme"


class Worker:
    """One process of billing: a pool and use cases of its own."""

    def __init__(self, pool: Database, fleet: Database, clock: Clock) -> None:
        self.books, plans, usage = PostgresBooks(pool), PostgresPlans(pool, fleet), MemoryUsage(*METERS.values())
        self.plans = plans
        organizations = MemoryOrganizations({ACME: clock.now() - timedelta(days=60)})
        self.in_force = SubscriptionInForce(self.books, plans, organizations, clock)
        act, wanted = ActOnSubscription(self.books, plans, self.in_force, clock), FindWantedPlan(plans, usage)
        self.create = partial(CreateSubscription(self.books, wanted, self.in_force, clock), ACME, actor="tests")
        self.change = partial(ChangePlan(wanted, act), ACME, actor="tests")
        self.cancel = partial(CancelSubscription(act), ACME, actor="tests")
        self.pause = partial(PauseSubscription(act), ACME, actor="tests")
        self.resume = partial(ResumeSubscription(act), ACME, actor="tests")
        self.apply_scheduled_changes = ApplyScheduledChanges(PostgresChangeList(fleet), self.in_force, clock)
        read_entitlements = ReadEntitlements(self.books, FindPlan(self.books, plans), self.in_force, clock)
        self.feed = EntitlementServicer(
            heads=HeadWatch(PostgresEntitlementHeads(fleet).heads), read_entitlements=read_entitlements
        )


@dataclass
class Scene:
    database: BillingDatabase
    clock: FakeClock
    workers: list[Worker]

    def entitlements(self) -> list[tuple[object, ...]]:
        """As the owner, past every policy: plan, status and actor of each entry."""
        query = (
            b"SELECT body->>'plan_id', body->>'status', body->>'action' FROM billing.changes"
            b" WHERE kind = 'entitlement' ORDER BY sequence"
        )
        with psycopg.connect(self.database.owner_url) as owner:
            return owner.execute(query).fetchall()


@asynccontextmanager
async def workers_on(
    postgres: EmbeddedPostgres, clock: Clock, count: int
) -> AsyncIterator[tuple[BillingDatabase, list[Worker]]]:
    async with billing_database(postgres.url) as database:
        pools = [Database(database.tenant_url) for _ in range(count)]
        workers = [Worker(pool, database.fleet, clock) for pool in pools]
        await workers[0].plans.apply(PLANS, request_id="stock", digest=b"", actor="tests")
        yield database, workers
        for pool in pools:
            await pool.close()


@pytest.fixture
async def scene(postgres: EmbeddedPostgres) -> AsyncIterator[Scene]:
    clock = FakeClock(NOW)
    async with workers_on(postgres, clock, 3) as (database, workers):
        await workers[0].create("enterprise", start_time=None, request_id="sell")
        yield Scene(database, clock, workers)


BEGUN = [("free", "ACTIVE", "begin_free"), ("enterprise", "ACTIVE", "create")]


# --- several workers


async def test_b35_a_change_that_has_come_is_told_once_however_many_see_it_at_once(scene: Scene) -> None:
    await scene.workers[0].change("starter", request_id="change")
    scene.clock.advance(PERIOD_END - NOW)
    await asyncio.gather(
        *(worker.apply_scheduled_changes() for worker in scene.workers for _ in range(3)),
        *(worker.in_force(ACME) for worker in scene.workers for _ in range(3)),
    )
    assert scene.entitlements() == [*BEGUN, ("starter", "ACTIVE", "begin_phase")]
    assert await scene.workers[0].apply_scheduled_changes() == 0


async def test_b35_a_subscription_that_ends_is_followed_by_one_free_one(scene: Scene) -> None:
    await scene.workers[0].cancel(request_id="cancel")
    scene.clock.advance(PERIOD_END - NOW + timedelta(hours=1))
    standings = await asyncio.gather(
        *(worker.in_force(ACME) for worker in scene.workers for _ in range(3)),
        *(worker.apply_scheduled_changes() for worker in scene.workers),
        return_exceptions=True,
    )
    assert not [each for each in standings if isinstance(each, BaseException)]
    assert scene.entitlements() == [*BEGUN, ("free", "ACTIVE", "end")]
    assert (await scene.workers[0].in_force(ACME)).timeline.start == PERIOD_END


async def test_f32_a_worker_that_dies_with_a_claim_is_followed_by_another(scene: Scene) -> None:
    await scene.workers[0].change("starter", request_id="change")
    scene.clock.advance(PERIOD_END - NOW)
    assert len(await PostgresChangeList(scene.database.fleet).claim(now=scene.clock.now(), count=10)) == 1
    assert await scene.workers[1].apply_scheduled_changes() == 0
    scene.clock.advance(limits.CLAIM_LEASE)
    assert await scene.workers[1].apply_scheduled_changes() == 1
    assert scene.entitlements() == [*BEGUN, ("starter", "ACTIVE", "begin_phase")]


async def test_f32_a_list_that_is_stale_puts_nothing_in_force_that_was_taken_back(scene: Scene) -> None:
    await scene.workers[0].change("starter", request_id="change")
    with psycopg.connect(scene.database.owner_url) as owner:
        (stale,) = owner.execute("SELECT * FROM billing.due_changes").fetchall()
    await scene.workers[0].change("enterprise", request_id="stay")
    with psycopg.connect(scene.database.owner_url) as owner:
        owner.execute("INSERT INTO billing.due_changes VALUES (%s, %s, %s, %s, %s)", stale)
    scene.clock.advance(PERIOD_END - NOW)
    await scene.workers[1].apply_scheduled_changes()
    assert (await scene.workers[1].in_force(ACME)).subscription.plan_id == "enterprise"
    assert [plan for plan, *_ in scene.entitlements()] == ["free", "enterprise"]


async def test_commands_at_once_from_many_places_are_each_done_once_and_leave_one_in_force(scene: Scene) -> None:
    commands = [
        partial(scene.workers[0].change, "starter", change_time=ChangeTime.AT_ONCE, request_id="down"),
        partial(scene.workers[1].change, "enterprise", change_time=ChangeTime.AT_ONCE, request_id="up"),
        partial(scene.workers[2].cancel, request_id="cancel"),
    ]
    await asyncio.gather(*(command() for command in commands for _ in range(4)))
    with psycopg.connect(scene.database.owner_url) as owner:
        done = owner.execute(
            "SELECT body->>'request_id', count(*) FROM billing.changes"
            " WHERE body->>'request_id' IN ('down', 'up', 'cancel') GROUP BY 1 ORDER BY 1"
        ).fetchall()
        in_force = owner.execute("SELECT count(*) FROM billing.subscriptions WHERE status <> 'CANCELED'").fetchall()
    assert done == [("cancel", 1), ("down", 1), ("up", 1)]
    assert in_force == [(1,)]


async def test_what_a_subscription_was_stays_in_the_database_with_what_never_came(scene: Scene) -> None:
    await scene.workers[0].change("starter", request_id="down")
    await scene.workers[0].change("enterprise", request_id="stay")
    with psycopg.connect(scene.database.owner_url) as owner:
        phases = owner.execute(
            "SELECT phase_number, plan_id, start_time, supersede_time FROM billing.subscription_phases"
            " WHERE plan_id <> 'free' ORDER BY phase_number"
        ).fetchall()
    assert phases == [(1, "enterprise", NOW, None), (2, "starter", PERIOD_END, NOW)]


# --- quota follows


@pytest.fixture
async def billing(postgres: EmbeddedPostgres) -> AsyncIterator[Worker]:
    """Billing at the time that it is, with its worker at work."""
    async with workers_on(postgres, SystemClock(), 1) as (_, (worker,)):
        work = asyncio.create_task(work_off(worker.apply_scheduled_changes, look_every_seconds=LOOK_SOON_SECONDS))
        yield worker
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


@pytest.fixture
async def suite(
    tmp_path: Path,
    own_redis: EmbeddedRedis,
    migrated: Callable[[str], dict[str, str]],
    billing: Worker,
) -> AsyncIterator[Suite]:
    async with suite_on(tmp_path, own_redis, migrated("quota"), feed=billing.feed) as suite:
        yield suite


async def becomes(suite: Suite, *, limit: int | None, deny_reason: int = quota_pb2.DENY_REASON_UNSPECIFIED) -> None:
    """Waits until quota decides by that limit, and denies for that reason."""

    async def is_so() -> bool:
        request = quota_pb2.CheckRequest(
            request_id="gate",
            consumptions=[quota_pb2.Consumption(meter="agent_minutes")],
            mode=quota_pb2.CHECK_MODE_DECIDE,
        )
        answer = await suite.quota.Check(request, metadata=(("authorization", "Bearer tb_live_acme"),))
        state = answer.limits[0] if answer.limits else None
        shown = state.limit if state is not None and state.HasField("limit") else None
        return (shown, answer.deny_reason) == (limit, deny_reason)

    await eventually(is_so, seconds=20)


async def test_quota_follows_every_change_of_a_subscription(suite: Suite, billing: Worker) -> None:
    suspended = quota_pb2.DENY_REASON_SUSPENDED
    await becomes(suite, limit=100 * MINUTE)
    sold = await billing.create("starter", start_time=None, request_id="sell")
    await becomes(suite, limit=1_000 * MINUTE)
    await billing.change("enterprise", request_id="up")
    await becomes(suite, limit=None)
    await billing.change("starter", change_time=ChangeTime.AT_ONCE, request_id="down")
    await becomes(suite, limit=1_000 * MINUTE)
    await billing.pause(request_id="pause")
    await becomes(suite, limit=1_000 * MINUTE, deny_reason=suspended)
    await billing.resume(request_id="resume")
    await becomes(suite, limit=1_000 * MINUTE)
    for standing, reason in (
        (PaymentStanding.SUSPENDED, suspended),
        (PaymentStanding.PAST_DUE, quota_pb2.DENY_REASON_UNSPECIFIED),
        (PaymentStanding.SUSPENDED, suspended),
        (PaymentStanding.GOOD, quota_pb2.DENY_REASON_UNSPECIFIED),
    ):
        async with billing.books.open(ACME) as book:
            timeline = await book.subscriptions.timeline(sold.subscription.subscription_id)
            act = Act(action="tests", actor="tests", request_id="", now=SystemClock().now())
            await book.subscriptions.change(timeline, standing, act)
        await becomes(suite, limit=1_000 * MINUTE, deny_reason=reason)
    await billing.cancel(change_time=ChangeTime.AT_ONCE, request_id="cancel")
    await becomes(suite, limit=100 * MINUTE)


async def test_quota_follows_what_was_scheduled_when_its_instant_comes_though_nobody_asks_billing(
    suite: Suite, billing: Worker
) -> None:
    trial_ends = SystemClock().now() + timedelta(seconds=4)
    await billing.create("starter", start_time=trial_ends - timedelta(days=1), trial_days=1, request_id="sell")
    await billing.change("enterprise", change_time=ChangeTime.AT_PERIOD_END, request_id="up")
    await becomes(suite, limit=1_000 * MINUTE)
    await becomes(suite, limit=None)
    assert SystemClock().now() >= trial_ends
