"""Usage for tests, and the plainest model of its totals: one loop per definition, nothing shared with the service."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

from kit.clock import from_unix_microseconds, unix_microseconds
from services.metering.domain.events import EventRef, Measurement, ProviderCall, Subject, UsageEvent
from services.metering.domain.grouping import Dimension, Label, SubjectPart
from services.metering.domain.meters import Aggregation, Meter, ValueSource
from services.metering.domain.usage_query import UsageQuery, UsageRow
from services.metering.domain.windows import Window, WindowSize

US_PER_MS = 1_000


def meter(
    name: str,
    aggregation: Aggregation = Aggregation.SUM,
    source: ValueSource = ValueSource.MEASUREMENT,
    dimension: Dimension | None = None,
) -> Meter:
    return Meter(
        name=name,
        base_unit="unit",
        display_unit="unit",
        base_units_per_display_unit=1,
        aggregation=aggregation,
        value_source=source,
        dimension=dimension,
    )


METERS = (
    meter("api_calls"),
    meter("batches", Aggregation.COUNT),
    meter("peak", Aggregation.MAX),
    meter("level", Aggregation.LATEST),
    meter("storage", Aggregation.TIME_WEIGHTED_SUM),
    meter("calls", Aggregation.SUM, ValueSource.CALLS),
    meter("calls_timed", Aggregation.COUNT, ValueSource.LATENCY_MS),
    meter("latency", Aggregation.SUM, ValueSource.LATENCY_MS),
    meter("slowest", Aggregation.MAX, ValueSource.LATENCY_MS),
    meter("tokens", Aggregation.SUM, ValueSource.TOKENS_OUTPUT),
    meter("users", Aggregation.UNIQUE_COUNT, ValueSource.DIMENSION, SubjectPart.USER),
    meter("environments", Aggregation.UNIQUE_COUNT, ValueSource.DIMENSION, Label("env")),
)
"""One of every way of totalling; a meter that reads a measurement reads that of its own name."""


def call(*, output: int = 0, latency_ns: int | None = None) -> ProviderCall:
    return ProviderCall(
        provider="openai_codex",
        model="m",
        operation="completion",
        tokens_input_uncached=1,
        tokens_cache_read=2,
        tokens_cache_write=3,
        tokens_output=output,
        tokens_reasoning=4,
        latency_ns=latency_ns,
        outcome=1,
        error_code="",
    )


def usage(
    event_id: str,
    moment: datetime,
    quantities: Mapping[str, int] | None = None,
    *,
    organization_id: str = "acme",
    nanoseconds: int = 0,
    provider_call: ProviderCall | None = None,
    labels: Mapping[str, str] | None = None,
    **subject: str,
) -> UsageEvent:
    """An event at a moment of any age; subject: `user="u1"` and so on."""
    return UsageEvent(
        id=event_id,
        source="tests",
        subject=Subject(organization_id=organization_id, **{f"{part}_id": value for part, value in subject.items()}),
        event_time_ns=unix_microseconds(moment) * 1_000 + nanoseconds,
        measurements=tuple(Measurement(*each) for each in sorted((quantities or {}).items())),
        provider_call=provider_call,
        labels=tuple(sorted((labels or {}).items())),
        is_backfill=True,
    )


def reversal(event_id: str, target: str, *, organization_id: str = "acme") -> UsageEvent:
    return UsageEvent(
        id=event_id,
        source="tests",
        subject=Subject(organization_id=organization_id),
        event_time_ns=None,
        measurements=(),
        reversal_of=EventRef("tests", target),
    )


@dataclass(frozen=True)
class Fact:
    """An event that counts, with its sequence."""

    sequence: int
    event: UsageEvent

    @property
    def moment_us(self) -> int:
        return (self.event.event_time_ns or 0) // 1_000


def facts(ledger: Sequence[UsageEvent], upto: int) -> list[Fact]:
    """What counts of the first `upto` events: neither taken back by one of them, nor taking back."""
    seen = ledger[:upto]
    gone = {event.reversal_of.id for event in seen if event.reversal_of is not None}
    return [
        Fact(number, event)
        for number, event in enumerate(seen, 1)
        if event.reversal_of is None and event.id not in gone
    ]


def dimension_of(event: UsageEvent, dimension: Dimension) -> str:
    if isinstance(dimension, Label):
        return next((value for name, value in event.labels if name == dimension.key), "")
    subject = event.subject
    return {
        "project": subject.project_id,
        "team": subject.team_id,
        "user": subject.user_id,
        "agent": subject.agent_id,
        "task": subject.task_id,
        "session": subject.session_id,
    }[dimension.value]


def model_rows(
    ledger: Sequence[UsageEvent], query: UsageQuery, upto: int, *, size: WindowSize | None, zone: ZoneInfo
) -> dict[tuple[str, object, tuple[str, ...]], int]:
    """Every total by (meter, local window, group); see window_key."""
    counting = [
        fact
        for fact in facts(ledger, upto)
        if all(dimension_of(fact.event, each.dimension) in each.values for each in query.filters)
    ]
    start_us, end_us = query.windows[0].start_us, query.windows[-1].end_us
    totals: dict[tuple[str, object, tuple[str, ...]], int] = {}
    for each in query.meters:
        if each.aggregation is Aggregation.TIME_WEIGHTED_SUM:
            totals |= _weighted(counting, each, query, size, zone)
            continue
        values: dict[tuple[str, object, tuple[str, ...]], list[tuple[tuple[int, int], int | str]]] = {}
        for fact in counting:
            value = _value(fact.event, each)
            inside = (start_us is None or fact.moment_us >= start_us) and (end_us is None or fact.moment_us < end_us)
            if value is not None and inside:
                place = (each.name, window_key(fact.moment_us, size, zone), _group(fact.event, query))
                values.setdefault(place, []).append(((fact.event.event_time_ns or 0, fact.sequence), value))
        totals |= {place: _total(found, each.aggregation) for place, found in values.items()}
    return totals


def keyed(
    rows: Iterable[UsageRow], *, size: WindowSize | None, zone: ZoneInfo
) -> dict[tuple[str, object, tuple[str, ...]], int]:
    """The rows of an answer by what the model calls them."""
    return {(row.meter, window_key(row.window.start_us or 0, size, zone), row.group): row.quantity for row in rows}


def window_key(moment_us: int, size: WindowSize | None, zone: ZoneInfo) -> object:
    """In which stretch of local time a moment lies: what the wall clock and the calendar say."""
    local = from_unix_microseconds(moment_us).astimezone(zone)
    match size:
        case None:
            return None
        case WindowSize.HOUR:
            return local.replace(minute=0, second=0, microsecond=0, tzinfo=None), local.utcoffset()
        case WindowSize.DAY:
            return local.date()
        case WindowSize.WEEK:
            return local.date() - timedelta(days=local.weekday())
        case WindowSize.MONTH:
            return local.year, local.month


def _group(event: UsageEvent, query: UsageQuery) -> tuple[str, ...]:
    return tuple(dimension_of(event, dimension) for dimension in query.group_by)


def _value(event: UsageEvent, each: Meter) -> int | str | None:
    made = event.provider_call
    match each.value_source:
        case ValueSource.MEASUREMENT:
            return {measured.meter: measured.quantity for measured in event.measurements}.get(each.name)
        case ValueSource.DIMENSION:
            assert each.dimension is not None
            return dimension_of(event, each.dimension) or None
        case ValueSource.CALLS:
            return 1 if made else None
        case ValueSource.LATENCY_MS:
            return made.latency_ns // 1_000_000 if made and made.latency_ns is not None else None
        case ValueSource.TOKENS_OUTPUT:
            return made.tokens_output if made else None
        case _:
            raise AssertionError(each)


def _total(found: list[tuple[tuple[int, int], int | str]], aggregation: Aggregation) -> int:
    numbers = [value for _, value in found if isinstance(value, int)]
    match aggregation:
        case Aggregation.SUM:
            return sum(numbers)
        case Aggregation.COUNT:
            return len(found)
        case Aggregation.MAX:
            return max(numbers)
        case Aggregation.LATEST:
            latest = max(found)[1]
            assert isinstance(latest, int)
            return latest
        case Aggregation.UNIQUE_COUNT:
            return len({value for _, value in found})
        case Aggregation.TIME_WEIGHTED_SUM:
            raise AssertionError


def _weighted(
    counting: Sequence[Fact], each: Meter, query: UsageQuery, size: WindowSize | None, zone: ZoneInfo
) -> dict[tuple[str, object, tuple[str, ...]], int]:
    """Walks from one moment at which anything changes to the next, and asks what held there."""
    weighed = [fact for fact in counting if _value(fact.event, each) is not None]
    edges = {edge for window in query.windows for edge in (window.start_us, window.end_us) if edge is not None}
    moments = sorted(edges | {fact.moment_us for fact in weighed})
    sums: dict[tuple[str, object, tuple[str, ...]], int] = {}
    for series in {(fact.event.subject, fact.event.labels) for fact in weighed}:
        own = [fact for fact in weighed if (fact.event.subject, fact.event.labels) == series]
        for since_us, until_us in pairwise(moments):
            before = [fact for fact in own if fact.moment_us <= since_us]
            if not before or not _covered(query.windows, since_us):
                continue
            if query.windows[-1].end_us is None and since_us >= max(fact.moment_us for fact in own):
                continue  # nobody knows for how long the last value holds
            held = _value(max(before, key=lambda fact: (fact.event.event_time_ns or 0, fact.sequence)).event, each)
            assert isinstance(held, int)
            place = (each.name, window_key(since_us, size, zone), _group(own[0].event, query))
            sums[place] = sums.get(place, 0) + held * (until_us - since_us)
    return {place: weighted // US_PER_MS for place, weighted in sums.items() if weighted >= US_PER_MS}


def _covered(windows: Sequence[Window], moment_us: int) -> bool:
    start_us, end_us = windows[0].start_us, windows[-1].end_us
    return (start_us is None or moment_us >= start_us) and (end_us is None or moment_us < end_us)
