"""Stretches of local time that tile an interval, right across every change of the clocks.

Bounds are instants (Unix microseconds), so a window's length is what passed and not what the wall clock says: a local
day has 23 or 25 hours when clocks change by one. A day begins at the first instant that its date is reached: where
midnight happens twice, the first time; where clocks jump over midnight, at the jump. A date that a zone skips has no
window. An hour ends at each full local hour and where the clocks change, so an hour that happens twice is two windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import Enum
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

from kit.clock import from_unix_microseconds, unix_microseconds
from kit.errors import InvalidField
from services.metering.domain import limits
from services.metering.domain.errors import TooManyWindows

# Names that a machine's database may list besides, and that mean something else on every machine.
_TIME_ZONES = available_timezones() - {"Factory", "localtime", "posixrules"}
_SECOND_US = 1_000_000
_HOUR_US = 3_600 * _SECOND_US
# Outside, the calendar ends before the local time of some zone does.
_YEAR_MIN, _YEAR_MAX = 1900, 2200


class WindowSize(Enum):
    """How long a window is, by the local clock and calendar."""

    HOUR = "HOUR"
    DAY = "DAY"
    WEEK = "WEEK"
    """From Monday to Monday."""
    MONTH = "MONTH"


@dataclass(frozen=True, slots=True)
class Window:
    """A half-open stretch of event time in Unix microseconds; None leaves a side open."""

    start_us: int | None
    end_us: int | None


def zone_from_name(name: str) -> ZoneInfo:
    """The IANA time zone; empty: UTC. Raises InvalidField."""
    if name and name not in _TIME_ZONES:
        raise InvalidField(field="time_zone", problem=f"{name[:64]!r} is not an IANA time zone")
    return ZoneInfo(name or "UTC")


def cut(start_us: int, end_us: int, size: WindowSize, zone: ZoneInfo) -> tuple[Window, ...]:
    """The windows that tile [start_us, end_us), in order and without gap or overlap; the first and the last are clipped
    to the interval, and an empty interval has none. Raises TooManyWindows, and InvalidField for years far off.
    """
    for field, moment_us in (("start_time", start_us), ("end_time", end_us)):
        if not _YEAR_MIN <= from_unix_microseconds(moment_us).year <= _YEAR_MAX:
            raise InvalidField(field=field, problem=f"with a window, between the years {_YEAR_MIN} and {_YEAR_MAX}")
    edges = [start_us]
    for edge_us in _edges(start_us, size, zone):
        if edge_us >= end_us:
            break
        edges.append(edge_us)
        if len(edges) > limits.QUERY_WINDOWS_MAX:
            raise TooManyWindows(maximum=limits.QUERY_WINDOWS_MAX)
    if start_us < end_us:
        edges.append(end_us)
    return tuple(Window(start, end) for start, end in pairwise(edges))


def _edges(start_us: int, size: WindowSize, zone: ZoneInfo) -> Iterator[int]:
    """Where windows begin, after start_us, for ever."""
    if size is WindowSize.HOUR:
        edge_us = start_us
        while True:
            edge_us = _next_hour(edge_us, zone)
            yield edge_us
    next_date = _NEXT_DATE[size]
    # Two days back: an instant may belong to a later day than its local date says, but never to one before that.
    day = _local(start_us, zone).date() - timedelta(days=2)
    reached_us = start_us
    while True:
        day = next_date(day)
        edge_us = _first_instant(day, zone)
        if edge_us > reached_us:
            yield edge_us
            reached_us = edge_us


def _next_monday(day: date) -> date:
    return day + timedelta(days=7 - day.weekday())


def _next_first(day: date) -> date:
    return (day.replace(day=1) + timedelta(days=32)).replace(day=1)


_NEXT_DATE: dict[WindowSize, Callable[[date], date]] = {
    WindowSize.DAY: lambda day: day + timedelta(days=1),
    WindowSize.WEEK: _next_monday,
    WindowSize.MONTH: _next_first,
}


def _next_hour(moment_us: int, zone: ZoneInfo) -> int:
    local = _local(moment_us, zone)
    into_hour_us = (local.minute * 60 + local.second) * _SECOND_US + local.microsecond
    full_us = moment_us + _HOUR_US - into_hour_us
    offset = local.utcoffset()
    if _local(full_us, zone).utcoffset() == offset:
        return full_us
    return _first(moment_us, full_us, lambda instant_us: _local(instant_us, zone).utcoffset() != offset)


def _first_instant(day: date, zone: ZoneInfo) -> int:
    midnight = datetime.combine(day, time.min)
    first, second = (unix_microseconds(midnight.replace(tzinfo=zone, fold=fold).astimezone(UTC)) for fold in (0, 1))
    if first <= second:
        return first
    # Clocks jump over midnight, somewhere between the two readings of it; zones change at full seconds.
    return _first(second, first, lambda instant_us: _local(instant_us, zone).replace(tzinfo=None) >= midnight)


def _first(before_us: int, after_us: int, holds: Callable[[int], bool]) -> int:
    """The first full second in (before, after] at which it holds; it does at after_us, and stays so once it does."""
    low, high = before_us // _SECOND_US, -(-after_us // _SECOND_US)
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle * _SECOND_US):
            high = middle
        else:
            low = middle
    return high * _SECOND_US


def _local(moment_us: int, zone: ZoneInfo) -> datetime:
    return from_unix_microseconds(moment_us).astimezone(zone)
