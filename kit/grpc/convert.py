"""What every service converts alike: moments and positions in a log."""

from __future__ import annotations

from datetime import datetime

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from kit.clock import from_unix_microseconds, unix_microseconds
from kit.errors import InvalidField
from kit.feed import Head, Position
from tollbook.feed.v1 import feed_pb2

_NANOS_PER_MICROSECOND = 1_000
_NANOS_PER_SECOND = 1_000_000_000


def moment_from_pb(timestamp: Timestamp, field: str) -> datetime:
    """A moment. Raises InvalidField when it is finer than a microsecond, the finest that the stores order by, or out of
    the range of a timestamp.
    """
    if timestamp.nanos % _NANOS_PER_MICROSECOND:
        raise InvalidField(field=field, problem="finer than a microsecond")
    try:
        return from_unix_microseconds(timestamp.ToMicroseconds())
    except (OverflowError, ValueError):
        raise InvalidField(field=field, problem="not a time between the years 1 and 9999") from None


def moment_to_pb(moment: datetime) -> Timestamp:
    """The moment, to the microsecond."""
    return unix_to_pb(unix_microseconds(moment))


def nanoseconds_from_pb(message: Timestamp | Duration) -> int:
    """A moment since 1970, or a duration, in whole nanoseconds, exactly. What is outside of protobuf's own range is no
    error here: the caller has bounds of its own.
    """
    return message.seconds * _NANOS_PER_SECOND + message.nanos


def unix_to_pb(microseconds: int) -> Timestamp:
    """Microseconds since 1970, as a moment. Raises ValueError out of the range of a timestamp."""
    timestamp = Timestamp()
    timestamp.FromMicroseconds(microseconds)
    return timestamp


def position_from_pb(message: feed_pb2.Position) -> Position:
    """The position."""
    return Position(message.sequence, message.commit_id)


def position_to_pb(position: Position) -> feed_pb2.Position:
    """The position."""
    return feed_pb2.Position(sequence=position.sequence, commit_id=position.commit_id)


def head_to_pb(head: Head) -> feed_pb2.Head:
    """The same on the wire."""
    return feed_pb2.Head(organization_id=head.key, position=position_to_pb(head.position))
