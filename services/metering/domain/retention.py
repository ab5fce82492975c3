"""How long raw events are kept, who must have passed them before they go, and what can be answered afterwards.

Raw events go a week at a time, by receive_time. Of an organization they go in sequence, from the first on: what is gone
lies up to its **horizon**. Sums and counts by bucket remain of them (sealed totals), and their identities.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from kit.errors import OutOfRetention
from kit.feed import Position
from services.metering.domain.meters import Aggregation
from services.metering.domain.rollups import ROLLED_UP, can_be_rolled_up_by, whole_buckets
from services.metering.domain.usage_query import UsageQuery
from services.metering.domain.windows import Window

WEEK = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Confirmation:
    """How far a follower, or what is made from the ledger, needs an organization's raw events no longer."""

    organization_id: str
    position: Position
    """Up to here it has what it needs. The commit id may be unknown (empty)."""
    needed_from: datetime | None
    """Events of this time and later it needs still, whatever their sequence; None: none of them."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one organization has in a week: entries after one sequence up to another, none missing in between."""

    organization_id: str
    after: int
    upto: int
    last_event_time: datetime

    @property
    def event_count(self) -> int:
        """How many entries."""
        return self.upto - self.after


@dataclass(frozen=True, slots=True)
class NotPassed:
    """A follower that still needs raw events of an organization."""

    follower: str
    organization_id: str


def start_of(week: date) -> datetime:
    """When a week begins."""
    return datetime.combine(week, time.min, UTC)


def due_weeks(weeks: Iterable[date], *, now: datetime, retention: timedelta) -> list[date]:
    """The weeks of which every event is older than the retention, oldest first."""
    return sorted(week for week in weeks if start_of(week) + WEEK <= now - retention)


def not_passed(
    shares: Iterable[Share], confirmations: Mapping[tuple[str, str], Confirmation], followers: Sequence[str]
) -> Iterator[NotPassed]:
    """Who is still before the end of an organization's share, or said nothing of it. confirmations: by follower and
    organization.
    """
    for share in shares:
        for follower in followers:
            confirmed = confirmations.get((follower, share.organization_id))
            if confirmed is None or not _is_passed(share, confirmed):
                yield NotPassed(follower, share.organization_id)


def _is_passed(share: Share, confirmed: Confirmation) -> bool:
    return confirmed.position.sequence >= share.upto and (
        confirmed.needed_from is None or confirmed.needed_from > share.last_event_time
    )


def refuse_before(horizon: Position, sequence: int) -> None:
    """Raises OutOfRetention for a sequence before the horizon: neither what came after it can be read, nor what stood
    there be told.
    """
    if sequence < horizon.sequence:
        problem = f"The raw events up to sequence {horizon.sequence} are no longer kept, so not from {sequence} on."
        raise OutOfRetention(problem=problem)


def refuse_finer() -> OutOfRetention:
    """What to raise when an answer needs raw events that are gone."""
    return OutOfRetention(
        problem="Of a part of the interval only sums and counts by quarter of an hour, project, team, user and agent"
        " are kept: move its edges to full quarters in UTC, or ask for a later one."
    )


def raw_windows(query: UsageQuery, aggregation: Aggregation) -> tuple[Window, ...]:
    """The stretches of event time of which sums and counts by bucket do not answer the query, only events do; at least
    one window is asked for.
    """
    start_us, end_us = query.windows[0].start_us, query.windows[-1].end_us
    if aggregation is Aggregation.TIME_WEIGHTED_SUM:
        return (Window(None, end_us),)
    dimensions = {*query.group_by, *(each.dimension for each in query.filters)}
    buckets = whole_buckets(query.windows)
    if aggregation not in ROLLED_UP or buckets is None or not can_be_rolled_up_by(dimensions):
        return (Window(start_us, end_us),)
    edges = (Window(start_us, buckets.start_us), Window(buckets.end_us, end_us))
    return tuple(edge for edge in edges if edge.start_us != edge.end_us)
