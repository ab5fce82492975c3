"""What an organization used of each meter in a period, what it may use, and what that costs.

The costs are the dues that invoices are made of, so that both come to the same; see rating.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from kit.money import Money
from services.billing.domain.catalog import LimitKind, Plan
from services.billing.domain.dues import Due
from services.billing.domain.meters import Meter
from services.billing.domain.periods import Period
from services.billing.domain.rating import Counting, Counts, Terms, countings, period_dues
from services.billing.domain.timeline import PlanRef, Timeline

_TICK = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Stretch:
    """A period of a subscription, as far as the subscription is in it."""

    timeline: Timeline
    period: Period
    """The whole period."""

    @property
    def interval(self) -> Period:
        """The part of the period that the subscription was in force, or will be; empty when it never was."""
        end = self.timeline.end
        start = max(self.period.start, self.timeline.start)
        return Period(start, max(start, self.period.end if end is None else min(self.period.end, end)))


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterUsage:
    """Of one meter, in its base unit."""

    meter: str
    used_quantity: int
    limit_quantity: int | None
    """None: unlimited."""
    included_quantity: int
    """What costs nothing beyond the plan's price; of several charges for the meter, what none of them asks for."""
    overage_quantity: int
    """What of it is charged."""
    cost: Money


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodUsage:
    """A stretch, and everything that is counted in it."""

    stretch: Stretch
    plan: PlanRef
    """The last terms in force in it, which may yet lie ahead: those that limits and inclusions are of."""
    meters: tuple[MeterUsage, ...]
    """By meter name."""
    cost: Money
    """The sum of theirs."""


def recent_stretches(timelines: Sequence[Timeline], now: datetime, *, count: int) -> tuple[Stretch, ...]:
    """The last periods that have begun, the latest first, over all subscriptions of an organization; none that its
    subscription was never in.
    """
    found = [
        stretch
        for timeline in timelines
        for period in timeline.periods(max(now, timeline.start) + _TICK)
        if (stretch := Stretch(timeline, period)).interval.start < stretch.interval.end
    ]
    return tuple(sorted(found, key=lambda each: each.interval.start, reverse=True)[:count])


def wanted_counts(stretches: Iterable[Stretch], terms: Terms) -> tuple[Counting, ...]:
    """What has to be counted for these stretches: all of each, and what the dues need."""
    wanted: dict[Period, frozenset[str]] = {}
    for stretch in stretches:
        shown = Counting(stretch.interval, _meters(stretch, terms))
        for counting in (shown, *countings(stretch.timeline, terms, [stretch.period])):
            wanted[counting.interval] = wanted.get(counting.interval, frozenset()) | counting.meters
    return tuple(Counting(interval, meters) for interval, meters in wanted.items())


def usage_of(stretch: Stretch, terms: Terms, meters: Mapping[str, Meter], counts: Counts) -> PeriodUsage:
    """What was used and what it costs, as of the counts, which hold at least what `wanted_counts` says."""
    timeline = stretch.timeline
    dues = period_dues(timeline, terms, meters, stretch.period, counts)
    last = timeline.segments(stretch.period)[-1].phase.plan
    rows = tuple(
        _usage_of_meter(stretch, meter, terms[last], dues, counts) for meter in sorted(_meters(stretch, terms))
    )
    total = sum(row.cost.minor for row in rows)
    return PeriodUsage(stretch=stretch, plan=last, meters=rows, cost=Money(total, timeline.currency_code))


def _usage_of_meter(stretch: Stretch, meter: str, plan: Plan, dues: Sequence[Due], counts: Counts) -> MeterUsage:
    limit = next((each for each in plan.meters if each.meter == meter), None)
    charges = [charge for charge in plan.book(stretch.timeline.currency_code).usage_charges if charge.meter == meter]
    charged: dict[str, int] = {}
    minor = 0
    for due in dues:
        if due.quantities is not None and due.quantities.meter == meter:
            minor += due.amount.minor
            charge_id = due.key.charge_id
            charged[charge_id] = charged.get(charge_id, 0) + due.quantities.charged_quantity
    free_of_charge = limit.included_quantity if limit else 0
    return MeterUsage(
        meter=meter,
        used_quantity=counts.of(stretch.interval, meter),
        limit_quantity=limit.limit_quantity if limit else None,
        included_quantity=min((charge.included_quantity for charge in charges), default=free_of_charge),
        overage_quantity=max(charged.values(), default=0),
        cost=Money(minor, stretch.timeline.currency_code),
    )


def _meters(stretch: Stretch, terms: Terms) -> frozenset[str]:
    """Those that are counted within a period and that its terms limit or charge."""
    plans = [terms[segment.phase.plan] for segment in stretch.timeline.segments(stretch.period)]
    limited = {each.meter for plan in plans for each in plan.meters if each.limit_kind is LimitKind.PERIOD}
    currency_code = stretch.timeline.currency_code
    return frozenset(limited | {charge.meter for plan in plans for charge in plan.book(currency_code).usage_charges})
