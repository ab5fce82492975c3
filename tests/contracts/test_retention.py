"""The promises of retention's ports, and of the ledger's beyond the horizon, on memory and on Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from kit.clock import unix_microseconds
from kit.errors import OutOfRetention
from kit.feed import START, Position
from kit.postgres.database import Database
from kit.postgres.embedded import EmbeddedPostgres
from kit.testing.clock import FakeClock
from services.metering.adapters.memory import MemoryLedger
from services.metering.adapters.memory_retention import MemoryArchive, MemoryRetention
from services.metering.adapters.memory_usage import MemoryUsageReader
from services.metering.adapters.parquet_archive import ParquetArchive
from services.metering.adapters.postgres_confirmations import PostgresConfirmations
from services.metering.adapters.postgres_ledger import PostgresLedgerHeads, PostgresLedgerReader, PostgresLedgerWriter
from services.metering.adapters.postgres_old_weeks import PostgresOldWeeks
from services.metering.adapters.postgres_usage import PostgresUsageReader
from services.metering.application.ports import (
    Archive,
    Confirmations,
    Interval,
    LedgerReader,
    LedgerWriter,
    OldWeeks,
    UsageReader,
)
from services.metering.application.retire_weeks import Retired, RetireWeeks
from services.metering.domain.errors import HeldBack, HeldReason
from services.metering.domain.events import LedgerEvent, UsageEvent
from services.metering.domain.grouping import Dimension, Filter, SubjectPart
from services.metering.domain.meters import Meter
from services.metering.domain.retention import Confirmation
from services.metering.domain.usage_query import UsageQuery, UsageRow
from services.metering.domain.windows import Window
from tests.old_weeks import OLD, WEEK, moment, old_weeks
from tests.usage_model import METERS, call, reversal, usage

BY_NAME = {each.name: each for each in METERS}
NEXT = OLD + WEEK
FOLLOWERS = ("analytics", "billing")
QUARTER = timedelta(minutes=15)


async def no_pause() -> None:
    return None


@dataclass
class House:
    """A ledger that begins half a year ago, an organization that no other test uses, and what retires old weeks."""

    writer: LedgerWriter
    reader: LedgerReader
    usage_reader: UsageReader
    confirmations: Confirmations
    weeks: OldWeeks
    archive: Archive
    clock: FakeClock = field(default_factory=lambda: FakeClock(datetime.now(UTC)))
    organization_id: str = field(default_factory=lambda: f"org-{uuid4().hex}")

    def event(self, name: str, at: datetime, quantities: dict[str, int] | None = None, **more: Any) -> UsageEvent:
        return usage(name, at, quantities or {"api_calls": 1}, organization_id=self.organization_id, **more)

    async def record(self, *events: UsageEvent, at: datetime) -> list[str]:
        outcomes = await self.writer.append(events, now=at)
        return [outcome.refusal.reason if outcome.refusal else outcome.status.value for outcome in outcomes]

    async def record_two_weeks_and_today(self) -> None:
        """Sequences 1 and 2 in the first week, 3 in the second, 4 now."""
        await self.record(
            self.event("a", moment(hours=1), {"api_calls": 1}),
            self.event("b", moment(hours=2), {"api_calls": 10}),
            at=moment(hours=3),
        )
        await self.record(self.event("c", moment(NEXT, hours=1), {"api_calls": 100}), at=moment(NEXT, hours=1))
        await self.record(self.event("d", self.clock.now(), {"api_calls": 1_000}), at=self.clock.now())

    async def entries(self, after: Position = START) -> list[LedgerEvent]:
        return [entry async for page in self.reader.read(self.organization_id, after) for entry in page.entries]

    async def confirm(self, *followers: str, sequence: int | None = None, needed_from: datetime | None = None) -> int:
        head = (await self.reader.totals(self.organization_id, Interval(None, None), as_of_sequence=None)).position
        position = head if sequence is None else Position(sequence, "")
        said = Confirmation(self.organization_id, position, needed_from)
        return sum(
            [await self.confirmations.confirm(each, [said], now=self.clock.now()) for each in followers or FOLLOWERS]
        )

    def retire_weeks(self, *, archive: bool = True, followers: Sequence[str] = FOLLOWERS) -> RetireWeeks:
        return RetireWeeks(
            self.weeks,
            self.archive if archive else None,
            self.clock,
            retention=timedelta(days=90),
            followers=followers,
            pause=no_pause,
        )

    async def retire(self, **more: Any) -> Retired:
        return await self.retire_weeks(**more)()

    async def held(self, **more: Any) -> HeldReason:
        retired = await self.retire(**more)
        assert retired.dropped == ()
        assert retired.held is not None
        return retired.held.reason

    async def rows(
        self,
        *meters: Meter | str,
        start: datetime | None = None,
        end: datetime | None = None,
        group_by: Sequence[Dimension] = (),
        filters: Sequence[Filter] = (),
        as_of: int | None = None,
    ) -> list[UsageRow]:
        edges = (None if edge is None else unix_microseconds(edge) for edge in (start, end))
        query = UsageQuery(
            meters=tuple(BY_NAME[each] if isinstance(each, str) else each for each in meters),
            windows=(Window(*edges),),
            group_by=tuple(group_by),
            filters=tuple(filters),
        )
        return list((await self.usage_reader.usage(self.organization_id, query, as_of_sequence=as_of)).rows)

    async def total(self, name: str = "api_calls", **asked: Any) -> int | None:
        rows = await self.rows(name, **asked)
        return rows[0].quantity if rows else None

    async def snapshot(self, start: datetime | None = None, end: datetime | None = None) -> int:
        totals = await self.reader.totals(self.organization_id, Interval(start, end), as_of_sequence=None)
        return totals.quantities.get("api_calls", 0)


@pytest.fixture(params=["memory", "postgres"])
async def house(
    request: pytest.FixtureRequest,
    migrated: Callable[[str], dict[str, str]],
    postgres: EmbeddedPostgres,
    tmp_path: Path,
) -> AsyncIterator[House]:
    if request.param == "memory":
        memory = MemoryLedger()
        retention = MemoryRetention(memory)
        yield House(memory, memory, MemoryUsageReader(memory), retention, retention, MemoryArchive())
        return
    databases = {kind: Database(url) for kind, url in migrated("metering").items()}
    with old_weeks(postgres.url, OLD, NEXT):
        yield House(
            PostgresLedgerWriter(databases["writer"]),
            PostgresLedgerReader(databases["tenant"]),
            PostgresUsageReader(databases["tenant"]),
            PostgresConfirmations(databases["writer"]),
            PostgresOldWeeks(databases["fleet"], databases["writer"], PostgresLedgerHeads(databases["fleet"])),
            ParquetArchive(tmp_path / "archive"),
        )
    for database in databases.values():
        await database.close()


# ---- what goes


async def test_weeks_that_are_older_than_the_retention_go_and_younger_ones_stay(house: House) -> None:
    await house.record_two_weeks_and_today()
    await house.confirm()
    assert await house.retire() == Retired((OLD, NEXT))
    assert [entry.event.id for entry in await house.entries(await position_of(house, 3))] == ["d"]
    assert await house.retire() == Retired(())


async def test_a_week_goes_when_its_last_event_is_older_than_the_retention_and_not_before(house: House) -> None:
    await house.record_two_weeks_and_today()
    await house.confirm()
    house.clock = FakeClock(moment(NEXT) + timedelta(days=90) - timedelta(microseconds=1))
    assert await house.retire() == Retired(())
    house.clock = FakeClock(moment(NEXT) + timedelta(days=90))
    assert await house.retire() == Retired((OLD,))


async def position_of(house: House, sequence: int) -> Position:
    totals = await house.reader.totals(house.organization_id, Interval(None, None), as_of_sequence=sequence)
    return totals.position


@pytest.mark.parametrize("silent", FOLLOWERS)
async def test_nothing_goes_until_every_follower_has_confirmed(house: House, silent: str) -> None:
    await house.record_two_weeks_and_today()
    await house.confirm(*(each for each in FOLLOWERS if each != silent))
    assert await house.held() is HeldReason.NOT_PASSED
    await house.confirm(silent, sequence=1)
    assert await house.held() is HeldReason.NOT_PASSED
    await house.confirm(silent, sequence=2)
    retired = await house.retire()
    assert retired.dropped == (OLD,)
    assert retired.held is not None
    assert (retired.held.reason, silent in retired.held.detail, house.organization_id in retired.held.detail) == (
        HeldReason.NOT_PASSED,
        True,
        True,
    )
    assert await house.total() == 1_111


async def test_a_week_with_an_event_of_an_open_period_stays_whatever_its_sequence(house: House) -> None:
    """Received before the close of one period, and belonging to the next."""
    await house.record_two_weeks_and_today()
    await house.confirm("analytics")
    await house.confirm("billing", needed_from=moment(hours=2))
    assert await house.held() is HeldReason.NOT_PASSED
    await house.confirm("billing", needed_from=moment(hours=2, microseconds=1))
    assert (await house.retire()).dropped == (OLD,)


async def test_every_organization_is_waited_for(house: House) -> None:
    await house.record_two_weeks_and_today()
    await house.confirm()
    first, house.organization_id = house.organization_id, f"{house.organization_id}-other"
    await house.record(house.event("a", moment(hours=1)), at=moment(hours=1))
    retired = await house.retire()
    assert retired.held is not None
    assert house.organization_id in retired.held.detail
    await house.confirm()
    assert (await house.retire()).dropped == (OLD, NEXT)
    assert await house.total() == 1
    house.organization_id = first
    assert await house.total() == 1_111


async def test_who_is_not_to_be_waited_for_holds_nothing_back(house: House) -> None:
    await house.record_two_weeks_and_today()
    await house.confirm("analytics")
    assert (await house.retire(followers=["analytics"])).dropped == (OLD, NEXT)


async def test_nothing_goes_without_an_archive(house: House) -> None:
    await house.record_two_weeks_and_today()
    await house.confirm()
    assert await house.held(archive=False) is HeldReason.NO_ARCHIVE
    assert len(await house.entries()) == 4


async def test_a_week_leaves_the_ledger_only_sealed_archived_confirmed_and_in_order(house: House) -> None:
    """The last look is the store's own, whatever the caller believes."""
    await house.record_two_weeks_and_today()
    for step in (
        house.confirm,
        lambda: seal(house, OLD),
        lambda: archive(house, OLD),
    ):
        with pytest.raises(HeldBack, match="REFUSED"):
            await house.weeks.detach(OLD, FOLLOWERS)
        await step()
    with pytest.raises(HeldBack, match="oldest"):
        await house.weeks.detach(NEXT, FOLLOWERS)
    await house.confirm("billing", sequence=1)
    with pytest.raises(HeldBack, match="billing has not passed"):
        await house.weeks.detach(OLD, FOLLOWERS)
    await house.confirm("billing", needed_from=moment(hours=2))
    with pytest.raises(HeldBack, match="billing has not passed"):
        await house.weeks.detach(OLD, FOLLOWERS)
    with pytest.raises(HeldBack, match="not taken out"):
        await house.weeks.drop(OLD)
    assert len(await house.entries()) == 4
    await house.confirm()
    await house.weeks.detach(OLD, FOLLOWERS)
    await house.weeks.drop(OLD)
    await house.weeks.drop(OLD)
    assert await house.total() == 1_111


async def seal(house: House, week: date) -> None:
    for share in await house.weeks.shares(week):
        await house.weeks.seal(week, share)


async def archive(house: House, week: date) -> None:
    shares = await house.weeks.shares(week)

    async def rows() -> AsyncIterator[Any]:
        for share in shares:
            async for page in house.weeks.rows(week, share):
                yield page

    await house.weeks.set_archived(week, await house.archive.write(week, rows()), now=house.clock.now())


async def test_a_file_that_is_gone_or_changed_is_written_again_before_its_week_goes(house: House) -> None:
    await house.record_two_weeks_and_today()
    await seal(house, OLD)
    await archive(house, OLD)
    file = await house.weeks.archived(OLD)
    assert file is not None
    assert (file.row_count, await house.archive.holds(file)) == (2, True)
    if isinstance(house.archive, MemoryArchive):
        house.archive.files[file.name] = b"changed"
    elif isinstance(house.archive, ParquetArchive):
        (house.archive._folder / file.name).write_bytes(b"changed")
    assert not await house.archive.holds(file)
    await house.confirm()
    assert (await house.retire()).dropped == (OLD, NEXT)
    again = await house.weeks.archived(OLD)
    assert again is not None
    assert await house.archive.holds(again)


async def test_what_was_sealed_twice_counts_once(house: House) -> None:
    await house.record_two_weeks_and_today()
    await house.confirm()
    await asyncio.gather(*(seal(house, OLD) for _ in range(4)))
    assert (await house.retire()).dropped == (OLD, NEXT)
    assert await house.total() == 1_111


async def test_two_at_once_retire_each_week_once(house: House) -> None:
    await house.record_two_weeks_and_today()
    await house.confirm()
    retired = await asyncio.gather(*(house.retire() for _ in range(3)))
    assert sorted(week for each in retired for week in each.dropped) == [OLD, NEXT]
    assert [each.held for each in retired] == [None] * 3
    assert await house.total() == 1_111


# ---- confirmations


async def test_a_confirmation_ahead_of_the_ledger_or_of_another_history_is_not_kept(house: House) -> None:
    await house.record_two_weeks_and_today()
    assert await house.confirm("billing", sequence=5) == 0
    said = [
        Confirmation(house.organization_id, Position(4, "another"), None),
        Confirmation("org-unheard-of", Position(0, ""), None),
    ]
    assert await house.confirmations.confirm("billing", said, now=house.clock.now()) == 0
    assert ("billing", house.organization_id) not in await house.weeks.confirmations()


async def test_the_last_confirmation_counts_also_when_it_is_further_back(house: House) -> None:
    await house.record_two_weeks_and_today()
    await house.confirm()
    await house.confirm("analytics", sequence=0)
    assert await house.held() is HeldReason.NOT_PASSED


async def test_receive_times_never_go_back_within_a_ledger(house: House) -> None:
    """Clocks of processes disagree, and a batch may wait: else a week would not be a prefix of the ledger."""
    late = moment(NEXT, microseconds=1)
    await house.record(house.event("ahead", moment(hours=1)), at=late)
    await house.record(house.event("behind", moment(hours=1)), at=moment(NEXT) - timedelta(seconds=2))
    await house.record(house.event("later", moment(hours=1)), at=moment(NEXT, hours=1))
    received = [entry.receive_time_us for entry in await house.entries()]
    assert received == [unix_microseconds(each) for each in (late, late, moment(NEXT, hours=1))]


# ---- what can be read afterwards


@pytest.fixture
async def dropped(house: House) -> House:
    """Two weeks gone: sequences 1 to 3 of 4."""
    await house.record_two_weeks_and_today()
    await house.confirm()
    assert (await house.retire()).dropped == (OLD, NEXT)
    return house


async def test_totals_over_full_buckets_stay_what_they_were(dropped: House) -> None:
    for start, end, quantity in (
        (None, None, 1_111),
        (moment(), None, 1_111),
        (moment(hours=1), moment(hours=2), 1),
        (moment(hours=1), moment(hours=2, minutes=15), 11),
        (moment(NEXT), moment(NEXT, days=1), 100),
        (moment(NEXT, days=1), None, 1_000),
    ):
        assert await dropped.total(start=start, end=end) == quantity
        assert await dropped.snapshot(start, end) == quantity
    assert await dropped.total("batches") is None
    assert [row.quantity for row in await dropped.rows("api_calls", group_by=[SubjectPart.USER])] == [1_111]


async def test_an_edge_within_a_bucket_of_dropped_usage_is_refused_and_elsewhere_answered(dropped: House) -> None:
    inside, beside = moment(hours=1, minutes=1), moment(hours=3, minutes=1)
    asks: list[dict[str, Any]] = [
        {"start": inside},
        {"end": inside},
        {"start": inside, "end": inside + timedelta(minutes=1)},
    ]
    for asked in asks:
        with pytest.raises(OutOfRetention):
            await dropped.total(**asked)
        with pytest.raises(OutOfRetention):
            await dropped.snapshot(**asked)
    assert await dropped.total(start=beside) == 1_100
    assert await dropped.total(end=beside) == 11
    assert await dropped.snapshot(end=beside) == 11
    # Of another meter nothing was dropped there.
    assert await dropped.total("batches", start=inside) is None


async def test_what_needs_events_is_refused_over_dropped_usage_and_answered_after_it(house: House) -> None:
    everything = {each.name: 3 for each in METERS}
    now = house.clock.now()
    await house.record(
        house.event("a", moment(hours=1), everything, user="u", provider_call=call(output=3), labels={"env": "x"}),
        at=moment(hours=1),
    )
    await house.record(
        house.event("b", now, everything, user="v", provider_call=call(output=3, latency_ns=9_000_000)), at=now
    )
    await house.confirm()
    assert OLD in (await house.retire()).dropped
    # All of "a" is gone, and the latency of its call was not known.
    needing = ("peak", "level", "users", "environments", "storage")
    for name in needing:
        with pytest.raises(OutOfRetention):
            await house.rows(name, start=moment(), end=now + QUARTER)
    with pytest.raises(OutOfRetention):
        await house.rows("api_calls", start=moment(), group_by=[SubjectPart.TASK])
    with pytest.raises(OutOfRetention):
        await house.rows("tokens", start=moment(), filters=[Filter(SubjectPart.SESSION, frozenset([""]))])
    since: dict[str, Any] = {"start": now - timedelta(days=1), "end": now + QUARTER}
    for name, quantity in (("peak", 3), ("level", 3), ("users", 1), ("environments", None), ("slowest", 9)):
        assert await house.total(name, **since) == quantity
    # What held before the interval is carried in, and is not known any more.
    with pytest.raises(OutOfRetention):
        await house.rows("storage", **since)
    assert await house.total("tokens", start=moment()) == 6
    assert await house.total("latency", start=moment()) == 9


async def test_totals_as_of_a_sequence_before_the_horizon_are_refused(dropped: House) -> None:
    for sequence in (1, 2):
        with pytest.raises(OutOfRetention):
            await dropped.total(as_of=sequence)
        with pytest.raises(OutOfRetention):
            await dropped.reader.totals(dropped.organization_id, Interval(None, None), as_of_sequence=sequence)
    assert [await dropped.total(as_of=sequence) for sequence in (3, 4)] == [111, 1_111]


async def test_a_reader_before_the_horizon_is_told_so_and_one_at_it_reads_on(dropped: House) -> None:
    for position in (START, Position(2, "whatever")):
        with pytest.raises(OutOfRetention):
            await dropped.entries(position)
    assert [entry.sequence for entry in await dropped.entries(await position_of(dropped, 3))] == [4]


async def test_a_listing_says_where_it_begins(dropped: House) -> None:
    page = await dropped.reader.page(dropped.organization_id, Interval(None, None), after_sequence=0, count=10)
    assert ([entry.event.id for entry in page.entries], page.horizon) == (["d"], 3)


async def test_identities_outlive_their_events(dropped: House) -> None:
    event = dropped.event("a", moment(hours=1), {"api_calls": 1})
    changed = dropped.event("a", moment(hours=1), {"api_calls": 2})
    assert await dropped.record(event, changed, at=dropped.clock.now()) == ["DUPLICATE", "CONTENT_CONFLICT"]
    assert await dropped.total() == 1_111


async def test_a_dropped_event_cannot_be_reversed_and_a_kept_one_can(dropped: House) -> None:
    undo = [reversal(f"undo {name}", name, organization_id=dropped.organization_id) for name in ("a", "d")]
    assert await dropped.record(*undo, at=dropped.clock.now()) == ["OUT_OF_RETENTION", "ACCEPTED"]
    assert await dropped.total() == 111


async def test_a_reversal_outlives_what_it_takes_back(house: House) -> None:
    await house.record(house.event("a", moment(hours=1), {"api_calls": 7}), at=moment(hours=1))
    undo = reversal("undo", "a", organization_id=house.organization_id)
    assert await house.record(undo, at=house.clock.now()) == ["ACCEPTED"]
    await house.confirm()
    assert OLD in (await house.retire()).dropped
    assert await house.total() is None
    assert await house.total(as_of=1) == 7
    assert await house.record(undo, at=house.clock.now()) == ["DUPLICATE"]


async def test_a_dropped_reversal_leaves_what_it_took_back_uncounted(house: House) -> None:
    await house.record(
        house.event("a", moment(hours=1), {"api_calls": 7}),
        reversal("undo", "a", organization_id=house.organization_id),
        house.event("b", moment(hours=1), {"api_calls": 2}),
        at=moment(hours=1),
    )
    await house.confirm()
    assert OLD in (await house.retire()).dropped
    assert await house.total() == 2
    assert await house.total(start=moment(hours=1), end=moment(hours=1, minutes=15)) == 2


async def test_late_usage_of_a_dropped_time_is_added_to_it(dropped: House) -> None:
    await dropped.record(dropped.event("late", moment(hours=1), {"api_calls": 5}), at=dropped.clock.now())
    assert await dropped.total(start=moment(hours=1), end=moment(hours=2)) == 6
    with pytest.raises(OutOfRetention):
        await dropped.total(start=moment(hours=1, minutes=1))


async def test_a_ledger_that_was_dropped_whole_goes_on(house: House) -> None:
    await house.record(house.event("a", moment(hours=1)), at=moment(hours=1))
    head = await position_of(house, 1)
    await house.confirm()
    assert OLD in (await house.retire()).dropped
    assert await house.entries(head) == []
    with pytest.raises(OutOfRetention):
        await house.entries()
    assert await house.record(house.event("b", house.clock.now()), at=house.clock.now()) == ["ACCEPTED"]
    assert [entry.sequence for entry in await house.entries(head)] == [2]
    assert await house.total() == 2
