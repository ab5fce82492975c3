from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from cli.catalog import plans_to_pb, read_catalog
from services.billing.domain.catalog import Plan
from services.billing.domain.catalog_rules import read_catalog as read_catalog_text
from services.billing.domain.prices import price_of
from services.billing.rpc.convert_catalog import plan_text_from_pb
from tests.unit.billing.plans import METERS, MINUTE

_DEPLOY = Path(__file__).resolve().parents[3] / "deploy"


def plans_of(path: Path) -> dict[str, Plan]:
    ratios = {meter.name: meter.base_units_per_display_unit for meter in METERS.values()}
    messages = plans_to_pb(read_catalog(path), ratios)
    return {plan.plan_id: plan for plan in read_catalog_text([plan_text_from_pb(each) for each in messages], METERS)}


@pytest.mark.parametrize(
    ("currency_code", "charge_id", "quantity", "major"),
    [
        ("USD", "agent_minutes", 70_000 * MINUTE, "2800"),
        ("USD", "agent_minutes", 10_000 * MINUTE, "0"),
        ("USD", "agent_minutes", 100_000 * MINUTE, "4000"),
        ("USD", "agent_minutes", 101_000 * MINUTE, "4055"),
        ("USD", "api_calls", 100_000, "100"),
        ("USD", "api_calls", 100_001, "80.0008"),
        ("USD", "tokens", 1_000_001, "5"),
        ("USD", "cached_tokens", 4_000_000, "1"),
        ("USD", "models", 10 * 10**9, "12"),
        ("JPY", "models", 10 * 10**9, "1818"),
        ("KWD", "models", 10 * 10**9, "3.684"),
    ],
)
def test_the_example_costs_what_it_says(currency_code: str, charge_id: str, quantity: int, major: str) -> None:
    book = plans_of(_DEPLOY / "examples" / "plans-all-prices.yaml")["scale"].book(currency_code)
    (charge,) = [charge for charge in book.charges if charge.charge_id == charge_id]
    assert price_of(charge, METERS[charge.meter], quantity) == Fraction(major)


def test_free_is_the_same_plan_in_the_example_and_in_what_is_shipped() -> None:
    example = plans_of(_DEPLOY / "examples" / "plans-all-prices.yaml")
    assert example["free"] == plans_of(_DEPLOY / "plans.yaml")["free"]
