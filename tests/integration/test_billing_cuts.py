"""F29: cuts that come by themselves, on a real database: made by several workers at once, broken off after each step,
while clocks jump and usage arrives. No row is made twice, no cent changes, no number is left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

import psycopg
import pytest
from sqlalchemy import event

from kit.errors import DependencyUnavailable
from kit.postgres.database import Database
from kit.postgres.embedded import EmbeddedPostgres
from kit.testing.clock import FakeClock
from services.billing.adapters.postgres_books.books import PostgresBook, PostgresBooks
from services.billing.adapters.postgres_catalog import PostgresPlans
from services.billing.adapters.postgres_close_list import PostgresCloseList
from services.billing.application.ports.usage import UsageTotals
from services.billing.domain import limits
from services.billing.domain.periods import Period, nth_start
from tests.integration.billing_database import BillingDatabase, billing_database
from tests.unit.billing.closing_house import START, Hands, Ledger, hands_of
from tests.unit.billing.plans import PLANS

SECOND_MONTH = nth_start(START, 1) + timedelta(days=1)


class Broken(BaseException):
    """The process ends here: nothing catches this, and nothing is noted for the next try."""


class RestlessLedger(Ledger):
    """Something happens whenever it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.on_read: Callable[[str], None] = lambda _: None
        self.first: list[Awaitable[object]] = []
        """Done before it answers, once."""
        self.hangs_for: set[str] = set()
        self.down_for: set[str] = set()

    async def totals(
        self, organization_id: str, period: Period, meters: Collection[str], *, as_of_sequence: int | None = None
    ) -> UsageTotals:
        await asyncio.sleep(0)
        if organization_id in self.hangs_for:
            await asyncio.Event().wait()
        if organization_id in self.down_for:
            raise DependencyUnavailable(dependency="metering")
        totals = await super().totals(organization_id, period, meters, as_of_sequence=as_of_sequence)
        self.on_read(organization_id)
        while self.first:
            await self.first.pop()
        return totals


class ForgetfulBooks(PostgresBooks):
    """Commits, and then the process ends, at one opening of the books."""

    breaks_after: int | None = None

    @asynccontextmanager
    async def open(self, organization_id: str) -> AsyncIterator[PostgresBook]:
        async with super().open(organization_id) as book:
            yield book
        if self.breaks_after is not None:
            self.breaks_after -= 1
            if self.breaks_after < 0:
                raise Broken


@dataclass
class Scene:
    database: BillingDatabase
    clock: FakeClock
    usage: RestlessLedger
    pools: list[Database]
    books: list[ForgetfulBooks]
    workers: list[Hands]

    def rows(self, query: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.database.owner_url) as owner:
            return owner.execute(query.encode()).fetchall()

    async def sell(self, *organization_ids: str) -> None:
        for organization_id in organization_ids:
            await self.workers[0].create(
                organization_id, "starter", start_time=None, request_id=f"sell-{organization_id}", actor="tests"
            )

    async def work(self) -> None:
        """All workers at once, until nothing is due."""

        async def until_idle(worker: Hands) -> None:
            while await worker.close_due():
                pass

        await asyncio.gather(*(until_idle(worker) for worker in self.workers))

    def move_to(self, moment: datetime) -> None:
        self.clock.advance(moment - self.clock.now())

    def totals(self) -> dict[str, list[int]]:
        """The totals of each organization's invoices in cents, in the order of their numbers."""
        rows = self.rows("SELECT organization_id, total_minor FROM billing.invoices ORDER BY number")
        totals: dict[str, list[int]] = {}
        for organization_id, total in rows:
            totals.setdefault(str(organization_id), []).append(int(str(total)))
        return totals

    def require_sound_numbers(self) -> None:
        numbers = sorted(str(row[0]) for row in self.rows("SELECT number FROM billing.invoices"))
        assert numbers == [f"TB-{number:06d}" for number in range(1, len(numbers) + 1)]
        assert self.rows("SELECT last_number FROM billing.invoice_numbers") == [(len(numbers),)]


@pytest.fixture
async def scene(postgres: EmbeddedPostgres) -> AsyncIterator[Scene]:
    clock, usage = FakeClock(START), RestlessLedger()
    async with billing_database(postgres.url) as database:
        catalog = PostgresPlans(database.tenant, database.fleet)
        await catalog.apply(PLANS, request_id="stock", digest=b"", actor="tests")
        pools = [Database(database.tenant_url) for _ in range(2)]
        books = [ForgetfulBooks(pool) for pool in pools]
        workers = [
            hands_of(each, PostgresPlans(pool, database.fleet), PostgresCloseList(database.fleet), usage, clock)
            for each, pool in zip(books, pools, strict=True)
        ]
        yield Scene(database, clock, usage, pools, books, workers)
        for pool in pools:
            await pool.close()


@contextmanager
def broken_at(pool: Database, step: int) -> Iterator[list[int]]:
    """The process ends before its n-th statement. The list says how many statements came."""
    came = [0]

    def count(*_: object) -> None:
        came[0] += 1
        if came[0] == step:
            raise Broken

    engine = pool._engine.sync_engine
    event.listen(engine, "before_cursor_execute", count)
    try:
        yield came
    finally:
        event.remove(engine, "before_cursor_execute", count)


async def test_f29_b35_two_schedulers_that_overlap_make_every_cut_once(scene: Scene) -> None:
    organizations = [f"org-{number}" for number in range(12)]
    await scene.sell(*organizations)
    for number, organization_id in enumerate(organizations):
        scene.usage.use(1_000 + number, START + timedelta(hours=1), organization_id=organization_id)
    scene.move_to(SECOND_MONTH)
    await asyncio.gather(scene.work(), scene.work(), scene.work())
    expected = {name: [4900, 4900 + 5 * number] for number, name in enumerate(organizations)}
    assert scene.totals() == expected
    scene.require_sound_numbers()
    before = scene.rows("SELECT * FROM billing.closes"), scene.rows("SELECT * FROM billing.invoice_lines")
    scene.clock.advance(limits.CLAIM_LEASE * 2)
    await asyncio.gather(scene.work(), scene.work())
    assert (scene.rows("SELECT * FROM billing.closes"), scene.rows("SELECT * FROM billing.invoice_lines")) == before


async def test_f29_a_run_that_breaks_off_before_any_statement_is_completed_by_the_next_one(scene: Scene) -> None:
    step, came = 0, [0]
    while came[0] >= step:
        step += 1
        organization_id = f"org-{step}"
        await scene.sell(organization_id)
        scene.usage.use(1_100, scene.clock.now(), organization_id=organization_id)
        scene.clock.advance(limits.CLOSE_AFTER)
        with broken_at(scene.pools[0], step) as came, suppress(Broken):
            await scene.workers[0].close_due()
        scene.clock.advance(limits.CLAIM_LEASE)
        await scene.work()
        assert scene.totals()[organization_id] == [4900], step
        assert scene.rows(f"SELECT count(*) FROM billing.closes WHERE organization_id = '{organization_id}'") == [(1,)]  # noqa: S608
        scene.require_sound_numbers()
    assert step > 10


async def test_f29_a_process_that_ends_after_its_commit_has_made_the_cut_once(scene: Scene) -> None:
    await scene.sell("org-0")
    scene.usage.use(1_100, START, organization_id="org-0")
    scene.move_to(SECOND_MONTH)
    for _ in range(2):
        scene.books[0].breaks_after = 0
        with pytest.raises(Broken):
            await scene.workers[0].close_due()
        scene.books[0].breaks_after = None
        scene.clock.advance(limits.RETRY_MAX)
    await scene.work()
    assert scene.totals() == {"org-0": [4900, 5400]}
    scene.require_sound_numbers()


async def test_f29_usage_that_arrives_during_the_run_is_on_this_invoice_or_the_next_and_on_one(scene: Scene) -> None:
    await scene.sell("org-0")
    scene.move_to(START + timedelta(days=1))
    await scene.work()
    scene.usage.use(1_000, START, organization_id="org-0")
    scene.usage.on_read = lambda name: scene.usage.use(1, START, organization_id=name)
    for number in (1, 2):
        scene.move_to(nth_start(START, number) + timedelta(days=1))
        await scene.work()
    scene.usage.on_read = lambda _: None
    late = len(scene.usage.events["org-0"]) - 1
    scene.move_to(nth_start(START, 3) + timedelta(days=1))
    await scene.work()
    assert late >= 3
    assert sum(scene.totals()["org-0"]) == 4 * 4900 + 5 * late
    sequences = scene.rows(
        "SELECT first_sequence, last_sequence FROM billing.invoice_lines"  # noqa: S608 - a time from above
        f" WHERE interval_start = '{START}' AND meter <> '' ORDER BY last_sequence"
    )
    assert sequences[0][0] == 0
    assert all(before[1] == after[0] for before, after in pairwise(sequences))


async def test_f29_a_clock_that_jumps_over_midnight_and_a_period_during_the_run_changes_nothing(scene: Scene) -> None:
    await scene.sell("org-0")
    scene.usage.use(1_100, START, organization_id="org-0")
    scene.move_to(nth_start(START, 1) - timedelta(seconds=1))
    scene.usage.on_read = lambda _: scene.clock.advance(timedelta(days=3))
    await scene.work()
    scene.usage.on_read = lambda _: None
    scene.move_to(max(scene.clock.now(), SECOND_MONTH))
    await scene.work()
    assert scene.totals() == {"org-0": [4900, 5400]}
    periods = scene.rows("SELECT cut, period_start FROM billing.closes ORDER BY close_time, cut")
    assert periods == [("OPENING", START), ("PERIOD", START)]


async def test_f29_a_plan_that_changes_while_usage_is_read_is_invoiced_as_it_is_then(scene: Scene) -> None:
    await scene.sell("org-0")
    scene.move_to(START + timedelta(days=1))
    await scene.work()
    scene.move_to(nth_start(START, 1) - timedelta(seconds=1))
    scene.usage.first = [scene.workers[1].change("org-0", "enterprise", request_id="change", actor="tests")]
    made = await scene.workers[0].close("org-0", request_id="close", actor="tests")
    assert made is not None
    assert [(line.period.start, line.amount.minor) for line in made.lines if line.meter] == [
        (START, 0),
        (scene.clock.now(), 0),
    ]
    for number in (1, 2):
        scene.move_to(nth_start(START, number) + timedelta(days=1))
        await scene.work()
    # A second of the first month, then two months of enterprise, whichever of the two came first.
    lines = scene.rows("SELECT sum(amount_minor) FROM billing.invoice_lines")
    assert lines == [(4900 + 2 * 49_900,)]


async def test_an_organization_that_hangs_or_fails_holds_up_no_other(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    organizations = [f"org-{number}" for number in range(4)]
    await scene.sell(*organizations)
    scene.move_to(SECOND_MONTH)
    await scene.work()
    scene.usage.hangs_for, scene.usage.down_for = {"org-0"}, {"org-1"}
    scene.move_to(nth_start(START, 2) + timedelta(days=1))
    monkeypatch.setattr(limits, "CLAIM_WORK", timedelta(seconds=3))
    await scene.work()
    made = {name: len(totals) for name, totals in scene.totals().items()}
    assert made == {"org-0": 2, "org-1": 2, "org-2": 3, "org-3": 3}
    waiting = scene.rows("SELECT organization_id FROM billing.due_closes WHERE last_error <> '' ORDER BY 1")
    assert waiting == [("org-0",), ("org-1",)]
    scene.usage.hangs_for, scene.usage.down_for = set(), set()
    scene.clock.advance(limits.RETRY_MAX)
    monkeypatch.undo()
    await scene.work()
    assert {len(totals) for totals in scene.totals().values()} == {3}
    scene.require_sound_numbers()


async def test_b34_no_unique_key_of_billings_has_a_column_that_may_be_null(scene: Scene) -> None:
    """Where a NULL stands, a unique key lets duplicates in."""
    nullable = scene.rows(
        """
        SELECT i.indexrelid::regclass::text, a.attname FROM pg_index i
            JOIN pg_class c ON c.oid = i.indrelid
            JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
        WHERE c.relnamespace = 'billing'::regnamespace AND i.indisunique AND NOT i.indnullsnotdistinct
            AND NOT a.attnotnull AND c.relname NOT LIKE 'procrastinate%'
        """
    )
    assert nullable == []


async def test_what_a_version_before_this_one_invoiced_is_not_invoiced_again(scene: Scene) -> None:
    """Its lines have no key: they are read as what they were for, and only what differs is charged."""
    await scene.sell("org-0")
    scene.usage.use(1_100, START, organization_id="org-0")
    await scene.workers[0].close("org-0", request_id="close", actor="tests")
    with psycopg.connect(scene.database.owner_url) as owner:
        owner.execute(
            "UPDATE billing.invoice_lines SET due_kind = NULL, category = NULL, interval_start = NULL,"
            " interval_end = NULL, charge_id = NULL, segment_start = NULL, difference_quantity = 0, last_sequence = 0"
        )
    scene.usage.use(20, START, organization_id="org-0")
    scene.move_to(SECOND_MONTH)
    await scene.work()
    assert scene.totals() == {"org-0": [5400, 5000]}
    adjustments = scene.rows(
        "SELECT amount_minor, difference_quantity, first_sequence, last_sequence FROM billing.invoice_lines"
        " WHERE kind = 'ADJUSTMENT'"
    )
    assert adjustments == [(100, 20 * 60_000, 1, 2)]
