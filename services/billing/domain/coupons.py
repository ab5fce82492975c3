"""Coupons: what they take off, for how long, and from which dues. Exact; each discount is rounded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import Enum
from fractions import Fraction

from kit.errors import InvalidField, InvalidState, LimitExceeded
from kit.money import Money, format_decimal, round_half_away
from services.billing.domain import limits
from services.billing.domain.periods import Period, nth_start
from services.billing.domain.texts import require_name, require_text

_PERCENT = 100


class CouponDuration(Enum):
    """How long a redeemed coupon counts."""

    ONCE = "ONCE"
    """For the first base interval and the first period that begin within a month."""
    MONTHS = "MONTHS"
    """For a number of periods."""
    FOREVER = "FOREVER"
    """For every period from then on."""


class DiscountCategory(Enum):
    """What a coupon takes something off."""

    BASE = "BASE"
    """What a plan charges in advance, for a base interval: a month or a year."""
    USAGE = "USAGE"
    """What it charges in arrears, for a period: usage, flat charges and minimums."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coupon:
    """What is taken off, and for whom. Its terms never change; it can only be withdrawn."""

    coupon_id: str
    """What a customer types, such as `LAUNCH50`."""
    display_name: str
    """As the invoice calls it."""
    duration: CouponDuration
    month_count: int = 0
    """Above 0 for MONTHS only."""
    percent: Decimal | None = None
    """None: it takes amounts off."""
    amounts: tuple[Money, ...] = ()
    """What it takes off a period, one per currency; empty with a percent."""
    categories: frozenset[DiscountCategory] = frozenset(DiscountCategory)
    plan_ids: frozenset[str] = frozenset()
    """The plans it counts for; empty: every plan."""
    redemptions_max: int | None = None
    """How many organizations may redeem it; None: any number."""
    redeem_by: datetime | None = None
    """The first instant at which it can be redeemed no more; None: never."""

    def amount_off(self, currency_code: str) -> Money | None:
        """What it takes off a period in the currency; None when it takes a percentage, or has no amount in it."""
        return next((each for each in self.amounts if each.currency_code == currency_code), None)

    @property
    def text(self) -> str:
        """What it takes off, in words: `50% off`, `10.00 USD off`."""
        if self.percent is not None:
            return f"{format_decimal(self.percent)}% off"
        return " / ".join(f"{each} {each.currency_code}" for each in self.amounts) + " off"


@dataclass(frozen=True, slots=True, kw_only=True)
class CouponStanding:
    """A coupon, and how it is doing."""

    coupon: Coupon
    redemption_count: int
    is_withdrawn: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Redemption:
    """A coupon that an organization has redeemed."""

    redemption_id: str
    coupon: Coupon
    start_time: datetime
    """What begins from here on is discounted: the start of the first base interval that was not invoiced yet."""
    redeem_time: datetime
    end_time: datetime | None = None
    """What begins from here on is no longer discounted, because it was ended before its time; None: it was not."""

    @property
    def stop_time(self) -> datetime | None:
        """The first instant that it does not cover; None: it covers all from its start on.

        A month is counted as periods are, from the start's day: so `n` months are the starts of exactly `n` periods
        of any anchor that has one at the start.
        """
        if self.coupon.duration is CouponDuration.FOREVER:
            return self.end_time
        month_count = 1 if self.coupon.duration is CouponDuration.ONCE else self.coupon.month_count
        by_terms = nth_start(self.start_time, month_count)
        return by_terms if self.end_time is None else min(by_terms, self.end_time)

    def covers(self, moment: datetime) -> bool:
        """Whether a period that begins at the moment is discounted."""
        stop = self.stop_time
        return self.start_time <= moment and (stop is None or moment < stop)


@dataclass(frozen=True, slots=True, kw_only=True)
class Discountable:
    """A due that a discount may be taken off."""

    category: DiscountCategory
    interval: Period
    """BASE: its base interval. USAGE: its period."""
    segment: Period
    """The part of the interval that it is for."""
    plan_id: str
    amount: Money
    """As the invoice shows it, that is rounded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Discount:
    """What one redemption takes off one category of one interval."""

    redemption: Redemption
    category: DiscountCategory
    interval: Period
    amount: Money
    """Below zero."""

    @property
    def text(self) -> str:
        """The words of its invoice line."""
        return f"{self.redemption.coupon.display_name} ({self.redemption.coupon.text})"


@dataclass(slots=True)
class _Left:
    """What is left of a due while discounts are taken off it, in minor units."""

    due: Discountable
    exact: Fraction


@dataclass(slots=True)
class _Basket:
    """The dues of one category and interval."""

    category: DiscountCategory
    interval: Period
    dues: list[_Left] = field(default_factory=list)
    minor: int = 0
    """What is left of their sum as it is shown; no discount takes more."""


def discount_dues(
    redemptions: Sequence[Redemption], dues: Sequence[Discountable], *, anchor: datetime
) -> tuple[Discount, ...]:
    """What the redemptions take off the dues of one subscription, whose periods are counted from `anchor`.

    Redemptions count one after the other, in the order in which they were redeemed, each on what those before it
    leave: two of 50 % leave a quarter. Nothing is ever taken below zero, so the discounts of a category and interval
    are at most the sum of its dues. A percentage counts for the part of a due that lies in covered periods, an amount
    once for every covered period of the interval. Each discount is rounded once, half away from zero; one that comes
    to nothing is not in the answer. All dues of a category and interval are to be handed in together, and are of one
    currency.
    """
    found: list[Discount] = []
    for basket in _baskets(dues):
        months = _months(basket.interval, anchor)
        for redemption in sorted(redemptions, key=lambda each: (each.redeem_time, each.redemption_id)):
            minor = _take(redemption, basket, months)
            if minor:
                currency_code = basket.dues[0].due.amount.currency_code
                amount = Money(-minor, currency_code)
                found.append(
                    Discount(redemption=redemption, category=basket.category, interval=basket.interval, amount=amount)
                )
    return tuple(found)


def _baskets(dues: Sequence[Discountable]) -> list[_Basket]:
    baskets: dict[tuple[DiscountCategory, datetime], _Basket] = {}
    for due in dues:
        if due.amount.minor <= 0:
            continue
        fresh = _Basket(due.category, due.interval)
        basket = baskets.setdefault((due.category, due.interval.start), fresh)
        basket.dues.append(_Left(due, Fraction(due.amount.minor)))
        basket.minor += due.amount.minor
    return list(baskets.values())


def _months(interval: Period, anchor: datetime) -> list[Period]:
    """The periods that an interval consists of; itself, when it is none of the anchor's (a trial)."""
    count = (interval.start.year - anchor.year) * 12 + interval.start.month - anchor.month
    starts = []
    while count >= 0 and (start := nth_start(anchor, count)) < interval.end:
        starts.append(start)
        count += 1
    if not starts or starts[0] != interval.start:
        return [interval]
    return [Period(start, end) for start, end in zip(starts, [*starts[1:], interval.end], strict=True)]


def _take(redemption: Redemption, basket: _Basket, months: Sequence[Period]) -> int:
    """Takes the discount off the basket; answers it in minor units."""
    coupon = redemption.coupon
    if basket.category not in coupon.categories:
        return 0
    eligible = [left for left in basket.dues if not coupon.plan_ids or left.due.plan_id in coupon.plan_ids]
    covered = _covered(redemption, basket, months)
    if not eligible or not covered:
        return 0
    if coupon.percent is not None:
        taken = sum((_take_percent(left, coupon.percent, covered) for left in eligible), Fraction(0))
    else:
        off = coupon.amount_off(eligible[0].due.amount.currency_code)
        times = 1 if coupon.duration is CouponDuration.ONCE else len(covered)
        taken = _take_amount(eligible, Fraction(off.minor * times if off else 0))
    # Each is rounded by itself, so that several may come to a unit more than there is: the last one yields.
    minor = min(round_half_away(taken), basket.minor)
    basket.minor -= minor
    return minor


def _covered(redemption: Redemption, basket: _Basket, months: Sequence[Period]) -> list[Period]:
    if redemption.coupon.duration is CouponDuration.ONCE:
        # Once is one charge, be it a month's or a year's.
        return list(months) if redemption.covers(basket.interval.start) else []
    return [month for month in months if redemption.covers(month.start)]


def _take_percent(left: _Left, percent: Decimal, covered: Sequence[Period]) -> Fraction:
    segment = left.due.segment
    inside = sum((_microseconds(_overlap(month, segment)) for month in covered), 0)
    share = Fraction(inside, _microseconds(segment))
    taken = left.exact * share * Fraction(percent) / _PERCENT
    left.exact -= taken
    return taken


def _take_amount(eligible: Sequence[_Left], amount: Fraction) -> Fraction:
    taken = Fraction(0)
    for left in eligible:
        part = min(left.exact, amount - taken)
        left.exact -= part
        taken += part
    return taken


def _overlap(one: Period, other: Period) -> Period:
    start = max(one.start, other.start)
    return Period(start, max(start, min(one.end, other.end)))


def _microseconds(period: Period) -> int:
    length = period.end - period.start
    return (length.days * 86_400 + length.seconds) * 1_000_000 + length.microseconds


def coverage_start(now: datetime, interval: Period, *, is_invoiced: bool) -> datetime:
    """Where a redemption made now begins to count: with the current base interval, unless its price was invoiced
    already; then with the next one. So what was paid is never discounted afterwards. In a trial it is the interval
    after it.
    """
    if now < interval.start:
        return interval.start
    return interval.end if is_invoiced else interval.start


def require_redeemable(standing: CouponStanding, *, now: datetime) -> None:
    """Raises InvalidState unless the coupon can be redeemed now. Its cap is for who counts the redemptions."""
    if standing.is_withdrawn:
        raise InvalidState(problem=f"The coupon {standing.coupon.coupon_id!r} was withdrawn.")
    if standing.coupon.redeem_by is not None and now >= standing.coupon.redeem_by:
        raise InvalidState(problem=f"The coupon {standing.coupon.coupon_id!r} could be redeemed until before now.")


def require_coupon(coupon: Coupon) -> None:
    """Raises InvalidField or LimitExceeded unless the coupon is sound. One whose time is over is: a retry of what made
    it must not be refused for having taken long.
    """
    require_name("coupon.coupon_id", coupon.coupon_id)
    require_text("coupon.display_name", coupon.display_name, limits.DISPLAY_NAME_BYTES_MAX)
    _require_value(coupon)
    if (coupon.duration is CouponDuration.MONTHS) != (coupon.month_count > 0):
        raise InvalidField(field="coupon.month_count", problem="above 0 for a number of months, and 0 otherwise")
    if coupon.month_count > limits.COUPON_MONTHS_MAX:
        raise LimitExceeded(what="coupon.month_count", actual=coupon.month_count, maximum=limits.COUPON_MONTHS_MAX)
    if not coupon.categories:
        raise InvalidField(field="coupon.categories", problem="required")
    if len(coupon.plan_ids) > limits.PLANS_MAX:
        raise LimitExceeded(what="coupon.plan_ids", actual=len(coupon.plan_ids), maximum=limits.PLANS_MAX)
    for plan_id in coupon.plan_ids:
        require_name("coupon.plan_ids", plan_id)
    if coupon.redemptions_max is not None and not 0 < coupon.redemptions_max <= limits.QUANTITY_MAX:
        raise InvalidField(field="coupon.redemptions_max", problem=f"not from 1 to {limits.QUANTITY_MAX}")


def _require_value(coupon: Coupon) -> None:
    if (coupon.percent is None) == (not coupon.amounts):
        raise InvalidField(field="coupon.percent", problem="either a percent or amounts, and not both")
    if coupon.percent is not None and not 0 < coupon.percent <= _PERCENT:
        raise InvalidField(field="coupon.percent", problem="not above 0 and up to 100")
    currencies = [each.currency_code for each in coupon.amounts]
    if len(set(currencies)) != len(currencies):
        raise InvalidField(field="coupon.amounts", problem="a currency is there twice")
    if any(each.minor <= 0 for each in coupon.amounts):
        raise InvalidField(field="coupon.amounts", problem="not above 0")
    if coupon.amounts and len(coupon.categories) > 1:
        # Base and usage of a period come on different invoices: the amount would have to be known across both.
        raise InvalidField(field="coupon.categories", problem="an amount is taken off one category")
