"""Random lives of subscriptions: what is sold, used and changed when, and when each becomes known; and a life lived
through billing's own engine, cut by cut. A life follows from its seed alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from kit.money import Money
from services.billing.domain import limits
from services.billing.domain.catalog import Interval, Plan, PriceBook
from services.billing.domain.closing import Close, Cut, CutKind, next_cut
from services.billing.domain.coupons import Coupon, CouponDuration, Redemption
from services.billing.domain.drafting import Account, draft_lines, wanted_counts
from services.billing.domain.dues import DueKey
from services.billing.domain.invoices import Line
from services.billing.domain.invoicing import Invoiced
from services.billing.domain.meters import Meter
from services.billing.domain.prices import (
    Charge,
    FlatFee,
    Graduated,
    Package,
    Percentage,
    PerUnit,
    Price,
    Tier,
    Volume,
)
from services.billing.domain.rating import Counting, Counts
from services.billing.domain.timeline import Phase, PlanRef, Timeline
from tests.properties.billing_oracle import (
    OracleCase,
    OracleCharge,
    OracleDiscount,
    OracleEvent,
    OraclePhase,
    OraclePlan,
    month_after,
)

RATIOS = {"minutes": 60_000, "calls": 1, "cost": 10**9}
METERS = {
    name: Meter(name=name, display_unit="unit", base_units_per_display_unit=ratio) for name, ratio in RATIOS.items()
}
TICK = timedelta(microseconds=1)
ACCEPTED_BACK = limits.START_BACK


@dataclass(frozen=True)
class Use:
    """An event, and when the ledger has it."""

    event: OracleEvent
    arrival: datetime


@dataclass(frozen=True)
class Life:
    """A subscription from its start to its end. The n-th phase is known from `decisions[n]` on, its end from
    `end_decision`.
    """

    seed: int
    case: OracleCase
    decisions: tuple[datetime, ...]
    end_decision: datetime
    uses: tuple[Use, ...]
    extra_closes: tuple[datetime, ...]
    """When an operator closes early or has a past period looked at again."""


def lives(seeds: Iterable[int]) -> Iterator[Life]:
    return (life(seed) for seed in seeds)


def life(seed: int) -> Life:
    dice = random.Random(seed)
    anchor = _anchor(dice)
    trial = dice.choice([timedelta()] * 3 + [timedelta(days=14), timedelta(days=dice.randint(1, 45))])
    start = anchor - trial
    end = _moment(dice, anchor, dice.choice([1, 2, 3, 4, 5, 14]), start)
    phases, decisions = _phases(dice, start, anchor, end)
    events = tuple(_event(dice, start, anchor, end) for _ in range(dice.choice([0, 3, 6, 12])))
    case = OracleCase(
        currency_code=dice.choice(["USD", "JPY", "KWD"]),
        start=start,
        anchor=anchor,
        end=end,
        phases=phases,
        events=events,
        ratios=RATIOS,
        discount=_discount(dice),
    )
    uses = tuple(Use(event, event.time + _lateness(dice)) for event in events)
    return Life(
        seed=seed,
        case=case,
        decisions=decisions,
        end_decision=dice.choice([end, max(start, end - timedelta(days=10))]),
        uses=uses,
        extra_closes=tuple(_within(dice, start, end) for _ in range(dice.choice([0, 0, 1, 4]))),
    )


def _anchor(dice: random.Random) -> datetime:
    """Month ends and leap days more often than not."""
    year, month = dice.choice([(2023, 12), (2024, 1), (2024, 2), (2027, 12), (2028, 2), (2026, dice.randint(1, 12))])
    first = datetime(year, month, 1, tzinfo=UTC)
    last_day = (first + timedelta(days=32)).replace(day=1) - timedelta(days=1)
    day = dice.choice([last_day.day, last_day.day - 1, last_day.day - 2, dice.randint(1, 28)])
    time = dice.choice([timedelta(), timedelta(days=1) - TICK, timedelta(seconds=dice.randrange(86_400))])
    return first.replace(day=day) + time


def _moment(dice: random.Random, anchor: datetime, months_max: int, start: datetime) -> datetime:
    """A boundary, an instant beside one, or any moment of the first months."""
    boundary = month_after(anchor, dice.randint(0, months_max))
    beside = [boundary + TICK, boundary - TICK, boundary + timedelta(hours=dice.randrange(700))]
    return max(dice.choice([boundary, boundary, *beside]), start + timedelta(hours=1))


def _within(dice: random.Random, start: datetime, end: datetime) -> datetime:
    return start + (end - start) * dice.randrange(1_000) / 1_000


def _phases(
    dice: random.Random, start: datetime, anchor: datetime, end: datetime
) -> tuple[tuple[OraclePhase, ...], tuple[datetime, ...]]:
    pool = [_plan(dice, number) for number in range(3)]
    first = OraclePhase(start, pool[0], is_trial=start < anchor, is_paused=False)
    changes = [(anchor, start, first.plan, False)] if start < anchor else []
    for _ in range(dice.choice([0, 0, 1, 2, 4])):
        at = max(anchor, dice.choice([_moment(dice, anchor, 4, start), _within(dice, start, end)]))
        if at < end:
            decided = dice.choice([at, at, max(start, at - timedelta(days=dice.randint(0, 20)))])
            changes.append((at, decided, dice.choice(pool), dice.random() < 0.15))
    changes.sort(key=lambda change: change[0])
    changes = [change for change in changes if change[0] < end]
    phases = (first, *(OraclePhase(at, plan, is_trial=False, is_paused=paused) for at, _, plan, paused in changes))
    return phases, (start, *(decided for _, decided, _, _ in changes))


def _plan(dice: random.Random, number: int) -> OraclePlan:
    charges = tuple(_charge(dice, f"charge{place}") for place in range(dice.choice([0, 1, 1, 2, 3])))
    return OraclePlan(
        name=f"plan{number}",
        base=dice.choice([0, 4900, 14_900, dice.randrange(10**7)]),
        is_yearly=dice.random() < 0.25,
        charges=charges,
        minimum=dice.choice([None, None, dice.randrange(10**6)]),
    )


def _charge(dice: random.Random, name: str) -> OracleCharge:
    kind = dice.choice(["per_unit", "per_unit", "graduated", "volume", "package", "percentage", "flat"])
    if kind == "flat":
        return OracleCharge(name, kind, "", 0, (_price(dice),))
    meter = "cost" if kind == "percentage" else dice.choice(["minutes", "calls"])
    included = dice.choice([0, 0, 100, 1_000 * RATIOS[meter]])
    if kind in ("graduated", "volume"):
        edges = sorted(dice.sample(range(1, 2_000 * RATIOS[meter]), 2))
        steps = tuple((edge, _price(dice), dice.choice(["0", _price(dice)])) for edge in (*edges, None))
        return OracleCharge(name, kind, meter, included, steps=steps)
    return OracleCharge(name, kind, meter, included, (_price(dice), str(dice.choice([1, 7, 1_000, 60_000]))))


def _price(dice: random.Random) -> str:
    return dice.choice(["0.05", "0.5", "3", f"{dice.randrange(10**4)}.{dice.randrange(10**6):06}", "0.000000000001"])


def _event(dice: random.Random, start: datetime, anchor: datetime, end: datetime) -> OracleEvent:
    time = dice.choice([_within(dice, start, end), _moment(dice, anchor, 4, start), end - TICK])
    meter = dice.choice(list(RATIOS))
    quantity = dice.choice([1, 59_999, dice.randrange(3_000 * RATIOS[meter]), dice.randrange(3_000 * RATIOS[meter])])
    return OracleEvent(min(max(time, start), end - TICK), meter, quantity)


def _lateness(dice: random.Random) -> timedelta:
    return dice.choice([timedelta(), timedelta(minutes=10), timedelta(hours=dice.randrange(35 * 24)), ACCEPTED_BACK])


def _discount(dice: random.Random) -> OracleDiscount | None:
    if dice.random() < 0.6:
        return None
    return OracleDiscount(percent=dice.choice(["50", "100", "33.333"]), months=dice.choice([None, 1, 3]))


@dataclass
class Lived:
    """A life as far as it went, in billing's own words."""

    life: Life
    lines: list[Line] = field(default_factory=list)
    closes: list[Close] = field(default_factory=list)
    invoiced: dict[DueKey, Invoiced] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(line.amount.minor for line in self.lines)

    def through(self) -> Lived:
        """From the start until the last cut is made, each at its time, with what is known by then."""
        last = self.life.case.end + ACCEPTED_BACK + timedelta(days=80)
        extra = sorted(self.life.extra_closes)
        now = self.life.case.start
        while now <= last:
            scheduled = next_cut(self.timeline(now), {close.cut for close in self.closes})
            coming = [*extra[:1], *self._decisions_after(now), *([scheduled.at] if scheduled else [])]
            if not coming:
                break
            now = max(now, min(coming))
            if scheduled is not None and scheduled.at <= now:
                self.make(scheduled.cut, now)
            elif extra and extra[0] <= now:
                extra.pop(0)
                self._close_by_hand(now)
            elif now == min(coming):
                now += TICK
        return self

    def at_once(self) -> Lived:
        """The same with one invoice at the very end, when everything is known."""
        end = self.life.case.end + ACCEPTED_BACK + timedelta(days=80)
        timeline = self.timeline(end)
        # A cut looks back only so far: here the last one of each period stands for all there ever were.
        for period in timeline.periods(end):
            self.make(Cut(CutKind.FINAL, period.start), end)
        return self

    def make(self, cut: Cut, now: datetime) -> tuple[Line, ...]:
        """Makes a cut with what is known at the moment."""
        plans = self.plans
        account = Account(
            timeline=self.timeline(now),
            closes=tuple(self.closes),
            invoiced=dict(self.invoiced),
            redemptions=self._redemptions(),
        )
        counts = self.count(wanted_counts(account, plans, cut), now)
        lines = draft_lines(account, plans, METERS, counts, cut)
        self.lines += lines
        self.closes.append(Close(cut=cut, through_sequence=counts.as_of_sequence, invoice_id=f"inv{len(self.closes)}"))
        for line in lines:
            self._keep(line)
        return lines

    def timeline(self, now: datetime) -> Timeline:
        """As it is known at the moment."""
        case = self.life.case
        known = zip(case.phases, self.life.decisions, strict=True)
        return Timeline(
            subscription_id="sub",
            currency_code=case.currency_code,
            start=case.start,
            anchor=case.anchor,
            end=case.end if self.life.end_decision <= now else None,
            phases=tuple(
                Phase(
                    start=phase.start,
                    plan=PlanRef(phase.plan.name, 1),
                    is_trial=phase.is_trial,
                    is_paused=phase.is_paused,
                )
                for phase, decided in known
                if decided <= now
            ),
            opening=case.start + limits.CLOSE_AFTER,
        )

    def count(self, wanted: Iterable[Counting], now: datetime) -> Counts:
        """What the ledger has by now."""
        arrived = [use.event for use in self.life.uses if use.arrival <= now]
        return Counts(
            {
                counting.interval: {
                    meter: sum(
                        event.quantity
                        for event in arrived
                        if event.meter == meter and counting.interval.start <= event.time < counting.interval.end
                    )
                    for meter in counting.meters
                }
                for counting in wanted
            },
            len(arrived),
        )

    @property
    def plans(self) -> dict[PlanRef, Plan]:
        """Every plan that it ever is on."""
        return {PlanRef(phase.plan.name, 1): plan_of(phase.plan, self._currency) for phase in self.life.case.phases}

    @property
    def _currency(self) -> str:
        return self.life.case.currency_code

    def _decisions_after(self, now: datetime) -> list[datetime]:
        return [decided for decided in (*self.life.decisions, self.life.end_decision) if decided > now]

    def _close_by_hand(self, now: datetime) -> None:
        """Of a period that goes on an early close, once; of one that passed another look."""
        timeline = self.timeline(now)
        period = timeline.period_at(now)
        early = Cut(CutKind.EARLY, period.start)
        made = {close.cut for close in self.closes}
        if early not in made:
            self.make(early, now)
            return
        past = [each for each in timeline.periods(now) if each.end <= now]
        if past:
            self.make(Cut(CutKind.RERATED, past[-1].start, len(self.closes)), now)

    def _keep(self, line: Line) -> None:
        if line.key is None:
            return
        before = self.invoiced.get(line.key)
        self.invoiced[line.key] = Invoiced(
            amount=line.amount if before is None else before.amount + line.amount,
            used_quantity=line.difference_quantity + (before.used_quantity if before else 0),
            meter=line.meter,
            last_sequence=line.last_sequence,
            segment=line.period,
            invoice_id=self.closes[-1].invoice_id,
            invoice_number=f"TB-{len(self.closes):06}",
        )

    def _redemptions(self) -> tuple[Redemption, ...]:
        discount = self.life.case.discount
        if discount is None:
            return ()
        coupon = Coupon(
            coupon_id="coupon",
            display_name="Coupon",
            duration=CouponDuration.FOREVER if discount.months is None else CouponDuration.MONTHS,
            month_count=discount.months or 0,
            percent=Decimal(discount.percent),
        )
        anchor = self.life.case.anchor
        return (Redemption(redemption_id="red", coupon=coupon, start_time=anchor, redeem_time=anchor),)


def plan_of(plan: OraclePlan, currency_code: str) -> Plan:
    """The same plan, as billing has it."""
    book = PriceBook(
        currency_code=currency_code,
        base_price=Money(plan.base, currency_code),
        charges=tuple(_to_charge(charge) for charge in plan.charges),
        minimum=None if plan.minimum is None else Money(plan.minimum, currency_code),
    )
    return Plan(
        plan_id=plan.name,
        version=1,
        display_name=plan.name,
        interval=Interval.YEAR if plan.is_yearly else Interval.MONTH,
        meters=(),
        price_books=(book,),
        features={},
    )


def _to_charge(charge: OracleCharge) -> Charge:
    tiers = tuple(
        Tier(up_to=up_to, unit_price=Decimal(unit), flat_price=Decimal(flat)) for up_to, unit, flat in charge.steps
    )
    prices: dict[str, Callable[[], Price]] = {
        "per_unit": lambda: PerUnit(Decimal(charge.numbers[0])),
        "flat": lambda: FlatFee(Decimal(charge.numbers[0])),
        "graduated": lambda: Graduated(tiers),
        "volume": lambda: Volume(tiers),
        "package": lambda: Package(size=int(charge.numbers[1]), price=Decimal(charge.numbers[0])),
        "percentage": lambda: Percentage(percent=Decimal(charge.numbers[0])),
    }
    return Charge(
        charge_id=charge.name,
        display_name=charge.name,
        meter=charge.meter,
        included_quantity=charge.included,
        price=prices[charge.kind](),
    )
