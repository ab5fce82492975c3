"""Timelines: which terms of a subscription were in force when, and what of a period falls under which of them.

Everything here is computed from the timeline alone, in UTC, half-open: periods tile, and segments tile their period
from the subscription's start to its end.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from services.billing.domain.periods import Period, nth_start


@dataclass(frozen=True, slots=True)
class PlanRef:
    """Which terms: a version of a plan, or the customer's own."""

    plan_id: str
    version: int
    custom_id: str = ""
    """The terms that were agreed with this customer alone; empty: those of the plan's version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """What is in force from an instant on, until the next phase begins."""

    start: datetime
    plan: PlanRef
    is_trial: bool = False
    is_paused: bool = False


@dataclass(frozen=True, slots=True)
class Segment:
    """The part of a period, or of any other interval, that falls into one phase; never empty."""

    interval: Period
    phase: Phase
    period: Period
    """The whole of which it is a part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """A subscription from its start to its end."""

    subscription_id: str
    currency_code: str
    start: datetime
    anchor: datetime
    """Where its monthly periods are counted from: the start, or the end of its trial. What is before it is the trial's
    period."""
    end: datetime | None
    """None: open."""
    phases: tuple[Phase, ...]
    """By start, the first one at the subscription's start; of several that begin at one instant the last one counts.
    Those that lie ahead are scheduled."""
    opening: datetime
    """When its opening is invoiced; nothing is invoiced by itself before."""

    def period_at(self, moment: datetime) -> Period:
        """The period that holds the moment; the first one for a moment before the start. It is whole also where the
        subscription ends within it.
        """
        found = self.first_period()
        while found.end <= moment:
            found = self.next_period(found)
        return found

    def periods(self, until: datetime) -> tuple[Period, ...]:
        """Every period that begins before `until` and before the subscription's end, in order; each one whole."""
        last = until if self.end is None else min(until, self.end)
        found: list[Period] = []
        following = self.first_period()
        while following.start < last:
            found.append(following)
            following = self.next_period(following)
        return tuple(found)

    def first_period(self) -> Period:
        """The trial's period, or the first month of a subscription without one."""
        return self._month(0) if self.start >= self.anchor else Period(self.start, self.anchor)

    def next_period(self, period: Period) -> Period:
        """The period after one of this timeline's."""
        return self._month(months_between(self.anchor, period.end))

    def intervals(self, months: int, *, through: datetime) -> tuple[Period, ...]:
        """The intervals of so many months from the anchor on that begin at or before `through`, and before the
        subscription's end: what a price of a month or of a year is charged for. A trial is none of them.
        """
        found: list[Period] = []
        count = 0
        while (start := nth_start(self.anchor, count)) <= through and (self.end is None or start < self.end):
            found.append(Period(start, nth_start(self.anchor, count + months)))
            count += months
        return tuple(found)

    def segments(self, period: Period) -> tuple[Segment, ...]:
        """The parts of an interval by phase, in order; they tile what of the interval is within the subscription."""
        found: list[Segment] = []
        for number, phase in enumerate(self.phases):
            begin = max(phase.start, period.start)
            ends = [period.end]
            if number + 1 < len(self.phases):
                ends.append(self.phases[number + 1].start)
            if self.end is not None:
                ends.append(self.end)
            if begin < min(ends):
                found.append(Segment(Period(begin, min(ends)), phase, period))
        return tuple(found)

    def phase_at(self, moment: datetime) -> Phase:
        """What is in force at a moment; before the start the first phase, after the end the last one before it."""
        last = moment if self.end is None else min(moment, self.end)
        begun = [phase for phase in self.phases if phase.start <= last]
        return begun[-1] if begun else self.phases[0]

    def _month(self, count: int) -> Period:
        return Period(nth_start(self.anchor, count), nth_start(self.anchor, count + 1))


def months_between(anchor: datetime, start: datetime) -> int:
    """How many months after the anchor a period begins that begins at `start`."""
    begin, at = anchor.astimezone(UTC), start.astimezone(UTC)
    return (at.year - begin.year) * 12 + at.month - begin.month
