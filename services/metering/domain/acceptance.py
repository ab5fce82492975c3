"""The decision what becomes of each event of a batch, given what the ledger holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum

from kit.clock import unix_microseconds
from services.metering.domain import limits
from services.metering.domain.digests import CONTENT_VERSION, content_digest, identity_digest
from services.metering.domain.events import LedgerEvent, UsageEvent
from services.metering.domain.refusals import Refusal
from services.metering.domain.volume import volume_of, volume_problem


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
class Candidate:
    """An event to decide on, with its digests: they are worked out once, before any lock is taken."""

    event: UsageEvent
    identity: bytes
    content: bytes
    """Of CONTENT_VERSION."""
    target: bytes | None
    """The identity of what it takes back, if it is a reversal."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the ledger remembers for ever of an event."""

    sequence: int
    content: bytes
    content_version: int


@dataclass(frozen=True, slots=True)
class Target:
    """A recorded event that a reversal names."""

    sequence: int
    event: UsageEvent | None
    """As recorded; None: its raw event is not kept any more."""
    is_settled: bool
    """Whether it was reversed before, or is itself a reversal."""


@dataclass(frozen=True, slots=True)
class Fresh:
    """An event to append, and what it takes back, if it is a reversal."""

    sequence: int
    candidate: Candidate
    target: Target | None = None

    def entry(self, commit_id: str, receive_time_us: int) -> LedgerEvent:
        """The ledger's entry for it."""
        taken_back = None if self.target is None else self.target.event
        return LedgerEvent(self.sequence, commit_id, receive_time_us, self.candidate.event, taken_back)


@dataclass(frozen=True, slots=True)
class Acceptance:
    """The outcomes in the order of the batch, what is to be appended, in sequence, and what the ledger then holds."""

    outcomes: tuple[Outcome, ...]
    fresh: tuple[Fresh, ...]
    volume: int


def candidate(event: UsageEvent) -> Candidate:
    """The event with its digests."""
    target = None if event.reversal_of is None else identity_digest(event.reversal_of)
    return Candidate(event, identity_digest(event), content_digest(event), target)


def accept(
    batch: Sequence[Candidate],
    recorded: Mapping[bytes, Recorded],
    targets: Mapping[bytes, Target],
    *,
    head_sequence: int,
    volume: int,
    now: datetime,
) -> Acceptance:
    """Decides a batch of sound events of one organization, whose ledger reaches to head_sequence and holds `volume`.

    recorded, targets: what is known of the identities of the batch, and of those that its reversals name, by identity
    digest. An identity that repeats within the batch, or a reversal of an event earlier in it, is treated as if it came
    in a later batch. What was recorded stays a DUPLICATE however old it is: only a new event is refused for its time,
    and a reversal never is, because its time is that of what it takes back.
    """
    known, reversible, window = dict(recorded), dict(targets), _TimeWindow.around(now)
    named = {each.target for each in batch if each.target is not None}
    outcomes: list[Outcome] = []
    fresh: list[Fresh] = []
    for each in batch:
        before = known.get(each.identity)
        if before is not None:
            outcomes.append(_repeated(before, each))
            continue
        target = None if each.target is None else reversible.get(each.target)
        if each.target is None:
            added = volume_of(each.event)
            refusal = window.problem(each.event) or volume_problem(added, volume)
        else:
            added = 0 if target is None or target.event is None else -volume_of(target.event)
            refusal = _reversal_problem(target)
        if refusal is not None:
            outcomes.append(Outcome(Status.REJECTED, refusal=refusal))
            continue
        sequence = head_sequence + len(fresh) + 1
        known[each.identity] = Recorded(sequence, each.content, CONTENT_VERSION)
        if each.identity in named:
            reversible[each.identity] = Target(sequence, each.event, is_settled=each.target is not None)
        if each.target is not None and target is not None:
            reversible[each.target] = replace(target, is_settled=True)
        volume += added
        fresh.append(Fresh(sequence, each, target))
        outcomes.append(Outcome(Status.ACCEPTED, sequence))
    return Acceptance(tuple(outcomes), tuple(fresh), volume)


def _repeated(before: Recorded, again: Candidate) -> Outcome:
    version = before.content_version
    content = again.content if version == CONTENT_VERSION else content_digest(again.event, version=version)
    if before.content == content:
        return Outcome(Status.DUPLICATE, before.sequence)
    message = f"this source and id were recorded with other content as sequence {before.sequence}"
    return Outcome(Status.CONFLICT, refusal=Refusal("CONTENT_CONFLICT", message))


def _reversal_problem(target: Target | None) -> Refusal | None:
    if target is None:
        return Refusal("REVERSAL_TARGET_NOT_FOUND", "reversal_of: no event with this source and id was recorded")
    if target.is_settled:
        message = f"reversal_of: sequence {target.sequence} was reversed before, or is itself a reversal"
        return Refusal("ALREADY_REVERSED", message)
    if target.event is None:
        message = f"reversal_of: sequence {target.sequence} is older than the raw events that are kept"
        return Refusal("OUT_OF_RETENTION", message)
    return None


@dataclass(frozen=True, slots=True)
class _TimeWindow:
    """Of which time events are accepted, in Unix nanoseconds."""

    oldest_ns: int
    newest_ns: int

    @classmethod
    def around(cls, now: datetime) -> _TimeWindow:
        oldest, newest = now - limits.ACCEPTED_BACK, now + limits.ACCEPTED_AHEAD
        return cls(unix_microseconds(oldest) * 1_000, unix_microseconds(newest) * 1_000)

    def problem(self, event: UsageEvent) -> Refusal | None:
        time_ns = event.event_time_ns or 0
        if time_ns > self.newest_ns:
            minutes = limits.ACCEPTED_AHEAD // timedelta(minutes=1)
            return Refusal("EVENT_IN_FUTURE", f"event_time: more than {minutes} minutes ahead")
        if time_ns >= self.oldest_ns:
            return None
        if event.is_backfill:
            return Refusal("EVENT_TOO_OLD", "event_time: before 1970") if time_ns < 0 else None
        return Refusal("EVENT_TOO_OLD", f"event_time: more than {limits.ACCEPTED_BACK.days} days back")
