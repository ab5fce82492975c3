"""What coupons take off, of what, and for how long."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from kit.errors import InvalidField, InvalidState, LimitExceeded
from kit.money import Money
from services.billing.domain.coupons import (
    Coupon,
    CouponDuration,
    CouponStanding,
    Discountable,
    DiscountCategory,
    Redemption,
    coverage_start,
    discount_dues,
    require_coupon,
    require_redeemable,
)
from services.billing.domain.periods import Period, nth_start

ANCHOR = datetime(2027, 1, 31, 8, 30, tzinfo=UTC)
BASE, USAGE = DiscountCategory.BASE, DiscountCategory.USAGE
HALF_FOR_THREE = Coupon(
    coupon_id="LAUNCH50",
    display_name="Launch offer",
    duration=CouponDuration.MONTHS,
    month_count=3,
    percent=Decimal(50),
)


def month(number: int) -> Period:
    return Period(nth_start(ANCHOR, number), nth_start(ANCHOR, number + 1))


def year(number: int) -> Period:
    return Period(nth_start(ANCHOR, 12 * number), nth_start(ANCHOR, 12 * number + 12))


def redeemed(coupon: Coupon = HALF_FOR_THREE, *, start: datetime = ANCHOR, name: str = "red_1") -> Redemption:
    return Redemption(redemption_id=name, coupon=coupon, start_time=start, redeem_time=start)


def due(
    cents: int,
    interval: Period,
    *,
    category: DiscountCategory = BASE,
    segment: Period | None = None,
    plan_id: str = "starter",
    currency_code: str = "USD",
) -> Discountable:
    return Discountable(
        category=category,
        interval=interval,
        segment=segment or interval,
        plan_id=plan_id,
        amount=Money(cents, currency_code),
    )


def taken(redemptions: list[Redemption], dues: list[Discountable]) -> list[int]:
    return [each.amount.minor for each in discount_dues(redemptions, dues, anchor=ANCHOR)]


@pytest.mark.parametrize("start", range(14))
@pytest.mark.parametrize("count", [1, 2, 3, 12, 25])
def test_n_months_are_n_periods_whatever_the_anchors_day(start: int, count: int) -> None:
    coupon = replace(HALF_FOR_THREE, month_count=count)
    redemption = redeemed(coupon, start=nth_start(ANCHOR, start))
    covered = [number for number in range(60) if redemption.covers(nth_start(ANCHOR, number))]
    assert covered == list(range(start, start + count))


def test_half_price_for_three_months_halves_base_and_usage_of_three_periods_and_nothing_after() -> None:
    dues = [due(4900, month(number)) for number in range(5)]
    usage = [due(499, month(number), category=USAGE) for number in range(5)]
    assert taken([redeemed()], [*dues, *usage]) == [-2450] * 3 + [-250] * 3


def test_once_is_one_charge_of_a_month_or_of_a_year() -> None:
    once = replace(HALF_FOR_THREE, duration=CouponDuration.ONCE, month_count=0)
    assert taken([redeemed(once)], [due(4900, month(number)) for number in range(3)]) == [-2450]
    assert taken([redeemed(once)], [due(49_000, year(number)) for number in range(2)]) == [-24_500]


def test_months_of_a_yearly_price_are_their_share_of_the_year() -> None:
    whole = timedelta(days=365)
    covered = nth_start(ANCHOR, 3) - ANCHOR
    expected = round(36_500 * covered / whole / 2)
    assert taken([redeemed()], [due(36_500, year(0))]) == [-expected]


def test_a_coupon_without_an_end_counts_until_it_is_ended() -> None:
    forever = replace(HALF_FOR_THREE, duration=CouponDuration.FOREVER, month_count=0)
    dues = [due(4900, month(number)) for number in range(40)]
    assert taken([redeemed(forever)], dues) == [-2450] * 40
    ended = replace(redeemed(forever), end_time=nth_start(ANCHOR, 7))
    assert taken([ended], dues) == [-2450] * 7


def test_an_amount_is_taken_off_once_a_period_up_to_what_is_due() -> None:
    ten = replace(
        HALF_FOR_THREE, percent=None, amounts=(Money(1000, "USD"), Money(900, "EUR")), categories=frozenset({BASE})
    )
    dues = [due(4900, month(0)), due(600, month(1)), due(0, month(2)), due(4900, month(3))]
    assert taken([redeemed(ten)], dues) == [-1000, -600]
    assert taken([redeemed(ten)], [due(4900, month(0), currency_code="EUR")]) == [-900]
    assert taken([redeemed(ten)], [due(4900, month(0), currency_code="JPY")]) == []


def test_an_amount_is_shared_by_the_segments_of_a_period_and_not_repeated() -> None:
    ten = replace(HALF_FOR_THREE, percent=None, amounts=(Money(1000, "USD"),), categories=frozenset({BASE}))
    middle = ANCHOR + timedelta(days=10)
    dues = [
        due(600, month(0), segment=Period(ANCHOR, middle)),
        due(2000, month(0), segment=Period(middle, month(0).end), plan_id="pro"),
    ]
    assert taken([redeemed(ten)], dues) == [-1000]


def test_a_coupon_for_some_plans_leaves_the_others_alone() -> None:
    pro_only = replace(HALF_FOR_THREE, plan_ids=frozenset({"pro"}))
    middle = ANCHOR + timedelta(days=10)
    dues = [
        due(600, month(0), segment=Period(ANCHOR, middle)),
        due(2000, month(0), segment=Period(middle, month(0).end), plan_id="pro"),
    ]
    assert taken([redeemed(pro_only)], dues) == [-1000]


def test_coupons_count_in_the_order_of_redemption_each_on_what_the_one_before_leaves() -> None:
    ten = replace(
        HALF_FOR_THREE, coupon_id="TEN", percent=None, amounts=(Money(1000, "USD"),), categories=frozenset({BASE})
    )
    second = replace(redeemed(ten, name="red_0"), redeem_time=ANCHOR + timedelta(hours=1))
    assert taken([second, redeemed()], [due(4900, month(0))]) == [-2450, -1000]
    first = replace(redeemed(ten, name="red_2"), redeem_time=ANCHOR - timedelta(hours=1))
    assert taken([redeemed(), first], [due(4900, month(0))]) == [-1000, -1950]


def test_discounts_that_each_round_up_take_no_more_than_there_is() -> None:
    whole = replace(HALF_FOR_THREE, percent=Decimal(100))
    both = [redeemed(name="red_1"), redeemed(whole, name="red_2")]
    assert taken(both, [due(1, month(0))]) == [-1]


def test_what_was_invoiced_already_is_not_discounted() -> None:
    interval = month(2)
    now = interval.start + timedelta(days=4)
    assert coverage_start(now, interval, is_invoiced=False) == interval.start
    assert coverage_start(now, interval, is_invoiced=True) == interval.end


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"coupon_id": "a b"}, "coupon_id"),
        ({"display_name": ""}, "display_name"),
        ({"percent": None}, "percent"),
        ({"amounts": (Money(1, "USD"),)}, "percent"),
        ({"percent": Decimal(0)}, "percent"),
        ({"percent": Decimal(101)}, "percent"),
        ({"month_count": 0}, "month_count"),
        ({"duration": CouponDuration.ONCE}, "month_count"),
        ({"categories": frozenset()}, "categories"),
        ({"percent": None, "amounts": (Money(1, "USD"),)}, "categories"),
        ({"percent": None, "amounts": (Money(0, "USD"),), "categories": frozenset({BASE})}, "amounts"),
        ({"percent": None, "amounts": (Money(1, "USD"), Money(2, "USD")), "categories": frozenset({BASE})}, "amounts"),
        ({"redemptions_max": 0}, "redemptions_max"),
    ],
)
def test_an_unsound_coupon_is_refused_by_its_field(changes: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidField, match=field):
        require_coupon(replace(HALF_FOR_THREE, **changes))  # type: ignore[arg-type]


def test_a_coupon_for_more_months_than_anybody_plans_is_refused() -> None:
    with pytest.raises(LimitExceeded):
        require_coupon(replace(HALF_FOR_THREE, month_count=121))


def test_a_withdrawn_or_late_coupon_is_not_redeemed() -> None:
    late = replace(HALF_FOR_THREE, redeem_by=ANCHOR)
    for standing in (
        CouponStanding(coupon=HALF_FOR_THREE, redemption_count=0, is_withdrawn=True),
        CouponStanding(coupon=late, redemption_count=0, is_withdrawn=False),
    ):
        with pytest.raises(InvalidState):
            require_redeemable(standing, now=ANCHOR)
    require_redeemable(
        CouponStanding(coupon=late, redemption_count=0, is_withdrawn=False), now=ANCHOR - timedelta(microseconds=1)
    )
