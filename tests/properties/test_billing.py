"""Money and time of billing, against oracles that share no line with it."""

from __future__ import annotations

import calendar
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from kit.money import Money
from services.billing.domain.catalog import Plan, PriceBook, per_unit_charge
from services.billing.domain.invoices import total_of
from services.billing.domain.meters import Meter
from services.billing.domain.periods import Period, nth_start, period_at
from services.billing.domain.prices import PerUnit
from tests.unit.billing.rated import rate

TICK = timedelta(microseconds=1)
TEN_YEARS_OF_MONTHS = 121

moments = st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - zone beside


@st.composite
def month_end_anchors(draw: st.DrawFn) -> datetime:
    year, month = draw(st.integers(2020, 2040)), draw(st.integers(1, 12))
    last = calendar.monthrange(year, month)[1]
    return draw(moments).replace(year=year, month=month, day=draw(st.integers(min(28, last), last)))


@given(anchor=st.one_of(moments, month_end_anchors()))
def test_ten_years_of_periods_tile_for_any_anchor(anchor: datetime) -> None:
    start = anchor
    for months in range(TEN_YEARS_OF_MONTHS):
        period = period_at(anchor, start)
        assert period.start == start == nth_start(anchor, months)
        assert timedelta(days=28) <= period.end - period.start <= timedelta(days=31)
        assert period_at(anchor, period.end - TICK) == period
        last_day = calendar.monthrange(period.end.year, period.end.month)[1]
        assert period.end.day == min(anchor.day, last_day)
        assert period.end.time() == anchor.time()
        start = period.end


@given(anchor=st.one_of(moments, month_end_anchors()), after=st.timedeltas(timedelta(), timedelta(days=3660)))
def test_every_moment_is_in_exactly_the_period_that_is_told(anchor: datetime, after: timedelta) -> None:
    moment = anchor + after
    period = period_at(anchor, moment)
    assert period.start <= moment < period.end
    assert period_at(anchor, period.start) == period


@st.composite
def cases(draw: st.DrawFn) -> tuple[Plan, dict[str, int], dict[str, Meter]]:
    currency_code = draw(st.sampled_from(["USD", "JPY", "KWD"]))
    names = draw(st.lists(st.sampled_from(["a", "b", "c", "d"]), unique=True))
    quantities = st.one_of(st.integers(0, 10**7), st.integers(0, 2**53 - 1))
    prices = st.one_of(
        st.none(),
        st.decimals(0, 1000, places=12, allow_nan=False, allow_infinity=False),
        st.decimals(0, 10, places=2, allow_nan=False, allow_infinity=False),
    )
    price = Money(draw(st.integers(0, 10**9)), currency_code)
    charges = [
        per_unit_charge(name, included_quantity=draw(quantities), unit_price=unit_price)
        for name in sorted(names)
        if (unit_price := draw(prices)) is not None
    ]
    plan = Plan(
        plan_id="any",
        version=1,
        display_name="Any",
        meters=(),
        price_books=(PriceBook(currency_code=currency_code, base_price=price, charges=tuple(charges)),),
        features={},
    )
    meters = {
        name: Meter(
            name=name,
            display_unit="unit",
            base_units_per_display_unit=draw(st.sampled_from([1, 7, 1000, 60_000, 10**9])),
        )
        for name in names
    }
    used = draw(st.dictionaries(st.sampled_from(["a", "b", "c", "d", "e"]), quantities))
    return plan, used, meters


def oracle_total(plan: Plan, used: dict[str, int], meters: dict[str, Meter]) -> int:
    """Written with nothing of billing's: whole numbers of the finest unit that the case has, and Decimal's rounding."""
    book = plan.default_book
    decimals = {"USD": 2, "JPY": 0, "KWD": 3}[book.currency_code]
    total = book.base_price.minor
    for each in book.charges:
        assert isinstance(each.price, PerUnit)
        beyond = used.get(each.meter, 0) - each.included_quantity
        if beyond <= 0:
            continue
        pico_price = int(each.price.unit_price * Decimal(10) ** 12)
        numerator = beyond * pico_price * 10**decimals
        denominator = meters[each.meter].base_units_per_display_unit * 10**12
        whole, rest = divmod(numerator, denominator)
        total += whole + (1 if rest * 2 >= denominator else 0)
    return total


@settings(max_examples=5_000)
@given(case=cases())
def test_an_invoice_equals_the_oracle_to_the_unit(case: tuple[Plan, dict[str, int], dict[str, Meter]]) -> None:
    plan, used, meters = case
    period = Period(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC))
    lines = rate(plan, period, used, meters)
    assert total_of(lines, plan.default_book.currency_code).minor == oracle_total(plan, used, meters)
    assert [line.meter for line in lines[1:]] == [charge.meter for charge in plan.default_book.charges]
    for line in lines[1:]:
        assert line.charged_quantity == max(0, line.used_quantity - line.included_quantity)
        ratio = meters[line.meter].base_units_per_display_unit
        exact = Fraction(line.charged_quantity, ratio) * Fraction(line.unit_price or 0)
        unit = Fraction(1, {"USD": 100, "JPY": 1, "KWD": 1000}[line.amount.currency_code])
        assert abs(exact - line.amount.minor * unit) <= unit / 2
