"""The promises of analytics' ports, on memory and on Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest

from kit.errors import AlreadyExists, RequestIdReused
from kit.feed import START, Position
from kit.postgres.database import Database
from kit.postgres.embedded import EmbeddedPostgres
from services.analytics.adapters.memory import MemoryCosts, MemoryPriceBook
from services.analytics.adapters.postgres_costs import PostgresCostReader, PostgresCostRerater, PostgresCostWriter
from services.analytics.adapters.postgres_prices import PostgresPriceBook
from services.analytics.application.ports import CostReader, CostRerater, CostTotals, CostWriter, PriceBook
from services.analytics.domain.calls import taken_back
from services.analytics.domain.days import Interval
from services.analytics.domain.prices import BEGINNING, END, Rates
from services.analytics.domain.pricing import Costs, RatedCall
from services.analytics.domain.summary import ProviderTotal
from tests.integration.analytics_store import EMPTY_ANALYTICS
from tests.unit.analytics.samples import NOON, call, price, request

ALWAYS = Interval(datetime(1970, 1, 1, tzinfo=UTC), datetime(2970, 1, 1, tzinfo=UTC))
FIRST, SECOND, THIRD = Position(2, "aa"), Position(5, "bb"), Position(9, "cc")
HUGE = 10**47


@dataclass
class Store:
    """The ports over one store without prices, and an organization that no other test uses."""

    prices: PriceBook
    writer: CostWriter
    rerater: CostRerater
    reader: CostReader
    organization_id: str

    async def append(self, after: Position, upto: Position, *calls: RatedCall, price_version: int = 1) -> bool:
        return await self.writer.append(self.organization_id, after, upto, calls, price_version=price_version)

    async def begin(self, price_version: int = 0) -> None:
        await self.writer.begin(self.organization_id, price_version=price_version)

    async def totals(self, interval: Interval = ALWAYS) -> CostTotals:
        return await self.reader.totals(self.organization_id, interval)

    async def calls_before(
        self, price_version: int, *, since: datetime = BEGINNING, after: int = 0, count: int = 10
    ) -> list[RatedCall]:
        return list(
            await self.rerater.calls_before(
                self.organization_id, price_version, since=since, after_sequence=after, count=count
            )
        )

    async def finish(self, *, from_version: int, to_version: int, since: datetime = BEGINNING, upto: int = 0) -> bool:
        return await self.rerater.finish_rerating(
            self.organization_id, from_version=from_version, to_version=to_version, since=since, upto_sequence=upto
        )


@pytest.fixture(params=["memory", "postgres"])
async def store(
    request: pytest.FixtureRequest, postgres: EmbeddedPostgres, migrated: Callable[[str], dict[str, str]]
) -> AsyncIterator[Store]:
    organization_id = f"org-{uuid4().hex}"
    if request.param == "memory":
        book = MemoryPriceBook()
        costs = MemoryCosts(book)
        yield Store(book, costs, costs, costs, organization_id)
        return
    databases = {kind: Database(url) for kind, url in migrated("analytics").items()}
    with psycopg.connect(postgres.url) as owner:
        owner.execute(EMPTY_ANALYTICS)
    tenant, writer, fleet = databases["tenant"], databases["writer"], databases["fleet"]
    yield Store(
        PostgresPriceBook(tenant, writer),
        PostgresCostWriter(writer),
        PostgresCostRerater(writer, fleet),
        PostgresCostReader(tenant),
        organization_id,
    )
    for database in databases.values():
        await database.close()


def rated(sequence: int, cost: int = 7, *, version: int = 1, provider: str = "p", at: datetime = NOON) -> RatedCall:
    costs = Costs(cost_femto_usd=cost, baseline_femto_usd=cost * 2, is_fallback=False, baseline_is_fallback=True)
    return RatedCall(sequence, call(provider, event_time=at), costs, version)


def total(provider: str, cost: int, calls: int) -> ProviderTotal:
    return ProviderTotal(provider=provider, cost_femto_usd=cost, baseline_femto_usd=cost * 2, call_count=calls)


# ---- PriceBook


async def test_a_new_price_book_is_empty(store: Store) -> None:
    table = await store.prices.current()
    assert (table.version, table.prices, table.baseline_provider) == (0, (), "")


async def test_a_price_reads_back_as_it_was_set_to_the_last_decimal(store: Store) -> None:
    wanted = [
        price("a", rates=("0.000000000001", "9" * 18 + "." + "9" * 12), cache=("0", "0.1")),
        price("a", model="m", start=NOON + timedelta(microseconds=1)),
        price("b", start=datetime(1, 1, 1, tzinfo=UTC)),
        price("b", model="z", start=datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
    ]
    for each in wanted:
        assert await store.prices.set_price(request(each)) == each
    table = await store.prices.current()
    assert list(table.prices) == wanted
    assert table.version == 4


async def test_a_price_is_in_the_table_when_set_price_returns(store: Store) -> None:
    for number in range(1, 4):
        asked = price("a", start=NOON + timedelta(days=number))
        await store.prices.set_price(request(asked))
        assert asked in (await store.prices.current()).prices


async def test_the_same_price_again_makes_no_version(store: Store) -> None:
    await store.prices.set_price(request(price(), makes_baseline=True))
    assert await store.prices.set_price(request(price(cache=("0.002", "")), makes_baseline=True)) == price()
    table = await store.prices.current()
    assert (table.version, len(table.prices)) == (1, 1)


async def test_a_refused_price_changes_nothing_and_its_request_id_stays_free(store: Store) -> None:
    await store.prices.set_price(request(price()))
    with pytest.raises(AlreadyExists):
        await store.prices.set_price(request(price(rates=("9", "9")), makes_baseline=True, request_id="r"))
    table = await store.prices.current()
    assert (table.version, table.prices, table.baseline_provider) == (1, (price(),), "")
    await store.prices.set_price(request(price("b"), request_id="r"))


async def test_the_baseline_is_the_provider_that_was_made_it_last(store: Store) -> None:
    await store.prices.set_price(request(price("a"), makes_baseline=True))
    await store.prices.set_price(request(price("b"), makes_baseline=True))
    await store.prices.set_price(request(price("c")))
    assert (await store.prices.current()).baseline_provider == "b"
    await store.prices.set_price(request(price("a"), makes_baseline=True))
    table = await store.prices.current()
    assert (table.baseline_provider, table.version) == ("a", 4)
    assert table.changed_since(3) == BEGINNING
    assert table.changed_since(4) == END


async def test_a_repeated_request_changes_nothing_and_another_content_under_its_id_is_refused(store: Store) -> None:
    first = request(price("a"), makes_baseline=True)
    await store.prices.set_price(first)
    await store.prices.set_price(request(price("b"), makes_baseline=True))
    assert await store.prices.set_price(first) == price("a")
    assert (await store.prices.current()).baseline_provider == "b"
    with pytest.raises(RequestIdReused):
        await store.prices.set_price(replace(first, makes_baseline=False))


async def test_concurrent_requests_get_one_version_each_and_copies_one_together(store: Store) -> None:
    asked = [request(price("a", start=NOON + timedelta(hours=number // 2))) for number in range(12)]
    await asyncio.gather(*(store.prices.set_price(each) for each in asked))
    table = await store.prices.current()
    assert (table.version, len(table.prices)) == (6, 6)


async def test_of_concurrent_different_prices_for_one_instant_one_is_kept(store: Store) -> None:
    asked = [request(price(rates=(str(number), "1"))) for number in range(6)]
    answers = await asyncio.gather(*(store.prices.set_price(each) for each in asked), return_exceptions=True)
    assert sum(isinstance(answer, AlreadyExists) for answer in answers) == 5
    assert [each for each in answers if not isinstance(each, AlreadyExists)] == list(
        (await store.prices.current()).prices
    )


async def test_a_table_in_hand_does_not_change(store: Store) -> None:
    await store.prices.set_price(request(price(rates=("1", "1")), makes_baseline=True))
    table = await store.prices.current()
    await store.prices.set_price(request(price(rates=("2", "2"), start=NOON)))
    assert table.quote("openai_codex", "", NOON).rates == Rates(
        input=10**12, cache_read=10**12, cache_write=10**12, output=10**12
    )


# ---- CostWriter


async def test_an_organization_never_begun_has_no_position_and_no_costs(store: Store) -> None:
    assert await store.writer.position(store.organization_id) is None
    assert await store.totals() == CostTotals((), applied_sequence=0)
    assert await store.rerater.price_version(store.organization_id) is None
    assert not await store.append(START, FIRST, rated(1))
    assert await store.totals() == CostTotals((), applied_sequence=0)


async def test_an_organization_begins_at_the_start_once(store: Store) -> None:
    await store.begin()
    assert await store.writer.position(store.organization_id) == START
    await store.append(START, FIRST, rated(1))
    await store.begin(price_version=9)
    assert await store.writer.position(store.organization_id) == FIRST
    assert await store.rerater.price_version(store.organization_id) == 0
    assert (await store.totals()).providers == (total("p", 7, 1),)


async def test_calls_and_position_arrive_together(store: Store) -> None:
    await store.begin()
    assert await store.append(START, FIRST, rated(1), rated(2, 10))
    assert await store.writer.position(store.organization_id) == FIRST
    assert await store.totals() == CostTotals((total("p", 17, 2),), applied_sequence=2)


async def test_a_page_without_calls_moves_the_position_alone(store: Store) -> None:
    await store.begin()
    assert await store.append(START, FIRST)
    assert await store.totals() == CostTotals((), applied_sequence=2)


async def test_a_page_applied_again_is_not_counted_again(store: Store) -> None:
    await store.begin()
    assert await store.append(START, FIRST, rated(1))
    assert not await store.append(START, FIRST, rated(1))
    assert await store.append(FIRST, SECOND, rated(3))
    assert not await store.append(FIRST, SECOND, rated(3))
    assert not await store.append(Position(SECOND.sequence, "other"), THIRD, rated(6))
    assert await store.totals() == CostTotals((total("p", 14, 2),), applied_sequence=5)


async def test_of_copies_of_a_page_at_the_same_time_one_is_counted(store: Store) -> None:
    await store.begin()
    answers = await asyncio.gather(*(store.append(START, FIRST, rated(1), rated(2)) for _ in range(8)))
    assert sorted(answers) == [False] * 7 + [True]
    assert await store.totals() == CostTotals((total("p", 14, 2),), applied_sequence=2)


async def test_costs_of_any_size_come_back_exact(store: Store) -> None:
    await store.begin()
    await store.append(START, FIRST, rated(1, HUGE), rated(2, 1), rated(3, 0))
    (found,) = (await store.totals()).providers
    assert (found.cost_femto_usd, found.baseline_femto_usd) == (HUGE + 1, 2 * HUGE + 2)


async def test_a_restart_forgets_the_calls_and_begins_anew(store: Store) -> None:
    await store.begin()
    await store.append(START, FIRST, rated(1))
    assert await store.writer.restart(store.organization_id, FIRST, price_version=3)
    assert await store.totals() == CostTotals((), applied_sequence=0)
    assert await store.writer.position(store.organization_id) == START
    assert await store.rerater.price_version(store.organization_id) == 3
    assert await store.append(START, SECOND, rated(1), price_version=3)


async def test_a_restart_from_elsewhere_forgets_nothing(store: Store) -> None:
    await store.begin()
    await store.append(START, FIRST, rated(1))
    for elsewhere in (START, SECOND, Position(FIRST.sequence, "other")):
        assert not await store.writer.restart(store.organization_id, elsewhere, price_version=3)
    assert await store.totals() == CostTotals((total("p", 7, 1),), applied_sequence=2)


async def test_calls_priced_with_an_outdated_table_are_not_kept(store: Store) -> None:
    await store.begin(price_version=2)
    assert not await store.append(START, FIRST, rated(1), price_version=1)
    assert await store.totals() == CostTotals((), applied_sequence=0)
    assert await store.append(START, FIRST, rated(1), price_version=2)


# ---- CostReader


async def test_totals_count_a_half_open_interval_to_the_microsecond(store: Store) -> None:
    await store.begin()
    offsets_us = (-1, 0, 1, 999_999, 1_000_000)
    calls = [
        rated(number, 10**number, at=NOON + timedelta(microseconds=offset))
        for number, offset in enumerate(offsets_us, start=1)
    ]
    await store.append(START, SECOND, *calls)
    found = await store.totals(Interval(NOON, NOON + timedelta(seconds=1)))
    assert found == CostTotals((total("p", 11_100, 3),), applied_sequence=5)
    assert (await store.totals(Interval(NOON, NOON))).providers == ()


async def test_totals_are_per_provider(store: Store) -> None:
    await store.begin()
    await store.append(START, SECOND, rated(1, 1, provider="b"), rated(2, 2, provider="a"), rated(3, 4, provider="b"))
    assert (await store.totals()).providers == (total("a", 2, 1), total("b", 5, 2))


def taken_back_again(of: RatedCall, sequence: int) -> RatedCall:
    costs = replace(
        of.costs,
        cost_femto_usd=-of.costs.cost_femto_usd,
        baseline_femto_usd=-of.costs.baseline_femto_usd,
    )
    return RatedCall(sequence, taken_back(of.call), costs, of.price_version)


async def test_a_call_that_is_taken_back_counts_in_neither_cost_nor_number(store: Store) -> None:
    await store.begin()
    first, huge, last = rated(1, 7), rated(2, HUGE), rated(3, 5, provider="q")
    await store.append(START, FIRST, first, huge, last)
    await store.append(FIRST, SECOND, taken_back_again(huge, 4), taken_back_again(last, 5))
    assert (await store.totals()).providers == (total("p", 7, 1),)
    assert (await store.totals(Interval(NOON + timedelta(microseconds=1), ALWAYS.end))).providers == ()


async def test_a_call_that_is_taken_back_is_rerated_as_the_call_is(store: Store) -> None:
    await _at_version_two(store)
    first = rated(1, 7)
    back = taken_back_again(first, 2)
    await store.append(START, FIRST, first, back)
    assert await store.calls_before(2) == [first, back]
    newer = rated(1, 9, version=2)
    replaced = [newer, taken_back_again(newer, 2)]
    assert await store.rerater.replace_costs(store.organization_id, replaced, price_version=2)
    assert (await store.totals()).providers == ()


async def test_totals_are_of_one_organization(store: Store) -> None:
    other = f"{store.organization_id}-other"
    for organization_id in (store.organization_id, other):
        await store.writer.begin(organization_id, price_version=0)
    await store.append(START, FIRST, rated(1, 1))
    await store.writer.append(other, START, SECOND, [rated(1, 100)], price_version=1)
    assert await store.totals() == CostTotals((total("p", 1, 1),), applied_sequence=2)
    await store.writer.restart(other, SECOND, price_version=1)
    assert await store.totals() == CostTotals((total("p", 1, 1),), applied_sequence=2)


# ---- CostRerater


async def _at_version_two(store: Store) -> None:
    await store.prices.set_price(request(price(), makes_baseline=True))
    await store.prices.set_price(request(price(start=NOON)))
    await store.begin(price_version=1)


async def test_organizations_behind_a_table_are_named(store: Store) -> None:
    await store.begin(price_version=1)
    assert store.organization_id in await store.rerater.organizations_before(2)
    assert store.organization_id not in await store.rerater.organizations_before(1)


async def test_calls_to_rerate_come_in_sequence_with_all_that_prices_need(store: Store) -> None:
    await store.begin()
    calls = [
        rated(1, at=NOON - timedelta(microseconds=1)),
        rated(2, HUGE),
        rated(3, version=2),
        rated(4),
    ]
    await store.append(START, SECOND, *calls, price_version=2)
    assert await store.calls_before(2) == [calls[0], calls[1], calls[3]]
    assert await store.calls_before(2, since=NOON, count=1) == [calls[1]]
    assert await store.calls_before(2, since=NOON, after=2) == [calls[3]]
    assert await store.calls_before(1) == []


async def test_replaced_costs_are_what_totals_count(store: Store) -> None:
    await _at_version_two(store)
    await store.append(START, SECOND, rated(1, 1), rated(2, 2))
    assert await store.rerater.replace_costs(store.organization_id, [rated(2, HUGE, version=2)], price_version=2)
    assert (await store.totals()).providers == (total("p", HUGE + 1, 2),)
    assert await store.calls_before(2) == [rated(1, 1)]


async def test_costs_of_calls_that_are_gone_are_not_brought_back(store: Store) -> None:
    await _at_version_two(store)
    assert await store.rerater.replace_costs(store.organization_id, [rated(2, 2, version=2)], price_version=2)
    assert await store.totals() == CostTotals((), applied_sequence=0)


async def test_costs_of_an_outdated_table_replace_nothing(store: Store) -> None:
    await _at_version_two(store)
    await store.append(START, SECOND, rated(1, 1))
    assert not await store.rerater.replace_costs(store.organization_id, [rated(1, 9)], price_version=1)
    assert (await store.totals()).providers == (total("p", 1, 1),)


async def test_a_finished_rerating_refuses_calls_of_earlier_tables(store: Store) -> None:
    await store.begin(price_version=1)
    assert await store.finish(from_version=1, to_version=2)
    assert await store.rerater.price_version(store.organization_id) == 2
    assert not await store.append(START, FIRST, rated(1), price_version=1)


async def test_a_rerating_is_not_finished_while_calls_of_earlier_tables_are_left(store: Store) -> None:
    await store.begin(price_version=1)
    await store.append(START, SECOND, rated(1), rated(2), rated(3, version=2))
    assert not await store.finish(from_version=1, to_version=2, upto=1)
    assert await store.finish(from_version=1, to_version=2, upto=2)


async def test_calls_that_new_prices_do_not_concern_do_not_hold_up_the_finish(store: Store) -> None:
    await store.begin(price_version=1)
    await store.append(START, SECOND, rated(1))
    assert await store.finish(from_version=1, to_version=2, since=NOON + timedelta(microseconds=1))


async def test_a_rerating_that_another_one_finished_is_not_finished_again(store: Store) -> None:
    await store.begin(price_version=1)
    assert await store.finish(from_version=1, to_version=3)
    assert not await store.finish(from_version=1, to_version=2)
    assert await store.rerater.price_version(store.organization_id) == 3
