"""What metering refuses."""

from __future__ import annotations

from kit.errors import Refused


class UnknownMeter(Refused):
    """There is no meter {meter!r}; ListMeters names them."""

    reason = "UNKNOWN_METER"


class TooManyWindows(Refused):
    """The interval has more than {maximum} windows: take a shorter interval or longer windows."""

    reason = "LIMIT_EXCEEDED"


class TooManyRows(Refused):
    """The answer has more than {maximum} rows: narrow the interval, the grouping or the filters, or take longer
    windows.
    """

    reason = "LIMIT_EXCEEDED"


class TotalTooLarge(Refused):
    """The total of meter {meter!r}, values times milliseconds, is above the {maximum} that an answer can hold: take a
    shorter interval.
    """

    reason = "LIMIT_EXCEEDED"


class ReportTooOld(Refused):
    """report_time: more than {days} days back."""

    reason = "EVENT_TOO_OLD"


class ReportInFuture(Refused):
    """report_time: more than {seconds} seconds ahead."""

    reason = "EVENT_IN_FUTURE"


class NotCloudEvents(Refused):
    """The request is not CloudEvents 1.0: {problem}"""  # noqa: D400, D415 - the docstring is the message
