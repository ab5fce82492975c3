"""Totals from events, as they are defined: plain, one event after another, and what every faster way must equal.

An event that was reversed, and its reversal, are both left out. Since a reversal has the subject, labels and time of
what it reverses, adding it with its signs turned round comes to the same for SUM and COUNT.

TIME_WEIGHTED_SUM adds up value times milliseconds over every series, rounded down once per total. A series is the
events with the same subject and the same labels. A value holds from its event_time until that of the next event of its
series (of equal times, that with the higher nanosecond, then sequence, comes later), and the last one to the end of the
interval, also when that lies ahead. What held when the interval began is carried in. Without an end the last value adds
nothing, since nobody knows for how long it holds. A total of 0 is no row.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from services.metering.domain.events import LedgerEvent, ProviderCall, Subject, UsageEvent
from services.metering.domain.grouping import passes, value_of
from services.metering.domain.meters import Aggregation, Meter, ValueSource
from services.metering.domain.usage_query import UsageQuery, UsageRow
from services.metering.domain.windows import Window

_NS_PER_US = 1_000
_NS_PER_MS = 1_000_000
_US_PER_MS = 1_000


def total(entries: Sequence[LedgerEvent], query: UsageQuery) -> list[UsageRow]:
    """The rows of a query over a ledger's entries, in sequence, by meter, window and group."""
    counting = [entry for entry in _standing(entries) if passes(entry.event, query.filters)]
    rows: list[UsageRow] = []
    for meter in sorted(query.meters, key=_name_of):
        by_group: dict[tuple[str, ...], list[LedgerEvent]] = defaultdict(list)
        for entry in counting:
            by_group[tuple(value_of(entry.event, dimension) for dimension in query.group_by)].append(entry)
        groups = sorted(by_group.items())
        for window in query.windows:
            for group, members in groups:
                quantity = _quantity(members, meter, window)
                if quantity is not None:
                    rows.append(UsageRow(meter.name, window, group, quantity))
    return rows


def event_value(event: UsageEvent, meter: Meter) -> int | str | None:
    """The event's value for the meter; None when it has none, so that it does not count."""
    if meter.value_source is ValueSource.MEASUREMENT:
        return next((each.quantity for each in event.measurements if each.meter == meter.name), None)
    if meter.value_source is ValueSource.DIMENSION:
        return value_of(event, meter.dimension) or None if meter.dimension is not None else None
    return None if event.provider_call is None else call_value(event.provider_call, meter.value_source)


def call_value(call: ProviderCall, source: ValueSource) -> int | None:
    """The value that a provider call has for a source of that kind; None: not known."""
    match source:
        case ValueSource.CALLS:
            return 1
        case ValueSource.LATENCY_MS:
            return None if call.latency_ns is None else call.latency_ns // _NS_PER_MS
        case _:
            value: int = getattr(call, source.value.lower())
            return value


def _name_of(meter: Meter) -> str:
    return meter.name


def _standing(entries: Iterable[LedgerEvent]) -> list[LedgerEvent]:
    known = list(entries)
    reversed_identities = {
        (each.event.reversal_of.source, each.event.reversal_of.id)
        for each in known
        if each.event.reversal_of is not None
    }
    return [
        entry
        for entry in known
        if entry.event.reversal_of is None and (entry.event.source, entry.event.id) not in reversed_identities
    ]


def _quantity(members: Sequence[LedgerEvent], meter: Meter, window: Window) -> int | None:
    if meter.aggregation is Aggregation.TIME_WEIGHTED_SUM:
        return _time_weighted(members, meter, window) or None
    inside = sorted((entry for entry in members if _is_inside(entry, window)), key=_by_time)
    values = [value for entry in inside if (value := event_value(entry.event, meter)) is not None]
    if not values:
        return None
    if meter.aggregation is Aggregation.COUNT:
        return len(values)
    if meter.aggregation is Aggregation.UNIQUE_COUNT:
        return len(set(values))
    quantities = [value for value in values if isinstance(value, int)]
    if meter.aggregation is Aggregation.MAX:
        return max(quantities)
    return quantities[-1] if meter.aggregation is Aggregation.LATEST else sum(quantities)


def _time_weighted(members: Iterable[LedgerEvent], meter: Meter, window: Window) -> int:
    series: dict[tuple[Subject, tuple[tuple[str, str], ...]], list[LedgerEvent]] = defaultdict(list)
    for entry in members:
        if event_value(entry.event, meter) is not None:
            series[entry.event.subject, tuple(sorted(dict(entry.event.labels).items()))].append(entry)
    weighted_us = sum(_held(sorted(entries, key=_by_time), meter, window) for entries in series.values())
    return weighted_us // _US_PER_MS


def _held(entries: Sequence[LedgerEvent], meter: Meter, window: Window) -> int:
    """Value times the microseconds for which it held in the window, over one series in order of time."""
    moments = [*map(_moment_us, entries), window.end_us]
    weighted_us = 0
    for entry, (since_us, until_us) in zip(entries, pairwise(moments), strict=True):
        value = event_value(entry.event, meter)
        if until_us is None or since_us is None or not isinstance(value, int):
            continue
        begin_us = since_us if window.start_us is None else max(since_us, window.start_us)
        end_us = until_us if window.end_us is None else min(until_us, window.end_us)
        weighted_us += value * max(0, end_us - begin_us)
    return weighted_us


def _is_inside(entry: LedgerEvent, window: Window) -> bool:
    moment_us = _moment_us(entry)
    after_start = window.start_us is None or moment_us >= window.start_us
    return after_start and (window.end_us is None or moment_us < window.end_us)


def _moment_us(entry: LedgerEvent) -> int:
    return (entry.event.event_time_ns or 0) // _NS_PER_US


def _by_time(entry: LedgerEvent) -> tuple[int, int]:
    return entry.event.event_time_ns or 0, entry.sequence


def numeric_sources(meters: Iterable[Meter]) -> Iterator[ValueSource]:
    """The sources of provider calls that these meters read, without repetition."""
    seen: set[ValueSource] = set()
    for meter in meters:
        if meter.value_source not in {ValueSource.MEASUREMENT, ValueSource.DIMENSION} | seen:
            seen.add(meter.value_source)
            yield meter.value_source
