from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest

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
    price_of,
)

CALLS = Meter(name="api_calls", display_unit="call", base_units_per_display_unit=1)
MINUTES = Meter(name="agent_minutes", display_unit="minute", base_units_per_display_unit=60_000)
COST = Meter(name="provider_cost", display_unit="usd", base_units_per_display_unit=10**9)
TIERS = (
    Tier(up_to=100, unit_price=Decimal(2)),
    Tier(up_to=200, unit_price=Decimal(1), flat_price=Decimal(10)),
    Tier(up_to=None, unit_price=Decimal("0.5"), flat_price=Decimal(5)),
)


def cost(price: Price, quantity: int, *, included: int = 0, meter: Meter = CALLS) -> Fraction:
    charge = Charge(charge_id="any", display_name="Any", meter=meter.name, included_quantity=included, price=price)
    return price_of(charge, meter, quantity)


@pytest.mark.parametrize(
    ("quantity", "major"),
    [(0, "0"), (1, "2"), (99, "198"), (100, "200"), (101, "211"), (200, "310"), (201, "315.5"), (300, "365")],
)
def test_graduated_prices_each_unit_by_its_own_tier_and_a_tiers_fee_comes_with_its_first_unit(
    quantity: int, major: str
) -> None:
    assert cost(Graduated(TIERS), quantity) == Fraction(major)


@pytest.mark.parametrize(
    ("quantity", "major"),
    [(0, "0"), (1, "2"), (100, "200"), (101, "111"), (200, "210"), (201, "105.5"), (300, "155")],
)
def test_volume_prices_every_unit_by_the_tier_of_the_last(quantity: int, major: str) -> None:
    assert cost(Volume(TIERS), quantity) == Fraction(major)


@pytest.mark.parametrize(("quantity", "major"), [(0, 0), (1, 3), (1_000, 3), (1_001, 6), (2_000, 6)])
def test_a_package_that_is_begun_is_paid_whole(quantity: int, major: int) -> None:
    assert cost(Package(size=1_000, price=Decimal(3)), quantity) == major


def test_a_unit_is_the_display_unit_and_its_parts_are_exact() -> None:
    assert cost(PerUnit(Decimal("0.05")), 1, meter=MINUTES) == Fraction(5, 100 * 60_000)


def test_a_percentage_takes_its_share_of_money_that_was_counted() -> None:
    assert cost(Percentage(percent=Decimal("12.5")), 8 * 10**9 + 1, meter=COST) == Fraction(8 * 10**9 + 1, 8 * 10**9)


def test_a_percentage_of_another_currency_is_exchanged_at_the_plans_rate() -> None:
    price = Percentage(percent=Decimal(20), exchange_rate=Decimal("151.5"))
    assert cost(price, 10 * 10**9, meter=COST) == Fraction(303)


def test_a_flat_fee_costs_nothing_by_quantity() -> None:
    charge = Charge(charge_id="seat", display_name="Seat", meter="", included_quantity=0, price=FlatFee(Decimal(9)))
    assert price_of(charge, CALLS, 10**6) == 0


@pytest.mark.parametrize(
    "price",
    [PerUnit(Decimal(7)), Graduated(TIERS), Volume(TIERS), Package(size=10, price=Decimal(7)),
     Percentage(percent=Decimal(7))],
    ids=lambda price: type(price).__name__,
)  # fmt: skip
@pytest.mark.parametrize("beyond", [-150, -1, 0, 1, 100, 101])
def test_the_allowance_is_free_and_everything_counts_from_its_end(price: Price, beyond: int) -> None:
    assert cost(price, 150 + beyond, included=150) == cost(price, max(0, beyond))
