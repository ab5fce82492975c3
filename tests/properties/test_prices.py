"""Prices, against an oracle that shares no line with billing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kit.money import Money
from services.billing.domain.meters import Meter
from services.billing.domain.prices import (
    Charge,
    Graduated,
    Package,
    Percentage,
    PerUnit,
    Tier,
    UsagePrice,
    Volume,
    price_of,
)
from tests.properties import price_oracle
from tests.properties.price_oracle import TierTuple

QUANTITY_MAX = 2**53 - 1
DECIMALS = {"USD": 2, "JPY": 0, "KWD": 3}

quantities = st.one_of(st.integers(0, 1_000), st.integers(0, 10**9), st.integers(0, QUANTITY_MAX))
ratios = st.sampled_from([1, 7, 1_000, 60_000, 10**9])
rates = st.one_of(
    st.decimals(0, 10, places=2, allow_nan=False, allow_infinity=False),
    st.decimals(0, 1_000, places=12, allow_nan=False, allow_infinity=False),
    st.sampled_from([Decimal(0), Decimal("1E-12"), Decimal(10**9)]),
).map(lambda rate: f"{rate:f}")
amounts = st.integers(0, 10**6).map(str)


@dataclass(frozen=True)
class Case:
    """A charge with what the oracle says that it costs, and the quantities where its price changes."""

    charge: Charge
    meter: Meter
    owed: Callable[[int], Fraction]
    """Of a quantity beyond the allowance."""
    edges: tuple[int, ...]
    """Of all units, the allowance among them."""

    def expected(self, quantity: int) -> Fraction:
        return self.owed(max(0, quantity - self.charge.included_quantity))

    def price(self, quantity: int) -> Fraction:
        return price_of(self.charge, self.meter, quantity)


def tiers_of(tuples: list[TierTuple]) -> tuple[Tier, ...]:
    return tuple(
        Tier(up_to=up_to, unit_price=Decimal(unit_price), flat_price=Decimal(flat_price))
        for up_to, unit_price, flat_price in tuples
    )


@st.composite
def tier_tuples(draw: st.DrawFn, ends: st.SearchStrategy[int]) -> list[TierTuple]:
    up_tos = sorted(draw(st.lists(ends, max_size=6, unique=True)))
    return [(up_to, draw(rates), draw(amounts)) for up_to in [*up_tos, None]]


@st.composite
def cases(draw: st.DrawFn, *, with_volume: bool = True) -> Case:
    ratio = draw(ratios)
    included = draw(st.one_of(st.just(0), quantities))
    ends: tuple[int, ...] = ()
    price: UsagePrice
    owed: Callable[[int], Fraction]
    kind = draw(st.sampled_from(["per_unit", "graduated", "package", "percentage", *(["volume"] * with_volume)]))
    match kind:
        case "graduated" | "volume":
            tuples = draw(tier_tuples(quantities.filter(bool)))
            ends = tuple(up_to for up_to, _, _ in tuples if up_to is not None)
            of, by = (Graduated, price_oracle.owed_graduated) if kind == "graduated" else (
                Volume, price_oracle.owed_by_volume
            )  # fmt: skip
            price, owed = of(tiers_of(tuples)), lambda charged: by(tuples, charged, ratio)
        case "package":
            size, package_price = draw(quantities.filter(bool)), draw(rates)
            ends = (size, 2 * size)
            price = Package(size=size, price=Decimal(package_price))
            owed = lambda charged: price_oracle.owed_by_package(size, package_price, charged)  # noqa: E731 - as above
        case "percentage":
            percent, exchange_rate = draw(rates), draw(st.none() | rates)
            exchanged = None if exchange_rate is None else Decimal(exchange_rate)
            price = Percentage(percent=Decimal(percent), exchange_rate=exchanged)
            owed = lambda charged: price_oracle.owed_by_percentage(percent, exchange_rate, charged, ratio)  # noqa: E731
        case _:
            unit_price = draw(rates)
            price = PerUnit(Decimal(unit_price))
            owed = lambda charged: price_oracle.owed_by_unit(unit_price, charged, ratio)  # noqa: E731 - as above
    charge = Charge(charge_id="any", display_name="Any", meter="any", included_quantity=included, price=price)
    meter = Meter(name="any", display_unit="unit", base_units_per_display_unit=ratio)
    return Case(charge, meter, owed, tuple(included + end for end in (0, *ends)))


def around(case: Case) -> list[int]:
    """The last quantity before every edge, the edge, and the first after it."""
    return sorted({max(0, edge + step) for edge in case.edges for step in (-1, 0, 1)})


@settings(max_examples=5_000)
@given(case=cases(), quantity=quantities, currency_code=st.sampled_from(sorted(DECIMALS)))
def test_a_price_equals_the_oracle_also_at_every_edge_and_in_every_currency(
    case: Case, quantity: int, currency_code: str
) -> None:
    for each in [quantity, QUANTITY_MAX, *around(case)]:
        exact = case.price(each)
        assert exact == case.expected(each)
        minor = price_oracle.minor_units(exact, DECIMALS[currency_code])
        assert Money.rounded(exact, currency_code) == Money(minor, currency_code)


@settings(max_examples=500)
@given(tuples=tier_tuples(st.integers(1, 60)), charged=st.integers(0, 80), ratio=st.sampled_from([1, 7]))
def test_graduated_prices_equal_what_is_counted_out_unit_by_unit(
    tuples: list[TierTuple], charged: int, ratio: int
) -> None:
    charge = Charge(
        charge_id="any", display_name="Any", meter="any", included_quantity=0, price=Graduated(tiers_of(tuples))
    )
    meter = Meter(name="any", display_unit="unit", base_units_per_display_unit=ratio)
    assert price_of(charge, meter, charged) == price_oracle.owed_one_by_one(tuples, charged, ratio)


@settings(max_examples=1_000)
@given(case=cases(), quantity=quantities, cuts=st.lists(quantities, max_size=8))
def test_however_a_period_is_parted_its_parts_sum_to_the_whole(case: Case, quantity: int, cuts: list[int]) -> None:
    counts = [0, *sorted(min(cut, quantity) for cut in cuts), quantity]
    parts = [case.price(end) - case.price(start) for start, end in pairwise(counts)]
    assert sum(parts) == case.price(quantity) == case.expected(quantity)


@settings(max_examples=1_000)
@given(case=cases(with_volume=False), one=quantities, other=quantities)
def test_more_never_costs_less_by_any_price_but_volume(case: Case, one: int, other: int) -> None:
    counts = sorted([one, other, *around(case)])
    prices = [case.price(count) for count in counts]
    assert prices == sorted(prices)


@settings(max_examples=500)
@given(tuples=tier_tuples(quantities.filter(bool)), one=quantities, other=quantities)
def test_more_never_costs_less_within_a_tier_by_volume(tuples: list[TierTuple], one: int, other: int) -> None:
    fewer, more = sorted([one, other])
    assume(not any(up_to is not None and fewer <= up_to < more for up_to, _, _ in tuples))
    charge = Charge(
        charge_id="any", display_name="Any", meter="any", included_quantity=0, price=Volume(tiers_of(tuples))
    )
    meter = Meter(name="any", display_unit="unit", base_units_per_display_unit=1)
    assert price_of(charge, meter, fewer) <= price_of(charge, meter, more)


@settings(max_examples=500)
@given(case=cases(), quantity=quantities)
def test_what_the_allowance_covers_costs_nothing(case: Case, quantity: int) -> None:
    assert case.price(min(quantity, case.charge.included_quantity)) == 0
