"""Billing periods: computed from the anchor alone, in UTC, half-open, without gap or overlap."""

from __future__ import annotations

import calendar
from dataclasses import dataclass
from datetime import UTC, datetime

_MONTHS_PER_YEAR = 12


@dataclass(frozen=True, slots=True)
class Period:
    """A half-open interval: the start belongs to it, the end to the next one."""

    start: datetime
    end: datetime


def nth_start(anchor: datetime, months: int) -> datetime:
    """The start of the period `months` after the anchor's: the same day and time of day, or the month's last day when
    it has no such day. Always counted from the anchor and never from the period before, so that one short month does
    not move all that follow it.
    """
    moment = anchor.astimezone(UTC)
    year, month_index = divmod(moment.year * _MONTHS_PER_YEAR + moment.month - 1 + months, _MONTHS_PER_YEAR)
    month = month_index + 1
    return moment.replace(year=year, month=month, day=min(moment.day, calendar.monthrange(year, month)[1]))


def period_at(anchor: datetime, moment: datetime) -> Period:
    """The period that holds the moment; the first one for a moment before the anchor."""
    at = moment.astimezone(UTC)
    begin = anchor.astimezone(UTC)
    months = max(0, (at.year - begin.year) * _MONTHS_PER_YEAR + at.month - begin.month)
    if months and nth_start(anchor, months) > at:
        months -= 1
    return Period(nth_start(anchor, months), nth_start(anchor, months + 1))
