"""What whole subscriptions owe, worked out by itself: nothing of billing's is imported here, and nothing is shared but
the plain words of a case. Every amount is a fraction; each item is rounded once, by its own rule of rounding.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from itertools import pairwise

DECIMALS = {"USD": 2, "JPY": 0, "KWD": 3}


@dataclass(frozen=True)
class OracleCharge:
    """kind: per_unit, graduated, volume, package, percentage or flat. `numbers` are what the kind needs, as text."""

    name: str
    kind: str
    meter: str
    included: int
    numbers: tuple[str, ...] = ()
    steps: tuple[tuple[int | None, str, str], ...] = ()
    """(up to, unit price, flat price) of tiers."""


@dataclass(frozen=True)
class OraclePlan:
    name: str
    base: int
    """In minor units."""
    is_yearly: bool
    charges: tuple[OracleCharge, ...]
    minimum: int | None


@dataclass(frozen=True)
class OraclePhase:
    start: datetime
    plan: OraclePlan
    is_trial: bool
    is_paused: bool


@dataclass(frozen=True)
class OracleEvent:
    time: datetime
    meter: str
    quantity: int


@dataclass(frozen=True)
class OracleDiscount:
    percent: str
    months: int | None
    """From the anchor on; None: for ever."""


@dataclass(frozen=True)
class OracleCase:
    currency_code: str
    start: datetime
    anchor: datetime
    end: datetime
    phases: tuple[OraclePhase, ...]
    events: tuple[OracleEvent, ...]
    ratios: dict[str, int]
    discount: OracleDiscount | None


def nearest(value: Fraction) -> int:
    """Half away from zero."""
    whole, rest = divmod(abs(value.numerator), value.denominator)
    magnitude = whole + (1 if 2 * rest >= value.denominator else 0)
    return magnitude if value >= 0 else -magnitude


def month_after(anchor: datetime, count: int) -> datetime:
    """By stepping from the first of a month to the next, then to the anchor's day or the month's last one."""
    first = anchor.replace(day=1)
    for _ in range(count):
        first = (first + timedelta(days=32)).replace(day=1)
    return first.replace(day=min(anchor.day, calendar.monthrange(first.year, first.month)[1]))


def owed(case: OracleCase) -> int:
    """Everything that the subscription owes from its start to its end, in minor units."""
    total = 0
    for start, end in _months(case):
        total += _arrears(case, start, end)
    for is_yearly in (False, True):
        for start, end in _advances(case, 12 if is_yearly else 1):
            total += _base(case, start, end, is_yearly=is_yearly)
    return total


def _months(case: OracleCase) -> Iterator[tuple[datetime, datetime]]:
    if case.start < case.anchor:
        yield case.start, case.anchor
    yield from _advances(case, 1)


def _advances(case: OracleCase, months: int) -> Iterator[tuple[datetime, datetime]]:
    count = 0
    while (start := month_after(case.anchor, count)) < case.end:
        yield start, month_after(case.anchor, count + months)
        count += months


def _pieces(case: OracleCase, start: datetime, end: datetime) -> Iterator[tuple[datetime, datetime, OraclePhase]]:
    """The stretches of an interval with the phase of each, found edge by edge."""
    edges = {start, end, case.end} | {phase.start for phase in case.phases}
    inside = sorted(edge for edge in edges if start <= edge <= end)
    for left, right in pairwise(inside):
        if left < case.end:
            yield left, right, [phase for phase in case.phases if phase.start <= left][-1]


def _base(case: OracleCase, start: datetime, end: datetime, *, is_yearly: bool) -> int:
    amounts: list[tuple[datetime, datetime, int]] = []
    for left, right, phase in _pieces(case, start, end):
        if phase.plan.is_yearly == is_yearly and not phase.is_trial and not phase.is_paused:
            amounts.append((left, right, nearest(phase.plan.base * _ratio(right - left, end - start))))
    return sum(amount for _, _, amount in amounts) - _taken_off(case, amounts)


def _ratio(part: timedelta, whole: timedelta) -> Fraction:
    tick = timedelta(microseconds=1)
    return Fraction(part // tick, whole // tick)


def _arrears(case: OracleCase, start: datetime, end: datetime) -> int:
    scale = 10 ** DECIMALS[case.currency_code]
    amounts: list[tuple[datetime, datetime, int]] = []
    minimum, covered, used_amount = Fraction(0), [], 0
    for left, right, phase in _pieces(case, start, end):
        part = _ratio(right - left, end - start)
        for charge in phase.plan.charges:
            if charge.kind == "flat":
                if not phase.is_trial and not phase.is_paused:
                    amounts.append((left, right, nearest(Fraction(charge.numbers[0]) * part * scale)))
            elif not phase.is_trial:
                first, last = (_counted(case, charge.meter, start, edge) for edge in (left, right))
                ratio = case.ratios[charge.meter]
                cost = _cost(charge, max(0, last - charge.included), ratio)
                amount = nearest((cost - _cost(charge, max(0, first - charge.included), ratio)) * scale)
                used_amount += amount
                amounts.append((left, right, amount))
        if phase.plan.minimum is not None and not phase.is_trial and not phase.is_paused:
            minimum += phase.plan.minimum * part
            covered += [left, right]
    if covered:
        amounts.append((covered[0], covered[-1], nearest(max(Fraction(0), minimum - used_amount))))
    return sum(amount for _, _, amount in amounts) - _taken_off(case, amounts)


def _counted(case: OracleCase, meter: str, start: datetime, end: datetime) -> int:
    return sum(event.quantity for event in case.events if event.meter == meter and start <= event.time < end)


def _taken_off(case: OracleCase, amounts: list[tuple[datetime, datetime, int]]) -> int:
    if case.discount is None:
        return 0
    end = None if case.discount.months is None else month_after(case.anchor, case.discount.months)
    taken, there = Fraction(0), 0
    for left, right, amount in amounts:
        if amount > 0:
            there += amount
            # Nothing is owed in a trial, so what is there lies behind the anchor.
            inside = right - left if end is None else max(timedelta(), min(right, end) - left)
            taken += amount * Fraction(case.discount.percent) / 100 * _ratio(inside, right - left)
    return min(nearest(taken), there)


def _cost(charge: OracleCharge, units: int, ratio: int) -> Fraction:
    """What so many base units beyond the allowance cost, in the major unit."""
    if charge.kind == "per_unit":
        return Fraction(charge.numbers[0]) * units / ratio
    if charge.kind == "percentage":
        return Fraction(charge.numbers[0]) * units / ratio / 100
    if charge.kind == "package":
        return Fraction(charge.numbers[0]) * len(range(0, units, int(charge.numbers[1])))
    lower, total = 0, Fraction(0)
    for up_to, unit_price, flat in charge.steps:
        upper = units if up_to is None else min(units, up_to)
        if charge.kind == "volume":
            if units and (up_to is None or units <= up_to):
                return Fraction(flat) + Fraction(unit_price) * units / ratio
        elif units > lower:
            total += Fraction(flat) + Fraction(unit_price) * (upper - lower) / ratio
        lower = upper
    return total
