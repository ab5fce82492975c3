"""What metering refuses."""

from __future__ import annotations

from enum import Enum

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


class TaskTimeTooLarge(Refused):
    """The {added_ms} ms that this report adds are more than the organization's totals can still hold: reverse the
    events whose quantities are wrong.
    """

    reason = "LIMIT_EXCEEDED"


class NotCloudEvents(Refused):
    """The request is not CloudEvents 1.0: {problem}"""  # noqa: D400, D415 - the docstring is the message


class HeldReason(Enum):
    """Why a week of raw events that is due is still there."""

    NOT_PASSED = "NOT_PASSED"
    """A follower or an invoice needs it still, or has said nothing."""
    NO_ARCHIVE = "NO_ARCHIVE"
    """There is no folder for its file."""
    ARCHIVE_FAILED = "ARCHIVE_FAILED"
    """Its file could not be written, or did not read back."""
    OUT_OF_ORDER = "OUT_OF_ORDER"
    """Of some organization it is not what comes next: sequences or events are missing."""
    BUSY = "BUSY"
    """Events were read or written at every moment that it was tried."""
    REFUSED = "REFUSED"
    """The database does not find it sealed, archived or confirmed, or counts other events in it."""


class HeldBack(Exception):
    """A week of raw events cannot go now; nothing that was done for it needs to be undone."""

    def __init__(self, reason: HeldReason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail
