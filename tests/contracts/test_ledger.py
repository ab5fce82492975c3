"""The promises of the ledger's ports, on memory and on Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from kit.clock import unix_microseconds
from kit.errors import DependencyUnavailable, LogRewound
from kit.feed import START, Position
from kit.head_watch import FROM_THE_START
from kit.postgres.database import Database
from kit.postgres.embedded import EmbeddedPostgres
from services.metering.adapters.memory import MemoryLedger
from services.metering.adapters.postgres_ledger import (
    PostgresLedgerHeads,
    PostgresLedgerReader,
    PostgresLedgerWriter,
)
from services.metering.application.ports import Interval, LedgerHeads, LedgerReader, LedgerWriter
from services.metering.domain import limits
from services.metering.domain.acceptance import Outcome, Status
from services.metering.domain.digests import content_digest, identity_digest
from services.metering.domain.events import (
    EventRef,
    LedgerEvent,
    Measurement,
    ProviderCall,
    Subject,
    TaskOutcome,
    UsageEvent,
)
from services.metering.domain.grouping import SubjectPart
from services.metering.domain.members import LevelMeters, MemberTotals

ALWAYS = Interval(None, None)


@dataclass
class Ledger:
    """The three ports over one store, and an organization that no other test uses."""

    writer: LedgerWriter
    reader: LedgerReader
    heads: LedgerHeads
    organization_id: str
    now: datetime

    def event(self, event_id: str, quantity: int = 1, *, ago: timedelta = timedelta(minutes=1)) -> UsageEvent:
        return UsageEvent(
            id=event_id,
            source="tests",
            subject=Subject(organization_id=self.organization_id),
            event_time_ns=unix_microseconds(self.now - ago) * 1_000,
            measurements=(Measurement("api_calls", quantity),),
        )

    async def append(self, *events: UsageEvent) -> list[Outcome]:
        return list(await self.writer.append(events, now=self.now))

    async def total(self, interval: Interval = ALWAYS, *, as_of: int | None = None) -> int:
        totals = await self.reader.totals(self.organization_id, interval, as_of_sequence=as_of)
        return totals.quantities.get("api_calls", 0)

    def reversal(self, event_id: str, target_id: str, *, source: str = "tests") -> UsageEvent:
        return UsageEvent(
            id=event_id,
            source="tests",
            subject=Subject(organization_id=self.organization_id),
            event_time_ns=None,
            measurements=(),
            reversal_of=EventRef(source, target_id),
        )

    async def reasons(self, *events: UsageEvent) -> list[str]:
        outcomes = await self.append(*events)
        return [outcome.refusal.reason if outcome.refusal else outcome.status.value for outcome in outcomes]

    async def page(self, interval: Interval = ALWAYS, *, after: int = 0, count: int = 10) -> list[str]:
        found = await self.reader.page(self.organization_id, interval, after_sequence=after, count=count)
        return [entry.event.id for entry in found.entries]

    async def entries(self, after: Position = START) -> list[LedgerEvent]:
        return [entry async for page in self.reader.read(self.organization_id, after) for entry in page.entries]


@pytest.fixture
def age(ledger: Ledger, postgres: EmbeddedPostgres) -> Callable[[UsageEvent], None]:
    """Makes the ledger remember an event as if it had been recorded with the first version of the content digest."""

    def as_first_version(event: UsageEvent) -> None:
        identity, content = identity_digest(event), content_digest(event, version=1)
        if isinstance(ledger.writer, MemoryLedger):
            recorded = ledger.writer._recorded[ledger.organization_id]
            recorded[identity] = replace(recorded[identity], content=content, content_version=1)
            return
        with psycopg.connect(postgres.url) as owner:
            changed = owner.execute(
                "UPDATE metering.event_identities SET content = %s, content_version = 1"
                " WHERE organization_id = %s AND identity = %s",
                (content, ledger.organization_id, identity),
            )
            assert changed.rowcount == 1

    return as_first_version


@pytest.fixture(params=["memory", "postgres"])
async def ledger(request: pytest.FixtureRequest, migrated: Callable[[str], dict[str, str]]) -> AsyncIterator[Ledger]:
    place = {"organization_id": f"org-{uuid4().hex}", "now": datetime.now(UTC)}
    if request.param == "memory":
        memory = MemoryLedger()
        yield Ledger(memory, memory, memory, **place)  # type: ignore[arg-type]
        return
    databases = {kind: Database(url) for kind, url in migrated("metering").items()}
    yield Ledger(
        PostgresLedgerWriter(databases["writer"]),
        PostgresLedgerReader(databases["tenant"]),
        PostgresLedgerHeads(databases["fleet"]),
        **place,  # type: ignore[arg-type]
    )
    for database in databases.values():
        await database.close()


async def test_an_event_is_counted_once_however_often_it_is_sent(ledger: Ledger) -> None:
    event = ledger.event("a", 7)
    assert await ledger.append(event) == [Outcome(Status.ACCEPTED, 1)]
    assert await ledger.append(event) == [Outcome(Status.DUPLICATE, 1)]
    assert await ledger.total() == 7


async def test_a_duplicate_inside_one_batch_is_counted_once(ledger: Ledger) -> None:
    event = ledger.event("a", 7)
    assert await ledger.append(event, event) == [Outcome(Status.ACCEPTED, 1), Outcome(Status.DUPLICATE, 1)]
    assert await ledger.total() == 7


async def test_the_same_id_with_another_time_is_a_conflict_and_not_counted(ledger: Ledger) -> None:
    await ledger.append(ledger.event("a", 7))
    outcome = (await ledger.append(ledger.event("a", 7, ago=timedelta(hours=1))))[0]
    assert outcome.status is Status.CONFLICT
    assert outcome.refusal is not None
    assert outcome.refusal.reason == "CONTENT_CONFLICT"
    assert await ledger.total() == 7


async def test_a_conflict_leaves_the_rest_of_its_batch_standing(ledger: Ledger) -> None:
    await ledger.append(ledger.event("a", 1))
    outcomes = await ledger.append(ledger.event("b", 10), ledger.event("a", 2), ledger.event("c", 100))
    assert [outcome.status for outcome in outcomes] == [Status.ACCEPTED, Status.CONFLICT, Status.ACCEPTED]
    assert [outcome.sequence for outcome in outcomes] == [2, 0, 3]
    assert await ledger.total() == 111


async def test_events_outside_the_time_window_are_refused_but_stay_duplicates_once_recorded(ledger: Ledger) -> None:
    old, early = limits.ACCEPTED_BACK + timedelta(seconds=1), -limits.ACCEPTED_AHEAD - timedelta(seconds=1)
    outcomes = await ledger.append(ledger.event("old", ago=old), ledger.event("early", ago=early))
    assert [outcome.refusal and outcome.refusal.reason for outcome in outcomes] == ["EVENT_TOO_OLD", "EVENT_IN_FUTURE"]
    edge = ledger.event("edge", ago=limits.ACCEPTED_BACK)
    assert (await ledger.append(edge))[0].status is Status.ACCEPTED
    ledger.now += timedelta(days=400)
    assert (await ledger.append(edge))[0].status is Status.DUPLICATE


async def test_concurrent_copies_of_one_batch_are_counted_once(ledger: Ledger) -> None:
    batch = [ledger.event(f"e{number}") for number in range(50)]
    answers = await asyncio.gather(*(ledger.append(*batch) for _ in range(8)))
    accepted = [outcome for answer in answers for outcome in answer if outcome.status is Status.ACCEPTED]
    assert len(accepted) == 50
    assert {outcome.status for answer in answers for outcome in answer} == {Status.ACCEPTED, Status.DUPLICATE}
    assert await ledger.total() == 50


async def test_sequences_are_gapless_in_the_order_of_the_ledger(ledger: Ledger) -> None:
    batches = [[ledger.event(f"{batch}-{number}") for number in range(7)] for batch in range(20)]
    await asyncio.gather(*(ledger.append(*batch) for batch in batches))
    assert [entry.sequence for entry in await ledger.entries()] == list(range(1, 141))


async def test_batches_of_shared_organizations_in_any_order_do_not_deadlock(ledger: Ledger) -> None:
    organizations = [f"{ledger.organization_id}-{number}" for number in range(6)]

    def batch(name: str, order: list[str]) -> list[UsageEvent]:
        event = ledger.event(name)
        return [replace(event, subject=Subject(organization_id=organization_id)) for organization_id in order]

    orders = [organizations, organizations[::-1], organizations[3:] + organizations[:3]] * 5
    answers = await asyncio.gather(*(ledger.append(*batch(f"b{number}", order)) for number, order in enumerate(orders)))
    assert all(outcome.status is Status.ACCEPTED for answer in answers for outcome in answer)


def full_event(ledger: Ledger, event_id: str = "a") -> UsageEvent:
    """An event with everything that there is."""
    return replace(
        ledger.event(event_id),
        subject=Subject(
            organization_id=ledger.organization_id,
            project_id="p",
            team_id="t",
            user_id="u",
            agent_id="a",
            task_id="k",
            session_id="s",
        ),
        event_time_ns=unix_microseconds(ledger.now) * 1_000 - 999,
        measurements=(Measurement("agent_minutes", 2**53 - 1), Measurement("api_calls", 0)),
        provider_call=ProviderCall(
            provider="openai_codex",
            model="m",
            operation="completion",
            tokens_input_uncached=2**53 - 1,
            tokens_cache_read=1,
            tokens_cache_write=2,
            tokens_output=3,
            tokens_reasoning=4,
            latency_ns=123_456_789,
            outcome=1,
            error_code="",
        ),
        reservation_id="r",
        reservation_final=True,
        task_outcome=TaskOutcome.FAILED,
        labels=(("environment", "test"), ("workflow", "nightly")),
    )


async def test_the_ledger_reads_back_what_was_sent_to_the_nanosecond(ledger: Ledger) -> None:
    event = full_event(ledger)
    await ledger.append(event)
    entry = (await ledger.entries())[0]
    assert entry.event == event
    assert entry.reversed is None
    assert entry.receive_time_us == unix_microseconds(ledger.now)


async def test_a_clock_that_ran_ahead_once_is_handed_on_to_no_other_ledger(ledger: Ledger) -> None:
    await ledger.writer.append([ledger.event("a")], now=ledger.now + timedelta(days=3))
    other = f"{ledger.organization_id}-other"
    beside = replace(ledger.event("b"), subject=Subject(organization_id=other))
    await ledger.append(ledger.event("c"), beside)
    ahead_us = unix_microseconds(ledger.now + timedelta(days=3))
    assert [entry.receive_time_us for entry in await ledger.entries()] == [ahead_us, ahead_us]
    (entry,) = [entry async for page in ledger.reader.read(other, START) for entry in page.entries]
    assert entry.receive_time_us == unix_microseconds(ledger.now)


AWKWARD = [
    "",
    " ",
    "NULL",
    "null",
    '"',
    "\\",
    '\\"',
    "\\N",
    "a,b",
    "{a}",
    "it's",
    "tab\tnewline\n",
    "\x1f\x1e\x02",
    "äß漢🙂",
    "\u2028",
    "%s :name %(name)s",
]


async def test_text_of_any_kind_is_read_back_as_it_was_sent(ledger: Ledger) -> None:
    base = full_event(ledger)
    assert base.provider_call is not None
    events = [
        replace(
            base,
            id=f"{number}{text}",
            source=f"s{text}",
            reservation_id=text,
            provider_call=replace(base.provider_call, provider=text, model=text, operation=text, error_code=text),
            measurements=(Measurement(f"meter{text}", number),),
            labels=((f"key{text}", text),),
        )
        for number, text in enumerate(AWKWARD)
    ]
    await ledger.append(*events)
    assert [entry.event for entry in await ledger.entries()] == events


async def test_events_with_and_without_a_call_or_labels_stand_side_by_side(ledger: Ledger) -> None:
    bare, full = ledger.event("bare"), full_event(ledger, "full")
    assert full.provider_call is not None
    mixed = [
        bare,
        full,
        replace(full, id="unlabelled", labels=()),
        replace(full, id="no call", provider_call=None),
        replace(full, id="no latency", provider_call=replace(full.provider_call, latency_ns=None)),
        ledger.reversal("reversal", "full"),
    ]
    await ledger.append(*mixed)
    assert [entry.event for entry in await ledger.entries()] == mixed


async def test_reading_after_a_position_gives_exactly_what_follows_it(ledger: Ledger) -> None:
    count = limits.PAGE_EVENTS * 2 + 3
    for start in range(0, count, 400):
        await ledger.append(*(ledger.event(f"e{number}") for number in range(start, min(start + 400, count))))
    pages = [page async for page in ledger.reader.read(ledger.organization_id, START)]
    assert sum(len(page.entries) for page in pages) == count
    middle = pages[0].position
    assert [entry.sequence for entry in await ledger.entries(middle)] == list(range(middle.sequence + 1, count + 1))
    assert await ledger.entries(pages[-1].position) == []


async def test_a_position_of_another_history_is_told_that_the_log_was_rewound(ledger: Ledger) -> None:
    await ledger.append(ledger.event("a"))
    for foreign in (Position(1, "another"), Position(2, "beyond")):
        with pytest.raises(LogRewound):
            await ledger.entries(foreign)


async def test_totals_count_a_half_open_interval_to_the_microsecond(ledger: Ledger) -> None:
    start = ledger.now - timedelta(hours=1)
    for name, offset_us in (("before", -1), ("at", 0), ("inside", 1), ("last", 999_999), ("end", 1_000_000)):
        event = replace(ledger.event(name), event_time_ns=(unix_microseconds(start) + offset_us) * 1_000 + 999)
        await ledger.append(event)
    assert await ledger.total(Interval(start, start + timedelta(seconds=1))) == 3
    assert await ledger.total(Interval(start, start)) == 0
    assert await ledger.total(Interval(start, None)) == 4
    assert await ledger.total(Interval(None, start)) == 1


async def test_totals_as_of_a_sequence_never_change(ledger: Ledger) -> None:
    await ledger.append(ledger.event("a", 1), ledger.event("b", 10))
    assert await ledger.total(as_of=1) == 1
    await ledger.append(ledger.event("c", 100))
    assert await ledger.total(as_of=2) == 11
    assert await ledger.total(as_of=99) == 111


def member_event(
    ledger: Ledger, event_id: str, quantity: int, *, meter: str = "api_calls", **subject: str
) -> UsageEvent:
    event = ledger.event(event_id)
    measurements = (Measurement(meter, quantity),)
    return replace(event, subject=Subject(organization_id=ledger.organization_id, **subject), measurements=measurements)


async def members(
    ledger: Ledger, *levels: LevelMeters, members_max: int = 100, as_of: int | None = None
) -> MemberTotals:
    totals = await ledger.reader.totals(
        ledger.organization_id, ALWAYS, as_of_sequence=as_of, levels=levels, members_max=members_max
    )
    return totals.members


def by_key(totals: MemberTotals) -> dict[tuple[str, str, str], int]:
    return {(row.level.value, row.member, row.meter): row.quantity for row in totals.rows}


EVERY_LEVEL = tuple(
    LevelMeters(level, ("api_calls", "bytes")) for level in SubjectPart if level is not SubjectPart.SESSION
)


async def test_totals_of_members_are_the_sums_of_the_events_that_name_them(ledger: Ledger) -> None:
    whole = {"project_id": "p", "team_id": "t", "user_id": "u", "agent_id": "a", "task_id": "k", "session_id": "s"}
    await ledger.append(
        member_event(ledger, "1", 5, **whole),
        member_event(ledger, "2", 7, user_id="u"),
        member_event(ledger, "3", 9, user_id="v", meter="bytes"),
        member_event(ledger, "4", 11, meter="not asked for", user_id="u"),
        member_event(ledger, "5", 13),
    )
    assert by_key(await members(ledger, *EVERY_LEVEL)) == {
        ("project", "p", "api_calls"): 5,
        ("team", "t", "api_calls"): 5,
        ("user", "u", "api_calls"): 12,
        ("user", "v", "bytes"): 9,
        ("agent", "a", "api_calls"): 5,
        ("task", "k", "api_calls"): 5,
    }
    assert by_key(await members(ledger, *EVERY_LEVEL, as_of=1))["user", "u", "api_calls"] == 5
    assert await members(ledger) == MemberTotals()


async def test_a_member_of_whom_all_was_reversed_has_no_total(ledger: Ledger) -> None:
    await ledger.append(member_event(ledger, "1", 5, user_id="u"), member_event(ledger, "2", 3, user_id="v"))
    await ledger.append(ledger.reversal("3", "1"))
    assert by_key(await members(ledger, *EVERY_LEVEL)) == {("user", "v", "api_calls"): 3}


async def test_of_too_many_members_the_smallest_of_the_most_numerous_pair_are_left_out_and_named(
    ledger: Ledger,
) -> None:
    await ledger.append(
        *(member_event(ledger, f"u{number}", number, user_id=f"u{number}") for number in range(1, 8)),
        member_event(ledger, "p", 1, project_id="p"),
    )
    totals = await members(ledger, *EVERY_LEVEL, members_max=4)
    assert by_key(totals) == {
        ("project", "p", "api_calls"): 1,
        ("user", "u7", "api_calls"): 7,
        ("user", "u6", "api_calls"): 6,
        ("user", "u5", "api_calls"): 5,
    }
    assert totals.incomplete == (LevelMeters(SubjectPart.USER, ("api_calls",)),)
    assert (await members(ledger, *EVERY_LEVEL, members_max=8)).incomplete == ()


async def test_heads_tell_how_far_each_ledger_reaches(ledger: Ledger) -> None:
    await ledger.append(ledger.event("a"), ledger.event("b"))
    last = (await ledger.entries())[-1]
    heads = {head.key: head.position for head in (await ledger.heads.heads(FROM_THE_START)).heads}
    assert heads[ledger.organization_id] == Position(last.sequence, last.commit_id)


# ---- identity, for ever


async def test_a_duplicate_leaves_the_rest_of_its_batch_standing_and_counted(ledger: Ledger) -> None:
    await ledger.append(ledger.event("a", 1))
    outcomes = await ledger.append(ledger.event("b", 10), ledger.event("a", 1), ledger.event("c", 100))
    assert [(outcome.status, outcome.sequence) for outcome in outcomes] == [
        (Status.ACCEPTED, 2),
        (Status.DUPLICATE, 1),
        (Status.ACCEPTED, 3),
    ]
    assert await ledger.total() == 111
    assert [entry.event.id for entry in await ledger.entries()] == ["a", "b", "c"]


async def test_the_same_id_of_another_source_or_organization_is_another_event(ledger: Ledger) -> None:
    event = ledger.event("a", 1)
    elsewhere = Subject(organization_id=f"{ledger.organization_id}-other")
    assert await ledger.reasons(event, replace(event, source="other"), replace(event, subject=elsewhere)) == [
        "ACCEPTED",
        "ACCEPTED",
        "ACCEPTED",
    ]
    assert await ledger.total() == 2


async def test_a_replay_of_everything_changes_no_total_and_no_entry(ledger: Ledger) -> None:
    batches = [[ledger.event(f"{batch}-{number}", number) for number in range(20)] for batch in range(5)]
    batches[3] = [ledger.reversal(f"r{number}", f"1-{number}") for number in range(10)]
    for batch in batches:
        await ledger.append(*batch)
    total, entries = await ledger.total(), await ledger.entries()
    for batch in (*reversed(batches), [event for each in batches for event in each]):
        assert {outcome.status for outcome in await ledger.append(*batch)} == {Status.DUPLICATE}
    assert (await ledger.total(), await ledger.entries()) == (total, entries)


async def test_totals_can_always_be_told_whatever_is_sent_and_ordinary_events_go_on(ledger: Ledger) -> None:
    """B11, and a broken sender: quantities of 2^53 - 1 add up exactly, until too few more would fit."""
    largest = 2**53 - 1
    broken = [ledger.event(f"broken-{number}", largest) for number in range(1_100)]
    reasons = await ledger.reasons(*broken)
    taken = reasons.count("ACCEPTED")
    assert reasons == ["ACCEPTED"] * taken + ["LIMIT_EXCEEDED"] * (1_100 - taken)
    assert taken > limits.VOLUME_SHARE
    assert await ledger.total() == largest * taken < limits.TOTAL_MAX
    # Whatever else this sender tries, ordinary quantities (35 days in milliseconds) still fit afterwards.
    for size in range(53, 30, -1):
        await ledger.append(*(ledger.event(f"try-{size}-{number}", 2**size - 1) for number in range(400)))
    assert (
        await ledger.reasons(*(ledger.event(f"sound-{number}", 35 * 86_400_000) for number in range(1_000)))
        == ["ACCEPTED"] * 1_000
    )
    assert await ledger.total() < limits.TOTAL_MAX
    assert await ledger.append(broken[0]) == [Outcome(Status.DUPLICATE, 1)]


async def test_what_broken_events_took_is_given_back_by_reversing_them(ledger: Ledger) -> None:
    largest = 2**53 - 1
    broken = [ledger.event(f"broken-{number}", largest) for number in range(1_100)]
    taken = (await ledger.reasons(*broken)).count("ACCEPTED")
    assert await ledger.reasons(broken[-1]) == ["LIMIT_EXCEEDED"]
    reversals = [ledger.reversal(f"r{number}", f"broken-{number}") for number in range(taken)]
    assert set(await ledger.reasons(*reversals)) == {"ACCEPTED"}
    assert await ledger.total() == 0
    assert await ledger.reasons(broken[-1]) == ["ACCEPTED"]
    assert await ledger.total() == largest


async def test_tokens_and_latency_of_calls_are_bounded_with_the_measurements(ledger: Ledger) -> None:
    call = full_event(ledger).provider_call
    batch = [replace(ledger.event(f"e{number}", 2**52), provider_call=call) for number in range(1_100)]
    taken = (await ledger.reasons(*batch)).count("ACCEPTED")
    assert limits.VOLUME_SHARE < taken < 1_024
    reversals = [ledger.reversal(f"r{number}", f"e{number}") for number in range(taken)]
    assert set(await ledger.reasons(*reversals, batch[-1])) == {"ACCEPTED"}


async def test_what_was_recorded_with_the_first_content_version_stays_a_duplicate(
    ledger: Ledger, age: Callable[[UsageEvent], None]
) -> None:
    event = ledger.event("a", 7)
    await ledger.append(event)
    age(event)
    assert await ledger.append(event) == [Outcome(Status.DUPLICATE, 1)]
    assert await ledger.reasons(replace(event, reservation_id="r")) == ["CONTENT_CONFLICT"]
    # Nothing that the first version had no word for can have been said with it.
    for other in (
        replace(event, labels=(("environment", "test"),)),
        replace(event, task_outcome=TaskOutcome.FAILED),
    ):
        assert await ledger.reasons(other) == ["CONTENT_CONFLICT"]
    assert await ledger.total() == 7


# ---- backfill


async def test_a_backfill_admits_the_past_and_never_the_future(ledger: Ledger) -> None:
    old = ledger.event("old", 1, ago=timedelta(days=400))
    assert await ledger.reasons(old) == ["EVENT_TOO_OLD"]
    assert await ledger.reasons(replace(old, is_backfill=True)) == ["ACCEPTED"]
    assert await ledger.reasons(old) == ["DUPLICATE"]
    early = ledger.event("early", ago=-limits.ACCEPTED_AHEAD - timedelta(seconds=1))
    before_time = replace(ledger.event("before time"), event_time_ns=-1)
    assert await ledger.reasons(replace(early, is_backfill=True), replace(before_time, is_backfill=True)) == [
        "EVENT_IN_FUTURE",
        "EVENT_TOO_OLD",
    ]
    assert await ledger.total(Interval(None, ledger.now - timedelta(days=399))) == 1


# ---- reversals


async def test_a_reversal_takes_back_the_whole_event_at_the_time_of_that_event(ledger: Ledger) -> None:
    day = ledger.now - timedelta(days=20)
    that_day = Interval(day, day + timedelta(seconds=1))
    await ledger.append(ledger.event("a", 7, ago=timedelta(days=20)), ledger.event("b", 5, ago=timedelta(days=20)))
    assert await ledger.append(ledger.reversal("r", "a")) == [Outcome(Status.ACCEPTED, 3)]
    assert await ledger.total(that_day) == 5
    assert await ledger.total() == 5
    assert await ledger.total(Interval(day + timedelta(seconds=1), None)) == 0


async def test_totals_as_of_a_sequence_before_the_reversal_still_count_the_event(ledger: Ledger) -> None:
    await ledger.append(ledger.event("a", 7))
    await ledger.append(ledger.reversal("r", "a"))
    assert [await ledger.total(as_of=sequence) for sequence in (1, 2)] == [7, 0]


async def test_a_reversal_reads_back_as_sent_beside_what_it_takes_back_as_recorded(ledger: Ledger) -> None:
    event, reversal = full_event(ledger), ledger.reversal("r", "a")
    await ledger.append(event)
    await ledger.append(reversal)
    entry = (await ledger.entries())[1]
    assert (entry.sequence, entry.event, entry.reversed) == (2, reversal, event)
    assert entry.counted.provider_call is not None
    assert entry.counted.provider_call.tokens_input_uncached == 1 - 2**53


async def test_of_many_reversals_of_one_event_one_is_accepted_for_ever(ledger: Ledger) -> None:
    await ledger.append(ledger.event("a", 7))
    asked = [ledger.reversal(f"r{number}", "a") for number in range(8)]
    answers = [reason for [reason] in await asyncio.gather(*(ledger.reasons(each) for each in asked))]
    assert sorted(answers) == ["ACCEPTED"] + ["ALREADY_REVERSED"] * 7
    assert await ledger.total() == 0
    assert len(await ledger.entries()) == 2


async def test_a_reversal_cannot_be_reversed(ledger: Ledger) -> None:
    await ledger.append(ledger.event("a", 7), ledger.reversal("r", "a"))
    assert await ledger.reasons(ledger.reversal("r2", "r")) == ["ALREADY_REVERSED"]
    assert await ledger.reasons(ledger.event("b"), ledger.reversal("r3", "b"), ledger.reversal("r4", "r3")) == [
        "ACCEPTED",
        "ACCEPTED",
        "ALREADY_REVERSED",
    ]
    assert await ledger.total() == 0


async def test_the_same_reversal_again_is_a_duplicate_and_of_another_event_a_conflict(ledger: Ledger) -> None:
    await ledger.append(ledger.event("a", 7), ledger.event("b", 5))
    reversal = ledger.reversal("r", "a")
    assert await ledger.reasons(reversal, reversal) == ["ACCEPTED", "DUPLICATE"]
    assert await ledger.append(reversal) == [Outcome(Status.DUPLICATE, 3)]
    assert await ledger.reasons(ledger.reversal("r", "b"), ledger.event("r")) == ["CONTENT_CONFLICT"] * 2
    assert await ledger.total() == 5


async def test_a_reversal_of_what_was_never_recorded_is_refused_and_changes_nothing(ledger: Ledger) -> None:
    await ledger.append(ledger.event("a", 7))
    elsewhere = Subject(organization_id=f"{ledger.organization_id}-other")
    assert (
        await ledger.reasons(
            ledger.reversal("r", "unheard of"),
            ledger.reversal("r", "a", source="other"),
            ledger.reversal("r", "r"),
            replace(ledger.reversal("r", "a"), subject=elsewhere),
        )
        == ["REVERSAL_TARGET_NOT_FOUND"] * 4
    )
    assert await ledger.total() == 7
    assert await ledger.reasons(ledger.reversal("r", "a")) == ["ACCEPTED"]


async def test_a_reversal_finds_what_is_earlier_in_its_batch_and_not_what_is_later(ledger: Ledger) -> None:
    batch = [ledger.reversal("r1", "a"), ledger.event("a", 7), ledger.reversal("r2", "a"), ledger.reversal("r3", "a")]
    assert await ledger.reasons(*batch) == ["REVERSAL_TARGET_NOT_FOUND", "ACCEPTED", "ACCEPTED", "ALREADY_REVERSED"]
    assert [entry.sequence for entry in await ledger.entries()] == [1, 2]
    assert await ledger.total() == 0


async def test_an_event_that_was_refused_cannot_be_reversed(ledger: Ledger) -> None:
    old = ledger.event("old", ago=timedelta(days=400))
    assert await ledger.reasons(old, ledger.reversal("r", "old")) == ["EVENT_TOO_OLD", "REVERSAL_TARGET_NOT_FOUND"]


async def test_the_time_window_does_not_apply_to_a_reversal(ledger: Ledger) -> None:
    await ledger.append(replace(ledger.event("a", 7, ago=timedelta(days=400)), is_backfill=True))
    assert await ledger.reasons(ledger.reversal("r", "a")) == ["ACCEPTED"]
    assert await ledger.total() == 0


async def test_reversals_of_several_organizations_in_one_batch_stay_in_their_own(ledger: Ledger) -> None:
    other = Subject(organization_id=f"{ledger.organization_id}-other")
    own_event, own_reversal = ledger.event("a", 7), ledger.reversal("r", "a")
    await ledger.append(own_event, ledger.event("b", 5), replace(own_event, subject=other))
    assert await ledger.reasons(
        replace(own_reversal, subject=other), ledger.reversal("r", "b"), replace(own_reversal, id="r2", subject=other)
    ) == ["ACCEPTED", "ACCEPTED", "ALREADY_REVERSED"]
    assert await ledger.total() == 7
    others = await ledger.reader.totals(other.organization_id, ALWAYS, as_of_sequence=None)
    assert others.quantities.get("api_calls", 0) == 0


# ---- pages


async def test_pages_of_events_with_equal_times_skip_and_repeat_nothing(ledger: Ledger) -> None:
    await ledger.append(*(ledger.event(f"e{number}") for number in range(25)))
    seen: list[str] = []
    after = 0
    while page := await ledger.page(after=after, count=4):
        seen += page
        after += len(page)
        if after < 25:
            await ledger.append(ledger.event(f"meanwhile {after}"))
    assert seen[:25] == [f"e{number}" for number in range(25)]
    assert len(set(seen)) == len(seen) == len(await ledger.entries())


async def test_a_page_holds_a_half_open_interval_to_the_microsecond(ledger: Ledger) -> None:
    start = ledger.now - timedelta(hours=1)
    for name, offset_us in (("before", -1), ("at", 0), ("last", 999_999), ("end", 1_000_000)):
        event = replace(ledger.event(name), event_time_ns=(unix_microseconds(start) + offset_us) * 1_000 + 999)
        await ledger.append(event)
    await ledger.append(ledger.reversal("r", "last"), ledger.reversal("r2", "end"))
    assert await ledger.page(Interval(start, start + timedelta(seconds=1))) == ["at", "last", "r"]
    assert await ledger.page(Interval(start, start)) == []
    assert await ledger.page(Interval(None, start)) == ["before"]
    assert await ledger.page(Interval(start, None), after=3, count=2) == ["end", "r"]


async def test_an_unknown_organization_has_an_empty_ledger(ledger: Ledger) -> None:
    assert await ledger.entries() == []
    assert (await ledger.reader.totals(ledger.organization_id, ALWAYS, as_of_sequence=None)).position == START
    assert await ledger.page() == []


async def test_a_log_that_lost_entries_is_rewound_and_never_read_past_the_gap(
    migrated: Callable[[str], dict[str, str]], postgres: EmbeddedPostgres
) -> None:
    databases = {kind: Database(url) for kind, url in migrated("metering").items()}
    reader = PostgresLedgerReader(databases["tenant"])
    ledger = Ledger(
        PostgresLedgerWriter(databases["writer"]),
        reader,
        PostgresLedgerHeads(databases["fleet"]),
        f"org-{uuid4().hex}",
        datetime.now(UTC),
    )
    await ledger.append(*(ledger.event(str(number)) for number in range(3)))
    with psycopg.connect(postgres.url) as owner:
        owner.execute(
            "DELETE FROM metering.events WHERE organization_id = %s AND sequence = 2", (ledger.organization_id,)
        )
    with pytest.raises(LogRewound):
        await ledger.entries()
    for database in databases.values():
        await database.close()


async def test_metering_is_not_ready_without_the_partition_of_tomorrow(
    migrated: Callable[[str], dict[str, str]], postgres: EmbeddedPostgres
) -> None:
    fleet = Database(migrated("metering")["fleet"])
    heads = PostgresLedgerHeads(fleet)
    await heads.require_partitions()
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    partition = f"events_{tomorrow - timedelta(days=tomorrow.weekday()):%Y%m%d}"
    rename = sql.SQL("ALTER TABLE {} RENAME TO {}")
    with psycopg.connect(postgres.url, autocommit=True) as owner:
        owner.execute(rename.format(sql.Identifier("metering", partition), sql.Identifier("away")))
        try:
            with pytest.raises(DependencyUnavailable, match="partition"):
                await heads.require_partitions()
        finally:
            owner.execute(rename.format(sql.Identifier("metering", "away"), sql.Identifier(partition)))
    await fleet.close()
