"""The decision what becomes of each event of a batch, given what the ledger holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from kit.clock import unix_microseconds
from services.metering.domain import limits
from services.metering.domain.digests import content_digest, identity_digest
from services.metering.domain.events import UsageEvent
from services.metering.domain.refusals import Refusal


class Status(Enum):
    """What became of an event."""

    ACCEPTED = "ACCEPTED"
    DUPLICATE = "DUPLICATE"
    CONFLICT = "CONFLICT"
    REJECTED = "REJECTED"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one event, its sequence (0 when it was refused) and why."""

    status: Status
    sequence: int = 0
    refusal: Refusal | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the ledger remembers for ever of an event."""

    sequence: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Fresh:
    """An event to append."""

    sequence: int
    identity: bytes
    content: bytes
    event: UsageEvent


@dataclass(frozen=True, slots=True)
class Acceptance:
    """The outcomes in the order of the batch, and what is to be appended, in sequence."""

    outcomes: tuple[Outcome, ...]
    fresh: tuple[Fresh, ...]


def accept(
    events: Sequence[UsageEvent], recorded: Mapping[bytes, Recorded], *, head_sequence: int, now: datetime
) -> Acceptance:
    """Decides a batch of sound events of one organization.

    recorded: what is known of the identities of the batch, by identity digest. An identity that repeats within the
    batch is treated as if it came in a later batch. What was recorded stays a DUPLICATE however old it is: only a new
    event is refused for its time.
    """
    known = dict(recorded)
    outcomes: list[Outcome] = []
    fresh: list[Fresh] = []
    for event in events:
        identity, content = identity_digest(event), content_digest(event)
        before = known.get(identity)
        if before is not None:
            outcomes.append(_repeated(before, content))
        elif refusal := _time_problem(event, now):
            outcomes.append(Outcome(Status.REJECTED, refusal=refusal))
        else:
            sequence = head_sequence + len(fresh) + 1
            known[identity] = Recorded(sequence, content)
            fresh.append(Fresh(sequence, identity, content, event))
            outcomes.append(Outcome(Status.ACCEPTED, sequence))
    return Acceptance(tuple(outcomes), tuple(fresh))


def _repeated(before: Recorded, content: bytes) -> Outcome:
    if before.content == content:
        return Outcome(Status.DUPLICATE, before.sequence)
    message = f"this source and id were recorded with other content as sequence {before.sequence}"
    return Outcome(Status.CONFLICT, refusal=Refusal("CONTENT_CONFLICT", message))


def _time_problem(event: UsageEvent, now: datetime) -> Refusal | None:
    now_ns = unix_microseconds(now) * 1_000
    time_ns = event.event_time_ns or 0
    if time_ns < now_ns - _ns(limits.ACCEPTED_BACK):
        return Refusal("EVENT_TOO_OLD", f"event_time: more than {limits.ACCEPTED_BACK.days} days back")
    if time_ns > now_ns + _ns(limits.ACCEPTED_AHEAD):
        minutes = limits.ACCEPTED_AHEAD // timedelta(minutes=1)
        return Refusal("EVENT_IN_FUTURE", f"event_time: more than {minutes} minutes ahead")
    return None


def _ns(duration: timedelta) -> int:
    return duration // timedelta(microseconds=1) * 1_000
