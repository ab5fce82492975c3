"""Rating: from what was in force and what was used to what is due.

Everything is computed from the timeline, the terms and the counts alone, in exact fractions; each due is rounded once,
to the smallest unit, half away from zero. What is invoiced already plays no part: see invoicing.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction

from kit.money import Money, currency_exponent
from services.billing.domain.catalog import Plan, PriceBook
from services.billing.domain.dues import Category, Due, DueKey, DueKind, MeteredQuantities
from services.billing.domain.meters import Meter
from services.billing.domain.periods import Period
from services.billing.domain.prices import Charge, FlatFee, PerUnit, charged_quantity, price_of
from services.billing.domain.timeline import PlanRef, Segment, Timeline
from services.billing.domain.wording import base_fee_text, flat_fee_text, minimum_text, usage_text

BASE_CHARGE = "base"
MINIMUM_CHARGE = "minimum"

Terms = Mapping[PlanRef, Plan]
"""What every phase of a timeline refers to."""


@dataclass(frozen=True, slots=True)
class Counting:
    """What is to be counted: of some meters, everything within an interval."""

    interval: Period
    meters: frozenset[str]


@dataclass(frozen=True, slots=True)
class Counts:
    """What was used, in base units, as of one event of the ledger."""

    by_interval: Mapping[Period, Mapping[str, int]]
    """Within an interval, by meter; a meter that is not in it was not used."""
    as_of_sequence: int
    """The last event that they could include."""

    def of(self, interval: Period, meter: str) -> int:
        """How much of the meter; nothing of an empty interval."""
        return self.by_interval[interval].get(meter, 0) if interval.start < interval.end else 0


def countings(timeline: Timeline, terms: Terms, periods: Iterable[Period]) -> tuple[Counting, ...]:
    """What has to be counted for the usage dues of these periods: always from a period's start, to the edges of its
    segments, and only of the meters that are charged there.
    """
    wanted: dict[Period, set[str]] = {}
    for period in periods:
        for segment in timeline.segments(period):
            meters = {charge.meter for charge in _usage_charges(segment, timeline, terms)}
            for edge in (segment.interval.start, segment.interval.end):
                if meters and edge > period.start:
                    wanted.setdefault(Period(period.start, edge), set()).update(meters)
    return tuple(Counting(interval, frozenset(meters)) for interval, meters in wanted.items())


def base_dues(timeline: Timeline, terms: Terms, *, after: datetime, through: datetime) -> list[Due]:
    """The plan's price for every interval that begins at or before `through` and ends after `after`, in order of time:
    of each segment the share that it has of its interval. A trial or a pause costs nothing.
    """
    dues: list[Due] = []
    for months in sorted({terms[phase.plan].interval.months for phase in timeline.phases}):
        for interval in timeline.intervals(months, through=through):
            if interval.end <= after:
                continue
            for segment in timeline.segments(interval):
                plan = terms[segment.phase.plan]
                if plan.interval.months == months and _is_charged(segment):
                    price = _exact(plan.book(timeline.currency_code).base_price)
                    dues.append(
                        Due(
                            key=DueKey(
                                kind=DueKind.BASE_FEE,
                                category=Category.BASE,
                                interval=interval,
                                charge_id=BASE_CHARGE,
                                segment_start=segment.interval.start,
                            ),
                            amount=Money.rounded(price * share(segment), timeline.currency_code),
                            interval=segment.interval,
                            description=base_fee_text(plan, segment.interval),
                            plan_id=plan.plan_id,
                        )
                    )
    return sorted(dues, key=lambda due: (due.key.interval.start, due.key.interval.end, due.key.segment_start))


def period_dues(
    timeline: Timeline, terms: Terms, meters: Mapping[str, Meter], period: Period, counts: Counts
) -> list[Due]:
    """What is due in arrears for a period: usage, then fees, then what both fall short of the minimum; each by segment
    in the order of the price book.

    Every unit is priced by the terms in force when it was used, at its place in the period's count. A trial costs
    nothing; usage in a pause costs what it always does.
    """
    segments = timeline.segments(period)
    currency_code = timeline.currency_code
    usage = [
        _usage_due(segment, charge, meters[charge.meter], counts, currency_code)
        for segment in segments
        for charge in _usage_charges(segment, timeline, terms)
    ]
    fees = [
        _flat_due(segment, charge, currency_code)
        for segment in segments
        if _is_charged(segment)
        for charge in _book(segment, timeline, terms).flat_fees
    ]
    minimum = _minimum_due(timeline, terms, period, usage)
    return [*usage, *fees, *([minimum] if minimum else [])]


def share(segment: Segment) -> Fraction:
    """What part of its whole the segment is, by time."""
    return Fraction(_microseconds(segment.interval), _microseconds(segment.period))


def _usage_due(segment: Segment, charge: Charge, meter: Meter, counts: Counts, currency_code: str) -> Due:
    period = segment.period
    before = counts.of(Period(period.start, segment.interval.start), charge.meter)
    after = counts.of(Period(period.start, segment.interval.end), charge.meter)
    exact = price_of(charge, meter, after) - price_of(charge, meter, before)
    charged = charged_quantity(charge, after) - charged_quantity(charge, before)
    return Due(
        key=_period_key(DueKind.OVERAGE, segment, charge.charge_id),
        amount=Money.rounded(exact, currency_code),
        interval=segment.interval,
        description=usage_text(charge, meter, charged, currency_code),
        plan_id=segment.phase.plan.plan_id,
        quantities=MeteredQuantities(
            meter=charge.meter,
            used_quantity=after - before,
            included_quantity=charge.included_quantity,
            charged_quantity=charged,
            unit_price=charge.price.unit_price if isinstance(charge.price, PerUnit) else None,
        ),
    )


def _flat_due(segment: Segment, charge: Charge, currency_code: str) -> Due:
    fee = charge.price.amount if isinstance(charge.price, FlatFee) else Decimal(0)
    return Due(
        key=_period_key(DueKind.FLAT_FEE, segment, charge.charge_id),
        amount=Money.rounded(Fraction(fee) * share(segment), currency_code),
        interval=segment.interval,
        description=flat_fee_text(charge, segment.interval),
        plan_id=segment.phase.plan.plan_id,
    )


def _minimum_due(timeline: Timeline, terms: Terms, period: Period, usage: Sequence[Due]) -> Due | None:
    """The minimum less the lines above it, as they are rounded: so usage and this come to the minimum exactly."""
    agreed = Fraction(0)
    in_force: list[Segment] = []
    for segment in timeline.segments(period):
        minimum = _book(segment, timeline, terms).minimum
        if minimum is not None and _is_charged(segment):
            agreed += _exact(minimum) * share(segment)
            in_force.append(segment)
    if not in_force:
        return None
    used = sum((_exact(due.amount) for due in usage), Fraction(0))
    return Due(
        key=DueKey(
            kind=DueKind.MINIMUM,
            category=Category.USAGE,
            interval=period,
            charge_id=MINIMUM_CHARGE,
            segment_start=period.start,
        ),
        amount=Money.rounded(max(Fraction(0), agreed - used), timeline.currency_code),
        interval=Period(in_force[0].interval.start, in_force[-1].interval.end),
        description=minimum_text(Money.rounded(agreed, timeline.currency_code)),
        plan_id=in_force[-1].phase.plan.plan_id,
    )


def _usage_charges(segment: Segment, timeline: Timeline, terms: Terms) -> Sequence[Charge]:
    return () if segment.phase.is_trial else _book(segment, timeline, terms).usage_charges


def _is_charged(segment: Segment) -> bool:
    return not (segment.phase.is_trial or segment.phase.is_paused)


def _book(segment: Segment, timeline: Timeline, terms: Terms) -> PriceBook:
    return terms[segment.phase.plan].book(timeline.currency_code)


def _period_key(kind: DueKind, segment: Segment, charge_id: str) -> DueKey:
    return DueKey(
        kind=kind,
        category=Category.USAGE,
        interval=segment.period,
        charge_id=charge_id,
        segment_start=segment.interval.start,
    )


def _exact(amount: Money) -> Fraction:
    return Fraction(amount.minor, 10 ** currency_exponent(amount.currency_code))


def _microseconds(period: Period) -> int:
    return (period.end - period.start) // timedelta(microseconds=1)
