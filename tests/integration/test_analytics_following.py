"""The ledger is priced exactly once, whatever is cut off, repeated, rewound or dropped; on a real Postgres."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from kit.feed import Follower
from kit.postgres.database import Database, set_organization
from kit.postgres.embedded import EmbeddedPostgres
from services.analytics.adapters.postgres_costs import PostgresCostReader, PostgresCostRerater, PostgresCostWriter
from services.analytics.adapters.postgres_prices import PostgresPriceBook
from services.analytics.application import rate_calls
from services.analytics.application.ports import CostTotals
from services.analytics.application.rate_calls import RateCalls
from services.analytics.application.rerate_calls import RerateCalls
from services.analytics.domain import limits
from services.analytics.domain.calls import LedgerEntry, ProviderCall, taken_back
from services.analytics.domain.days import Interval
from services.analytics.domain.errors import PricesMissing
from services.analytics.domain.prices import PriceTable
from services.analytics.domain.pricing import price_call
from services.analytics.domain.summary import ProviderTotal
from tests.integration.analytics_store import EMPTY_ANALYTICS
from tests.unit.analytics.samples import NOON, MemoryFeed, call, price, request

ALWAYS = Interval(datetime(1970, 1, 1, tzinfo=UTC), datetime(2970, 1, 1, tzinfo=UTC))


class CutOff(Exception):
    """The process ended here."""


class CutOffDatabase(Database):
    """Ends every transaction just before its commit."""

    @asynccontextmanager
    async def transaction(
        self, *, organization_id: str | None = None, snapshot: bool = False
    ) -> AsyncIterator[AsyncConnection]:
        async with super().transaction(organization_id=organization_id, snapshot=snapshot) as connection:
            yield connection
            if organization_id is not None:
                raise CutOff


@dataclass
class Process:
    """One process of analytics with connections of its own."""

    urls: dict[str, str]
    feed: MemoryFeed
    writer_type: type[Database] = Database
    databases: list[Database] = field(default_factory=list)

    def __post_init__(self) -> None:
        tenant, fleet = Database(self.urls["tenant"]), Database(self.urls["fleet"])
        writer = self.writer_type(self.urls["writer"])
        self.databases = [tenant, writer, fleet]
        self.prices = PostgresPriceBook(tenant, writer)
        self.reader = PostgresCostReader(tenant)
        self.costs = PostgresCostWriter(writer)
        self.rate_calls = RateCalls(self.costs, self.prices, self.feed)
        self.rerate_calls = RerateCalls(PostgresCostRerater(writer, fleet), self.prices)
        self.follower = Follower("tests", self.feed, self.rate_calls)

    async def catch_up(self, key: str) -> None:
        while await self.costs.position(key) != self.feed.head(key):
            await self.follower.catch_up(key)

    async def totals(self, key: str) -> CostTotals:
        return await self.reader.totals(key, ALWAYS)

    async def close(self) -> None:
        for database in self.databases:
            await database.close()


MakeProcess = Callable[..., Process]


@pytest.fixture
async def make_process(
    postgres: EmbeddedPostgres, migrated: Callable[[str], dict[str, str]]
) -> AsyncIterator[MakeProcess]:
    urls, feed, made = migrated("analytics"), MemoryFeed(), list[Process]()
    with psycopg.connect(postgres.url) as owner:
        owner.execute(EMPTY_ANALYTICS)

    def make(writer_type: type[Database] = Database) -> Process:
        made.append(Process(urls, feed, writer_type))
        return made[-1]

    yield make
    for process in made:
        await process.close()


@pytest.fixture
def process(make_process: MakeProcess) -> Process:
    return make_process()


@pytest.fixture
def key() -> str:
    return f"org-{uuid4().hex}"


async def set_prices(process: Process) -> None:
    for asked in (
        request(price("openai_codex", rates=("0.002", "0.004")), makes_baseline=True),
        request(price("github_copilot", rates=("0.001", "0.003"))),
        request(price("google_code_assist", rates=("0.0015", "0.0035"))),
    ):
        await process.prices.set_price(asked)


def some_calls(count: int, seed: int = 7) -> list[ProviderCall | None]:
    chance = random.Random(seed)
    providers = ["openai_codex", "github_copilot", "google_code_assist", "unheard_of", None]
    return [
        None
        if provider is None
        else call(
            provider,
            event_time=NOON + timedelta(minutes=chance.randrange(-600, 600)),
            tokens_input_uncached=chance.randrange(10**6),
            tokens_cache_read=chance.randrange(10**6),
            tokens_output=chance.randrange(10**6),
        )
        for provider in chance.choices(providers, k=count)
    ]


def expected(entries: list[LedgerEntry], table: PriceTable) -> CostTotals:
    costs = [(entry.call.provider, price_call(entry.call, table)) for entry in entries if entry.call]
    return CostTotals(
        tuple(
            ProviderTotal(
                provider=name,
                cost_femto_usd=sum(cost.cost_femto_usd for provider, cost in costs if provider == name),
                baseline_femto_usd=sum(cost.baseline_femto_usd for provider, cost in costs if provider == name),
                call_count=sum(provider == name for provider, _ in costs),
            )
            for name in sorted({provider for provider, _ in costs})
        ),
        applied_sequence=len(entries),
    )


async def assert_exact(process: Process, key: str) -> None:
    assert await process.totals(key) == expected(process.feed.entries(key), await process.prices.current())


async def test_every_call_of_the_ledger_is_priced_once(process: Process, key: str) -> None:
    await set_prices(process)
    for seed in range(3):
        process.feed.record(key, *some_calls(20, seed))
        await process.catch_up(key)
        await process.follower.catch_up(key)
        await assert_exact(process, key)


async def test_two_followers_at_once_count_every_call_once(make_process: MakeProcess, key: str) -> None:
    processes = [make_process() for _ in range(3)]
    await set_prices(processes[0])
    processes[0].feed.record(key, *some_calls(100))
    await asyncio.gather(*(process.catch_up(key) for process in processes))
    await assert_exact(processes[0], key)


async def test_a_follower_cut_off_before_its_commit_leaves_neither_costs_nor_position(
    make_process: MakeProcess, key: str
) -> None:
    process, cut_off = make_process(), make_process(CutOffDatabase)
    await set_prices(process)
    process.feed.record(key, *some_calls(3))
    await process.catch_up(key)
    before = await process.totals(key)
    process.feed.record(key, *some_calls(3))
    at = await process.costs.position(key)
    assert at is not None
    async for page in process.feed.read(key, at):
        with pytest.raises(CutOff):
            await cut_off.rate_calls.apply(key, at, page)
    assert await process.costs.position(key) == at
    assert await process.totals(key) == before
    await process.catch_up(key)
    await assert_exact(process, key)


async def test_a_rewound_ledger_is_priced_anew_to_the_same_answer(make_process: MakeProcess, key: str) -> None:
    processes = [make_process(), make_process()]
    process = processes[0]
    await set_prices(process)
    process.feed.record(key, *some_calls(10, seed=1))
    process.feed.record(key, *some_calls(10, seed=2))
    await process.catch_up(key)
    process.feed.rewind(key, 10)
    process.feed.record(key, *some_calls(15, seed=3))
    await asyncio.gather(*(each.catch_up(key) for each in processes))
    await assert_exact(process, key)


async def test_a_ledger_rewound_to_fewer_events_is_priced_anew(process: Process, key: str) -> None:
    await set_prices(process)
    process.feed.record(key, *some_calls(10))
    await process.catch_up(key)
    process.feed.rewind(key, 4)
    await process.catch_up(key)
    await assert_exact(process, key)


async def test_reversed_calls_cost_nothing_and_a_rebuild_says_the_same(
    process: Process, key: str, postgres: EmbeddedPostgres
) -> None:
    await set_prices(process)
    recorded = some_calls(30)
    process.feed.record(key, *recorded)
    await process.catch_up(key)
    reversed_calls = [each for each in recorded[::3] if each is not None]
    process.feed.record(key, *map(taken_back, reversed_calls))
    await process.catch_up(key)
    await process.prices.set_price(request(price("unheard_of", start=NOON, rates=("0.01", "0.02"))))
    await process.rerate_calls()
    standing = [each for place, each in enumerate(recorded) if place % 3]
    wanted = expected([LedgerEntry(0, each) for each in standing], await process.prices.current())
    followed = await process.totals(key)
    assert followed.providers == wanted.providers
    with psycopg.connect(postgres.url) as owner:
        owner.execute("TRUNCATE analytics.call_costs, analytics.cost_positions")
    await process.catch_up(key)
    assert await process.totals(key) == followed


async def test_dropped_costs_are_rebuilt_to_equal_answers(
    process: Process, key: str, postgres: EmbeddedPostgres
) -> None:
    await set_prices(process)
    process.feed.record(key, *some_calls(30))
    await process.catch_up(key)
    await process.prices.set_price(request(price("unheard_of", start=NOON, rates=("0.01", "0.02"))))
    await process.rerate_calls()
    before = await process.totals(key)
    with psycopg.connect(postgres.url) as owner:
        owner.execute("TRUNCATE analytics.call_costs, analytics.cost_positions")
    assert await process.totals(key) == CostTotals((), applied_sequence=0)
    await process.catch_up(key)
    assert await process.totals(key) == before


async def test_calls_wait_for_the_first_price_and_are_priced_then(process: Process, key: str) -> None:
    process.feed.record(key, None)
    await process.catch_up(key)
    process.feed.record(key, *some_calls(5))
    with pytest.raises(PricesMissing):
        await process.follower.catch_up(key)
    assert (await process.totals(key)).applied_sequence == 1
    await process.prices.set_price(request(price()))
    with pytest.raises(PricesMissing):  # a baseline is missing still
        await process.follower.catch_up(key)
    await set_prices(process)
    await process.catch_up(key)
    await assert_exact(process, key)


async def test_a_price_set_late_is_in_every_cost_after_the_next_rerating(
    process: Process, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RERATED_CALLS", 4)
    await set_prices(process)
    process.feed.record(key, *some_calls(30))
    await process.catch_up(key)
    for late in (
        request(price("unheard_of", start=NOON, rates=("0.01", "0.02"))),
        request(price("github_copilot", start=NOON - timedelta(hours=2), rates=("0.005", "0.006"))),
        request(price("google_code_assist", start=NOON + timedelta(hours=1)), makes_baseline=True),
    ):
        await process.prices.set_price(late)
        await process.rerate_calls()
        await assert_exact(process, key)


async def test_rerating_following_and_new_prices_at_once_end_exact(
    make_process: MakeProcess, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RERATED_CALLS", 4)
    processes = [make_process() for _ in range(3)]
    await set_prices(processes[0])
    process = processes[0]
    process.feed.record(key, *some_calls(60))

    async def set_many() -> None:
        for number in range(6):
            start = NOON + timedelta(hours=number - 3)
            await process.prices.set_price(request(price("unheard_of", start=start, rates=(str(number + 1), "1"))))

    async def rerate_much(each: Process) -> None:
        for _ in range(12):
            await each.rerate_calls()

    await asyncio.gather(
        set_many(), *(each.catch_up(key) for each in processes), *(rerate_much(each) for each in processes)
    )
    await process.rerate_calls()
    await assert_exact(process, key)


async def test_calls_without_a_price_of_their_own_are_flagged_and_counted(
    process: Process, key: str, postgres: EmbeddedPostgres
) -> None:
    await set_prices(process)
    counted = _fallbacks()
    process.feed.record(key, call("unheard_of"), call("github_copilot"))
    await process.catch_up(key)
    assert _fallbacks() - counted == 1
    with psycopg.connect(postgres.url) as owner:
        rows = owner.execute(
            "SELECT provider, is_fallback, baseline_is_fallback, cost_femto_usd > 0 FROM analytics.call_costs"
            " WHERE organization_id = %s ORDER BY sequence",
            (key,),
        ).fetchall()
    assert rows == [("unheard_of", True, False, True), ("github_copilot", False, False, True)]


@contextmanager
def _as_role(url: str, organization_id: str | None) -> Iterator[psycopg.Connection]:
    with psycopg.connect(url) as connection:
        if organization_id is not None:
            connection.execute(set_organization(organization_id))
        yield connection


@pytest.mark.parametrize("role", ["tenant", "writer"])
async def test_a_role_sees_no_rows_but_those_of_the_organization_it_is_bound_to(
    role: str, process: Process, migrated: Callable[[str], dict[str, str]]
) -> None:
    await set_prices(process)
    acme, globex = f"acme-{uuid4().hex}", f"globex-{uuid4().hex}"
    for organization_id in (acme, globex):
        process.feed.record(organization_id, *some_calls(5))
        await process.catch_up(organization_id)
    for table in ("call_costs", "cost_positions"):
        query = f"SELECT DISTINCT organization_id FROM analytics.{table}"  # noqa: S608 - two names of ours
        for bound, seen in ((None, []), (acme, [(acme,)]), (globex, [(globex,)]), ("another", [])):
            with _as_role(migrated("analytics")[role], bound) as connection:
                assert connection.execute(query.encode()).fetchall() == seen


async def test_a_writer_bound_to_one_organization_cannot_write_anothers_rows(
    migrated: Callable[[str], dict[str, str]], key: str, make_process: MakeProcess
) -> None:
    make_process()
    insert = "INSERT INTO analytics.cost_positions VALUES (%s, 0, '', 0)"
    with (
        _as_role(migrated("analytics")["writer"], "another") as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(insert, (key,))


async def test_a_tenant_role_can_change_nothing(
    migrated: Callable[[str], dict[str, str]], key: str, make_process: MakeProcess
) -> None:
    make_process()
    for statement in (
        "UPDATE analytics.call_costs SET cost_femto_usd = 0",
        "DELETE FROM analytics.call_costs",
        "UPDATE analytics.cost_positions SET sequence = 0",
        "DELETE FROM analytics.prices",
        "UPDATE analytics.price_head SET version = 0",
    ):
        with (
            _as_role(migrated("analytics")["tenant"], key) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute(statement.encode())


async def test_prices_are_only_ever_added(migrated: Callable[[str], dict[str, str]], make_process: MakeProcess) -> None:
    make_process()
    for statement in (b"DELETE FROM analytics.prices", b"UPDATE analytics.prices SET input_per_thousand = 0"):
        with (
            _as_role(migrated("analytics")["writer"], None) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute(statement)


def _fallbacks() -> float:
    return next(iter(rate_calls.FALLBACKS.collect())).samples[0].value
