from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from kit.money import Money
from services.billing.domain.catalog import Plan
from services.billing.domain.invoices import LineKind, invoice_number, total_of
from services.billing.domain.periods import period_at
from tests.unit.billing.plans import ENTERPRISE, FREE, METERS, MINUTE, STARTER, priced
from tests.unit.billing.rated import rate

PERIOD = period_at(datetime(2026, 11, 20, 8, tzinfo=UTC), datetime(2026, 11, 25, tzinfo=UTC))


def test_usage_beyond_what_is_included_is_charged_by_the_base_unit() -> None:
    base, overage = rate(STARTER, PERIOD, {"agent_minutes": 1_100 * MINUTE + 1}, METERS)
    assert (base.kind, base.amount, base.meter) == (LineKind.BASE_FEE, Money(4900, "USD"), "")
    assert (overage.kind, overage.meter, overage.unit_price) == (LineKind.OVERAGE, "agent_minutes", Decimal("0.05"))
    assert overage.used_quantity == 1_100 * MINUTE + 1
    assert overage.included_quantity == 1_000 * MINUTE
    assert overage.charged_quantity == 100 * MINUTE + 1
    assert overage.amount == Money(500, "USD")
    assert total_of((base, overage), "USD") == Money(5400, "USD")


@pytest.mark.parametrize("used", [0, 1, 1_000 * MINUTE])
def test_usage_within_what_is_included_is_one_line_over_nothing(used: int) -> None:
    lines = rate(STARTER, PERIOD, {"agent_minutes": used}, METERS)
    assert [line.amount.minor for line in lines] == [4900, 0]
    assert lines[1].charged_quantity == 0


def test_a_meter_without_a_price_makes_no_line() -> None:
    lines = rate(FREE, PERIOD, {"agent_minutes": 10**9, "concurrent_agents": 4, "api_calls": 7}, METERS)
    assert [(line.kind, line.amount) for line in lines] == [(LineKind.BASE_FEE, Money(0, "USD"))]


def test_enterprise_pays_for_all_of_it() -> None:
    lines = rate(ENTERPRISE, PERIOD, {"agent_minutes": 10_000 * MINUTE}, METERS)
    assert [line.amount.minor for line in lines] == [49_900, 50_000]


@pytest.mark.parametrize(
    ("milliseconds", "cents"), [(5_999, 0), (6_000, 1), (17_999, 1), (18_000, 2), (1, 0), (60_000, 5)]
)
def test_half_a_cent_is_rounded_away_from_zero(milliseconds: int, cents: int) -> None:
    assert rate(ENTERPRISE, PERIOD, {"agent_minutes": milliseconds}, METERS)[1].amount.minor == cents


@pytest.mark.parametrize(("currency_code", "minor"), [("USD", 12), ("JPY", 0), ("KWD", 123)])
def test_an_amount_has_the_decimals_of_its_currency(currency_code: str, minor: int) -> None:
    plan = priced(ENTERPRISE, Money(0, currency_code), unit_price="0.123")
    assert rate(plan, PERIOD, {"agent_minutes": MINUTE}, METERS)[1].amount == Money(minor, currency_code)


@pytest.mark.parametrize(
    ("plan", "used", "texts"),
    [
        (
            STARTER,
            1_000 * MINUTE + 740_700,
            [
                "Starter plan, 20 Nov 2026 to 20 Dec 2026",
                "Agent minutes beyond 1 000 included: 12.345 at $0.05 per minute",
            ],
        ),
        (
            ENTERPRISE,
            1_234_567 * MINUTE + 1,
            [
                "Enterprise plan, 20 Nov 2026 to 20 Dec 2026",
                "Agent minutes: 1 234 567.000017 at $0.05 per minute",
            ],
        ),
        (FREE, 0, ["Free plan, 20 Nov 2026 to 20 Dec 2026"]),
    ],
    ids=["starter", "enterprise", "free"],
)
def test_a_line_says_what_it_charges(plan: Plan, used: int, texts: list[str]) -> None:
    assert [line.description for line in rate(plan, PERIOD, {"agent_minutes": used}, METERS)] == texts


@pytest.mark.parametrize(
    ("currency_code", "price", "text"),
    [("USD", "0.5", "$0.50"), ("EUR", "0.0125", "€0.0125"), ("JPY", "3", "3 JPY"), ("KWD", "0.05", "0.050 KWD")],
)
def test_a_price_shows_at_least_the_decimals_of_its_currency(currency_code: str, price: str, text: str) -> None:
    plan = priced(ENTERPRISE, Money(0, currency_code), unit_price=price)
    assert rate(plan, PERIOD, {}, METERS)[1].description == f"Agent minutes: 0 at {text} per minute"


def test_invoice_numbers_grow_wider_instead_of_wrapping() -> None:
    assert [invoice_number("TB", n) for n in (1, 999_999, 1_000_000)] == ["TB-000001", "TB-999999", "TB-1000000"]
