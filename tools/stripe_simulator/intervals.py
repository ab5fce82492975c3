"""Where billing periods begin and end: whole steps from an anchor, in UTC, a month's missing days at its last day."""

import calendar
from datetime import UTC, datetime, timedelta

_DAY_SECONDS = 86_400
_STEP_SECONDS = {"day": _DAY_SECONDS, "week": 7 * _DAY_SECONDS}
_STEP_MONTHS = {"month": 1, "year": 12}
# No month is shorter: so many steps, and perhaps some more, lie between two moments.
_MONTH_SECONDS_MAX = 31 * _DAY_SECONDS


def boundary(anchor: int, *, interval: str, interval_count: int, index: int) -> int:
    """The boundary so many periods after the anchor."""
    steps = interval_count * index
    if interval in _STEP_SECONDS:
        return anchor + steps * _STEP_SECONDS[interval]
    start = datetime.fromtimestamp(anchor, UTC)
    months = start.month - 1 + steps * _STEP_MONTHS[interval]
    year, month = start.year + months // 12, months % 12 + 1
    day = min(start.day, calendar.monthrange(year, month)[1])
    return int(start.replace(year=year, month=month, day=day).timestamp())


def first_boundary_after(anchor: int, *, interval: str, interval_count: int, moment: int) -> int:
    """The first boundary after the moment; the anchor itself when it is still to come."""
    if moment < anchor:
        return anchor
    step = _STEP_SECONDS.get(interval) or _MONTH_SECONDS_MAX * _STEP_MONTHS[interval]
    index = (moment - anchor) // (step * interval_count)
    while (found := boundary(anchor, interval=interval, interval_count=interval_count, index=index)) <= moment:
        index += 1
    return found


def later_by_days(moment: int, days: int) -> int:
    """So many days later."""
    return moment + int(timedelta(days=days).total_seconds())
