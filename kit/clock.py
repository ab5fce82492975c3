"""Time as a value that is handed in, so that tests can hold it still."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> datetime:
        """The time now, in UTC, with microseconds."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """The machine's time."""
        return datetime.now(UTC)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def unix_microseconds(moment: datetime) -> int:
    """Whole microseconds since 1970, exactly; floats would lose them."""
    return (moment - _EPOCH) // _MICROSECOND


def from_unix_microseconds(microseconds: int) -> datetime:
    """The moment in UTC, exactly."""
    return _EPOCH + microseconds * _MICROSECOND
