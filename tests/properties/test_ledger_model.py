"""The ledger against the plainest model of it: a list of what was accepted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from uuid import uuid4

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from kit.clock import from_unix_microseconds, unix_microseconds
from kit.feed import START
from kit.postgres.database import Database
from services.metering.adapters.memory import MemoryLedger
from services.metering.adapters.postgres_ledger import PostgresLedgerReader, PostgresLedgerWriter
from services.metering.application.ports import Interval, LedgerReader, LedgerWriter
from services.metering.domain.acceptance import Outcome
from services.metering.domain.events import EventRef, LedgerEvent, Measurement, Subject, UsageEvent

NOW = datetime.now(UTC)
NOW_NS = unix_microseconds(NOW) * 1_000
SECONDS = 4
"""How far apart event times are: few, so that events share them."""

names = st.sampled_from("stuvwxyz")
organizations = st.sampled_from(["a", "b"])
usage = st.builds(
    lambda organization_id, event_id, quantity, second: UsageEvent(
        id=event_id,
        source="tests",
        subject=Subject(organization_id=organization_id),
        event_time_ns=NOW_NS - second * 1_000_000_000,
        measurements=(Measurement("api_calls", quantity),),
    ),
    organizations,
    names,
    st.integers(0, 2**53 - 1),
    st.integers(0, SECONDS - 1),
)
reversals = st.builds(
    lambda organization_id, event_id, target_id: UsageEvent(
        id=event_id,
        source="tests",
        subject=Subject(organization_id=organization_id),
        event_time_ns=None,
        measurements=(),
        reversal_of=EventRef("tests", target_id),
    ),
    organizations,
    names,
    names,
)
events = st.one_of(usage, reversals)


class Store(Protocol):
    """What the model is held against."""

    @property
    def writer(self) -> LedgerWriter: ...

    @property
    def reader(self) -> LedgerReader: ...

    async def close(self) -> None: ...


class MemoryStore:
    def __init__(self) -> None:
        self.writer = self.reader = MemoryLedger()

    async def close(self) -> None:
        return None


class PostgresStore:
    def __init__(self, urls: dict[str, str]) -> None:
        self._databases = [Database(urls["writer"]), Database(urls["tenant"])]
        self.writer, self.reader = PostgresLedgerWriter(self._databases[0]), PostgresLedgerReader(self._databases[1])

    async def close(self) -> None:
        for database in self._databases:
            await database.close()


@dataclass
class Model:
    """One organization's ledger, said as plainly as possible."""

    accepted: list[UsageEvent] = field(default_factory=list)
    settled: set[str] = field(default_factory=set)
    """Ids of events that were reversed, and of reversals."""

    def sequence_of(self, event_id: str) -> int:
        return next((place for place, event in enumerate(self.accepted, start=1) if event.id == event_id), 0)

    def take(self, event: UsageEvent) -> tuple[str, int]:
        """What becomes of an event: the status or the reason, and the sequence."""
        sequence = self.sequence_of(event.id)
        if sequence:
            return ("DUPLICATE", sequence) if self.accepted[sequence - 1] == event else ("CONTENT_CONFLICT", 0)
        if event.reversal_of is not None:
            if not self.sequence_of(event.reversal_of.id):
                return "REVERSAL_TARGET_NOT_FOUND", 0
            if event.reversal_of.id in self.settled:
                return "ALREADY_REVERSED", 0
            self.settled |= {event.id, event.reversal_of.id}
        self.accepted.append(event)
        return "ACCEPTED", len(self.accepted)

    def standing(self, upto: int) -> list[UsageEvent]:
        """The events that count as of a sequence."""
        entries = self.accepted[:upto]
        taken_back = {event.reversal_of.id for event in entries if event.reversal_of is not None}
        return [event for event in entries if event.reversal_of is None and event.id not in taken_back]

    def time_of(self, event: UsageEvent) -> int:
        target = event if event.reversal_of is None else self.accepted[self.sequence_of(event.reversal_of.id) - 1]
        return target.event_time_ns or 0


class LedgerMachine(RuleBasedStateMachine):
    """Random batches with retries, conflicts and reversals, and reads of every kind."""

    make_store: Callable[[], Store]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.models = {"a": Model(), "b": Model()}
        # Stores outlive an example, so each has organizations of its own.
        self.suffix = uuid4().hex

    @initialize()
    def open_store(self) -> None:
        async def make() -> Store:
            return type(self).make_store()

        self.store = self.runner.run(make())

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.runner.run(self.store.close())
        self.runner.close()

    def own(self, name: str) -> str:
        return f"{name}-{self.suffix}"

    def placed(self, event: UsageEvent) -> UsageEvent:
        return replace(event, subject=Subject(organization_id=self.own(event.subject.organization_id)))

    @rule(batch=st.lists(events, min_size=1, max_size=8))
    def append(self, batch: list[UsageEvent]) -> None:
        expected = [self.models[event.subject.organization_id].take(event) for event in batch]
        outcomes = self.runner.run(self.store.writer.append([self.placed(event) for event in batch], now=NOW))
        assert [_told(outcome) for outcome in outcomes] == expected

    @rule(batch=st.lists(events, min_size=1, max_size=4))
    def retry_after_an_unknown_outcome(self, batch: list[UsageEvent]) -> None:
        self.append(batch)
        self.append([replace(event) for event in batch])

    @rule(batch=st.lists(usage, min_size=1, max_size=3), second=names)
    def record_and_reverse_at_once(self, batch: list[UsageEvent], second: str) -> None:
        target = batch[-1]
        reversal = replace(target, id=second, event_time_ns=None, measurements=())
        self.append([*batch, replace(reversal, reversal_of=EventRef("tests", target.id))])

    @rule(name=organizations, upto=st.integers(0, 20), edges=st.tuples(*[st.integers(0, SECONDS)] * 2))
    def total(self, name: str, upto: int, edges: tuple[int, int]) -> None:
        model = self.models[name]
        interval, inside = self.interval(*edges)
        totals = self.runner.run(self.store.reader.totals(self.own(name), interval, as_of_sequence=upto))
        expected = sum(event.measurements[0].quantity for event in model.standing(upto) if inside(model, event))
        assert totals.quantities.get("api_calls", 0) == expected
        assert totals.position.sequence == min(upto, len(model.accepted))

    @rule(
        name=organizations,
        after=st.integers(0, 12),
        count=st.integers(1, 5),
        edges=st.tuples(*[st.integers(0, SECONDS)] * 2),
    )
    def page(self, name: str, after: int, count: int, edges: tuple[int, int]) -> None:
        model = self.models[name]
        interval, inside = self.interval(*edges)
        page = self.runner.run(self.store.reader.page(self.own(name), interval, after_sequence=after, count=count))
        following = [event for event in model.accepted[after:] if inside(model, event)][:count]
        assert [entry.event for entry in page.entries] == [self.placed(event) for event in following]

    @invariant()
    def the_ledger_is_what_was_accepted(self) -> None:
        for name, model in self.models.items():
            entries = self.runner.run(self.entries(name))
            assert [entry.sequence for entry in entries] == list(range(1, len(model.accepted) + 1))
            assert [entry.event for entry in entries] == [self.placed(event) for event in model.accepted]
            targets = [
                None if event.reversal_of is None else model.accepted[model.sequence_of(event.reversal_of.id) - 1]
                for event in model.accepted
            ]
            assert [entry.reversed for entry in entries] == [each and self.placed(each) for each in targets]
            counted = sum(entry.counted.measurements[0].quantity for entry in entries)
            assert counted == sum(event.measurements[0].quantity for event in model.standing(len(entries)))

    async def entries(self, name: str) -> list[LedgerEvent]:
        return [entry async for page in self.store.reader.read(self.own(name), START) for entry in page.entries]

    def interval(self, start: int, end: int) -> tuple[Interval, Callable[[Model, UsageEvent], bool]]:
        """An interval that is open where an edge is 0, and the model's test of what is inside."""
        oldest = NOW - timedelta(seconds=SECONDS)
        first = oldest + timedelta(seconds=start) if start else None
        last = oldest + timedelta(seconds=end) if end else None

        def inside(model: Model, event: UsageEvent) -> bool:
            moment = from_unix_microseconds(model.time_of(event) // 1_000)
            return (first is None or moment >= first) and (last is None or moment < last)

        return Interval(first, last), inside


def _told(outcome: Outcome) -> tuple[str, int]:
    return outcome.refusal.reason if outcome.refusal else outcome.status.value, outcome.sequence


def _run(make: Callable[[], Store], **limits: Any) -> None:
    machine = type("LedgerMachineOfStore", (LedgerMachine,), {"make_store": staticmethod(make)})
    run_state_machine_as_test(machine, settings=settings(**limits))


def test_the_ledger_in_memory_is_the_model() -> None:
    _run(MemoryStore, max_examples=100, stateful_step_count=20)


def test_the_ledger_in_postgres_is_the_model(migrated: Callable[[str], dict[str, str]]) -> None:
    urls = migrated("metering")
    _run(lambda: PostgresStore(urls), max_examples=25, stateful_step_count=15)


@pytest.mark.soak
def test_the_ledger_in_postgres_is_the_model_for_long(migrated: Callable[[str], dict[str, str]]) -> None:
    urls = migrated("metering")
    _run(lambda: PostgresStore(urls), max_examples=2_000, stateful_step_count=30)
