"""What the use cases of metering need of the world."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Protocol, TypeVar

from kit.feed import Page, Position
from kit.head_watch import Look
from services.metering.domain import limits
from services.metering.domain.acceptance import Outcome
from services.metering.domain.events import LedgerEvent, UsageEvent
from services.metering.domain.members import LevelMeters, MemberTotals
from services.metering.domain.meters import Meter, MeterRequest
from services.metering.domain.retention import Confirmation, Share
from services.metering.domain.task_time import TaskReport, TaskTimeAnswer
from services.metering.domain.usage_query import UsageQuery, UsageRow

_ItemT_contra = TypeVar("_ItemT_contra", contravariant=True)
_ResultT_co = TypeVar("_ResultT_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Interval:
    """A half-open interval of event time; None leaves a side open."""

    start: datetime | None
    end: datetime | None


@dataclass(frozen=True, slots=True)
class Totals:
    """Quantities by meter in base units, and the position of the ledger that they include."""

    quantities: Mapping[str, int]
    position: Position
    members: MemberTotals = field(default_factory=MemberTotals)


@dataclass(frozen=True, slots=True)
class UsageAnswer:
    """The rows of a usage query, and the position of the ledger that they include."""

    rows: Sequence[UsageRow]
    position: Position


class Appender(Protocol[_ItemT_contra, _ResultT_co]):
    """Takes batches into a store, each in one transaction."""

    async def append(self, items: Sequence[_ItemT_contra], /, *, now: datetime) -> Sequence[_ResultT_co]:
        """One result for each item, in order; when it returns, all are committed and synced. Idempotent. Raises
        DependencyUnavailable when the outcome is unknown; the same items again resolve it.
        """
        ...


@dataclass(frozen=True, slots=True)
class EventPage:
    """Events of an interval, in sequence."""

    entries: Sequence[LedgerEvent]
    horizon: int
    """Up to this sequence raw events are gone, so none of them is listed; 0: all are there."""


class LedgerWriter(Appender[UsageEvent, Outcome], Protocol):
    """Appends to the ledgers of organizations."""

    async def append(self, events: Sequence[UsageEvent], /, *, now: datetime) -> Sequence[Outcome]:
        """Records sound events of any organizations in one transaction; outcomes in the order given, decided by
        `acceptance.accept` per organization.

        When it returns, what is ACCEPTED is committed and synced. Sequences are gapless per organization and in
        commit order. The same batch again, or at the same time elsewhere, records nothing twice. Of reversals of one
        event, one is accepted for ever; its entry counts as the event negated, and is dated as it. Within an
        organization no receive_time is before that of a lower sequence: where `now` is, that one is taken. Raises
        DependencyUnavailable when the outcome is unknown; the same batch again resolves it.
        """
        ...


class LedgerReader(Protocol):
    """Reads one organization's ledger."""

    async def totals(
        self,
        organization_id: str,
        interval: Interval,
        *,
        as_of_sequence: int | None,
        levels: Sequence[LevelMeters] = (),
        members_max: int = limits.SNAPSHOT_MEMBERS_MAX,
    ) -> Totals:
        """Exact sums of every measurement in the interval, up to as_of_sequence (None: the head), in one snapshot: what
        adding up the entries comes to. A meter of which nothing is left but reversed events may be missing. Raises
        OutOfRetention as UsageReader does.

        The same of each member of the levels and the measurements asked of them, as far as it is not 0; an event that
        does not name the level is of no member. Of more than members_max, what domain.members.largest leaves.
        """
        ...

    def read(self, organization_id: str, after: Position) -> AsyncIterator[Page[LedgerEvent]]:
        """The events after a position up to the head, in sequence. Raises LogRewound for a position that is not in
        this ledger, and OutOfRetention when the next events are gone.
        """
        ...

    async def page(self, organization_id: str, interval: Interval, *, after_sequence: int, count: int) -> EventPage:
        """The first `count` events after a sequence whose time is in the interval, in sequence; a reversal has the
        time of what it takes back.
        """
        ...


class LedgerHeads(Protocol):
    """Reads how far every ledger reaches."""

    async def heads(self, mark: str) -> Look:
        """The heads of organizations with events; as kit.head_watch.ReadHeads."""
        ...


class MeterCatalog(Protocol):
    """Knows the meters."""

    async def meters(self) -> Mapping[str, Meter]:
        """Every meter by name."""
        ...


class MeterRegistry(MeterCatalog, Protocol):
    """Knows the meters and takes new ones."""

    async def add(self, request: MeterRequest) -> Meter:
        """Adds the meter, for ever, and answers it as it is kept; `meters` has it at once. Repeating a request, or the
        same meter under another id, changes nothing. Raises AlreadyExists, RequestIdReused and LimitExceeded, as
        domain.meters.decide says.
        """
        ...


class UsageReader(Protocol):
    """Totals one organization's usage."""

    async def usage(self, organization_id: str, query: UsageQuery, *, as_of_sequence: int | None) -> UsageAnswer:
        """The rows that domain.aggregation.total defines, over the entries up to as_of_sequence (None: the head), in
        one snapshot; by meter, window and group values. Of an answer with more than QUERY_ROWS_MAX rows, only some, but
        more than the maximum.

        Raises OutOfRetention when as_of_sequence is before the horizon, or when the answer may need an event that is
        gone: an answer is never smaller for what was dropped. Sums and counts over full buckets, by what rollups tell
        apart, never need one.
        """
        ...


class TaskTimes(Appender[TaskReport, TaskTimeAnswer], Protocol):
    """Remembers how long tasks ran, and records what each report adds."""

    async def append(self, reports: Sequence[TaskReport], /, *, now: datetime) -> Sequence[TaskTimeAnswer]:
        """Takes sound reports of any organizations, one after another as domain.task_time.take decides on what is
        remembered of each task.

        What they add is in the ledger, and remembered, in one transaction: all or nothing. Reports of one task at the
        same time wait for each other. Raises TaskTimeTooLarge when the organization's totals cannot hold what one adds,
        and DependencyUnavailable when the outcome is unknown; the same reports again resolve it.
        """
        ...


class Confirmations(Protocol):
    """Remembers how far followers need raw events no longer."""

    async def confirm(self, follower: str, confirmations: Sequence[Confirmation], *, now: datetime) -> int:
        """Keeps what a follower says of different organizations, in place of what it said before; answers of how many.
        The others are not at or before the head of their ledger.
        """
        ...


@dataclass(frozen=True, slots=True)
class Weeks:
    """The weeks of which there are raw events, by their Mondays, oldest first."""

    kept: Sequence[date]
    """In the ledger."""
    leaving: Sequence[date]
    """Out of it already, and not dropped yet."""


@dataclass(frozen=True, slots=True)
class ArchivedFile:
    """A file with every raw event of a week."""

    name: str
    sha256: bytes
    row_count: int
    byte_count: int


RawRow = Mapping[str, object]
"""A raw event as it is stored, by column."""


class OldWeeks(Protocol):
    """The weeks of raw events, and how they go. Doing any of it again, or by two at once, changes nothing more."""

    def alone(self) -> AbstractAsyncContextManager[bool]:
        """Whether nobody else retires weeks while the block lasts. It saves work and files, and is no condition."""
        ...

    async def weeks(self) -> Weeks:
        """The weeks that there are."""
        ...

    async def shares(self, week: date) -> Sequence[Share]:
        """What every organization has in the oldest week of the ledger. Raises HeldBack when that does not follow what
        it lost before.
        """
        ...

    async def confirmations(self) -> Mapping[tuple[str, str], Confirmation]:
        """What was confirmed, by follower and organization."""
        ...

    async def seal(self, week: date, share: Share) -> None:
        """Adds the share up into sealed totals, for ever. Raises HeldBack when an event of it is missing."""
        ...

    def rows(self, week: date, share: Share) -> AsyncIterator[Sequence[RawRow]]:
        """The raw events of a share, in sequence, a few at a time."""
        ...

    async def archived(self, week: date) -> ArchivedFile | None:
        """The file that holds the week."""
        ...

    async def set_archived(self, week: date, file: ArchivedFile, *, now: datetime) -> None:
        """Remembers the file that holds the week, in place of another one. None is replaced once the week is out."""
        ...

    async def detach(self, week: date, followers: Sequence[str]) -> None:
        """Takes the week out of the ledger and moves the horizons, at once for every reader; totals stay what they
        were. Looks for itself whether the week is sealed, archived and confirmed by the followers. Raises HeldBack:
        with BUSY when somebody reads or writes events just now.
        """
        ...

    async def drop(self, week: date) -> None:
        """Drops a week that is out of the ledger, after counting that it holds what was sealed. Raises HeldBack."""
        ...


class Archive(Protocol):
    """Where raw events are kept when the ledger drops them."""

    async def write(self, week: date, rows: AsyncIterator[Sequence[RawRow]]) -> ArchivedFile:
        """Keeps the rows of a week in one file, in place of one that was there. When it returns, the file is whole and
        synced, and was read back; its digest stands beside it. Memory is bounded. Raises OSError.
        """
        ...

    async def holds(self, file: ArchivedFile) -> bool:
        """Whether the file is there, to the byte. Raises OSError."""
        ...
