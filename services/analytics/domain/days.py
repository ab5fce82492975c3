"""Days of an organization's time zone as intervals of time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo

from kit.errors import InvalidField, LimitExceeded
from services.analytics.domain import limits

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_DAYS_BEFORE_END = 29


@dataclass(frozen=True, slots=True)
class Interval:
    """A half-open interval of event time, in UTC."""

    start: datetime
    end: datetime


def interval_of_days(start_date: str, end_date: str, *, zone: tzinfo, now: datetime) -> Interval:
    """From the first instant of start_date to the first instant after end_date, both `YYYY-MM-DD` in the zone.

    An empty end_date is today in the zone, an empty start_date 29 days before end_date. Where clocks change, a day
    has 23 or 25 hours; the intervals of consecutive days tile. Raises InvalidField and LimitExceeded.
    """
    end = _date_from_text("end_date", end_date) if end_date else now.astimezone(zone).date()
    start = _date_from_text("start_date", start_date) if start_date else _shifted("end_date", end, -_DAYS_BEFORE_END)
    if end < start:
        raise InvalidField(field="end_date", problem=f"{end} is before start_date {start}")
    days = (end - start).days + 1
    if days > limits.SUMMARY_DAYS_MAX:
        raise LimitExceeded(what="days from start_date to end_date", actual=days, maximum=limits.SUMMARY_DAYS_MAX)
    return Interval(
        _first_instant("start_date", start, zone),
        _first_instant("end_date", _shifted("end_date", end, 1), zone),
    )


def _date_from_text(field: str, text: str) -> date:
    # fromisoformat alone would take `20260131` and week dates too.
    if _DATE.fullmatch(text):
        try:
            return date.fromisoformat(text)
        except ValueError:
            pass
    raise InvalidField(field=field, problem=f"{text[:32]!r} is not a date of the form YYYY-MM-DD")


def _shifted(field: str, day: date, days: int) -> date:
    try:
        return day + timedelta(days=days)
    except OverflowError:
        raise _out_of_range(field, day) from None


def _first_instant(field: str, day: date, zone: tzinfo) -> datetime:
    # Midnight may happen twice: fold 0 is the first time. It may not happen: fold 0 is then the instant of the jump.
    try:
        return datetime.combine(day, time.min, zone).astimezone(UTC)
    except OverflowError:
        raise _out_of_range(field, day) from None


def _out_of_range(field: str, day: date) -> InvalidField:
    return InvalidField(field=field, problem=f"{day} is too close to the first or last day of the calendar")
