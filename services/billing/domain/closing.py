"""Cuts: when what of a subscription is invoiced, and which usage is still needed for it.

When a cut is due and what it looks at follow from the timeline and the cuts that were made, never from the clock of who
makes it: so it makes no difference who makes it, or how late.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from services.billing.domain import limits
from services.billing.domain.dues import Category, DueKey
from services.billing.domain.periods import Period
from services.billing.domain.timeline import Timeline

_TICK = timedelta(microseconds=1)


class CutKind(Enum):
    """Why an invoice is made."""

    OPENING = "OPENING"
    """The subscription began: what it pays in advance."""
    PERIOD = "PERIOD"
    """A period ended: its usage, and what begins with the next one."""
    EARLY = "EARLY"
    """The operator closes the period that goes on: its usage so far, and the next price that is not charged yet."""
    FINAL = "FINAL"
    """The subscription ended; and once more when no more usage can come for it."""
    RERATED = "RERATED"
    """The operator has a period that was closed looked at again."""
    PURCHASE = "PURCHASE"
    """Prepaid credits were bought: an invoice that is about no subscription, and no cut of one."""


@dataclass(frozen=True, slots=True)
class Cut:
    """What is made once of a subscription, and makes at most one invoice."""

    kind: CutKind
    period_start: datetime
    """Where the period begins that it closes, or within which it is made. Not its end: that of a trial can change."""
    ordinal: int = 0
    """Which one of several of this kind and period."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    """A cut that was made."""

    cut: Cut
    through_sequence: int
    """The last usage event that it could see."""
    invoice_id: str
    """Empty: there was nothing to invoice."""


@dataclass(frozen=True, slots=True)
class ScheduledCut:
    """A cut that is to be made by itself, and from when on."""

    cut: Cut
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a cut looks at: dues outside of it are neither invoiced nor taken back by it."""

    periods: tuple[Period, ...] = ()
    """The periods whose usage it looks at, in order; the last one is its own."""
    base_after: datetime
    """It looks at prices of intervals that end after this,"""
    base_through: datetime | None
    """and begin at or before this; None: at no price."""
    base_only: Period | None = None
    """Only at the price of this interval."""

    def holds(self, key: DueKey) -> bool:
        """Whether it looks at what the key is for."""
        interval = key.interval
        if key.category is Category.USAGE:
            return interval in self.periods
        if self.base_through is None or (self.base_only is not None and interval != self.base_only):
            return False
        return self.base_after < interval.end and interval.start <= self.base_through


def next_cut(timeline: Timeline, made: Collection[Cut]) -> ScheduledCut | None:
    """The next cut that comes by itself; None: none is left to come."""
    return min(_coming(timeline, made), key=lambda each: each.at, default=None)


def scope_of(timeline: Timeline, cut: Cut) -> Scope:
    """What a cut looks at. For an early one, `base_only` is for the caller to set: see `first_uncharged`."""
    period = timeline.period_at(cut.period_start)
    after = period.end - limits.ADJUSTED_FOR
    match cut.kind:
        case CutKind.OPENING:
            return Scope(base_after=timeline.start, base_through=timeline.opening)
        case CutKind.EARLY:
            return Scope(periods=(period,), base_after=after, base_through=period.end)
        case CutKind.RERATED:
            return Scope(periods=(period,), base_after=after, base_through=None)
        case CutKind.PURCHASE:
            msg = "a purchase is no cut of a subscription"
            raise AssertionError(msg)
        case CutKind.PERIOD | CutKind.FINAL:
            begun = (*timeline.periods(period.start), period)
            recent = tuple(each for each in begun if each.end > after)
            return Scope(periods=recent, base_after=after, base_through=period.end)


def cut_by_hand(timeline: Timeline, made: Collection[Cut], period: Period, now: datetime) -> Cut:
    """What it is to close a period now: early while it goes on, however often; what comes by itself when it is over and
    that was not made; else another look at it.
    """
    end = period.end if timeline.end is None else min(period.end, timeline.end)
    if now < end:
        return Cut(CutKind.EARLY, period.start)
    kind = CutKind.FINAL if period == last_period(timeline) else CutKind.PERIOD
    if Cut(kind, period.start) not in made:
        return Cut(kind, period.start)
    looks = [cut.ordinal for cut in made if (cut.kind, cut.period_start) == (CutKind.RERATED, period.start)]
    return Cut(CutKind.RERATED, period.start, max(looks, default=-1) + 1)


def first_uncharged(intervals: Iterable[Period], charged: Collection[Period]) -> Period | None:
    """The first of the intervals, in order, whose price is on no invoice; None: all are."""
    return next((interval for interval in intervals if interval not in charged), None)


def last_period(timeline: Timeline) -> Period | None:
    """The period in which the subscription ends; None while it has no end."""
    if timeline.end is None:
        return None
    return timeline.period_at(max(timeline.start, timeline.end - _TICK))


def _coming(timeline: Timeline, made: Collection[Cut]) -> Iterable[ScheduledCut]:
    """The next cut of each kind."""
    opening = Cut(CutKind.OPENING, timeline.start)
    if opening not in made:
        yield ScheduledCut(opening, timeline.opening)
    last = last_period(timeline)
    period = timeline.first_period()
    while Cut(CutKind.PERIOD, period.start) in made and period != last:
        period = timeline.next_period(period)
    if period != last:
        yield ScheduledCut(Cut(CutKind.PERIOD, period.start), max(period.end + limits.CLOSE_AFTER, timeline.opening))
    if last is None or timeline.end is None:
        return
    for ordinal, wait in enumerate((timedelta(), limits.START_BACK)):
        final = Cut(CutKind.FINAL, last.start, ordinal)
        if final not in made:
            # Like any other, it waits for the opening: an organization that changed its mind gets one invoice.
            yield ScheduledCut(final, max(timeline.end + wait + limits.CLOSE_AFTER, timeline.opening))
            return


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """How far a subscription is invoiced."""

    timeline: Timeline
    closes: tuple[Close, ...]

    def needed_from(self) -> datetime | None:
        """The start of the first period that a cut to come will look at; None: no cut will look at usage again."""
        made = {close.cut for close in self.closes}
        starts = [
            scope.periods[0].start
            for each in _coming(self.timeline, made)
            if (scope := scope_of(self.timeline, each.cut)).periods
        ]
        return min(starts, default=None)


@dataclass(frozen=True, slots=True)
class InvoicedUsage:
    """What no invoice needs any more: events up to a sequence that happened before a moment."""

    sequence: int
    before: datetime


def invoiced_usage(billed: Sequence[Closing], *, head: int, now: datetime) -> InvoicedUsage:
    """billed: how far an organization's subscriptions are invoiced that can bill usage. head: its last event.

    Events after the last close's are not invoiced, whenever they happened: an adjustment may follow. A subscription
    that ended and had its last cut needs none. Without any other there is nothing to invoice, but one may yet start as
    far back as subscriptions may.
    """
    needing = [(closing, since) for closing in billed if (since := closing.needed_from()) is not None]
    if not needing:
        return InvoicedUsage(head, now - limits.START_BACK)
    before = min([now - limits.START_BACK, *(since for _, since in needing)])
    through = [close.through_sequence for closing, _ in needing for close in closing.closes]
    return InvoicedUsage(min(head, max(through, default=0)), before)
