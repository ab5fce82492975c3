from __future__ import annotations

import re
from pathlib import Path

import pytest

from cli.catalog import CatalogError, diff_lines, plans_to_pb, read_catalog
from tollbook.billing.v1 import catalog_pb2

_ROOT = Path(__file__).resolve().parents[2]
_SHIPPED = _ROOT / "deploy" / "plans.yaml"
_EXAMPLE = _ROOT / "deploy" / "examples" / "plans-all-prices.yaml"
_BROKEN = _ROOT / "tests" / "fixtures" / "plans"
_METERS = {"agent_minutes": 60_000, "concurrent_agents": 1, "api_calls": 1}

# Each file is named after the rule it breaks; what its refusal says after "<path>:".
_REFUSED_WHEN_READ = {
    "not_yaml": "3: not YAML: ",
    "empty": " is empty",
    "two_documents": "10: not YAML: but found another document",
    "list_at_the_top": "1: must be a mapping, not a list",
    "unknown_key": "10: plan free: unknown key 'discount'; known are name, monthly_price, meters, features",
    "missing_key": "5: plan free: monthly_price missing",
    "repeated_plan": "10: plans: the key 'free' is there twice",
    "free_plan_missing": "4: plans: 'free' missing: every organization begins on it",
    "unknown_currency": "1: currency: 'XXX' is not a currency that can be billed",
    "plan_name_in_capitals": "11: plan Starter: the name 'Starter' must be lower-case letters",
    "feature_not_described": "10: plan free, features 1: 'export' is not described under features",
    "feature_repeated": "10: plan free, features 2: 'exports' is there twice",
    "feature_as_a_mapping": "10: plan free, features: must be a list, not a mapping",
    "price_with_three_decimals": "12: plan starter, monthly_price: '49.005' has more decimals than USD",
    "price_negative": "12: plan starter, monthly_price: -49.00 is negative",
    "price_in_scientific_notation": "12: plan starter, monthly_price: '4.9e1' is not a decimal",
    "price_empty": "12: plan starter, monthly_price: is empty",
    "limit_not_a_number": "14: plan starter, meter agent_minutes, limit: 'lots' is not a decimal",
    "limit_negative": "14: plan starter, meter agent_minutes, limit: -1 is negative",
    "limit_missing": "14: plan starter, meter agent_minutes: limit missing",
    "grace_missing": "14: plan starter, meter agent_minutes: grace_percent missing: say 0",
    "grace_above_100": "14: plan starter, meter agent_minutes, grace_percent: '101' is not a whole number from 0",
    "grace_as_a_fraction": "14: plan starter, meter agent_minutes, grace_percent: '10.5' is not a whole number",
    "grace_above_unlimited": "14: plan starter, meter agent_minutes, grace_percent: there is no grace band",
    "counts_unknown": "14: plan starter, meter agent_minutes, counts: 'forever' is none of period, concurrency",
    "concurrency_with_overage_price": "14: plan starter, meter concurrent_agents: unknown key 'overage_price'",
    "overage_price_as_a_list": "14: plan starter, meter agent_minutes, overage_price: must be a single value",
    "meter_as_a_number": "14: plan starter, meter agent_minutes: must be a mapping, not a single value",
    "interval_unknown": "8: plan scale, interval: 'week' is none of month, year",
    "year_in_the_short_spelling": "8: plan scale, interval: the price of a year is written under prices",
    "trial_as_a_fraction": "8: plan scale, trial_days: '1.5' is not a whole number from 0 to 365",
    "prices_beside_monthly_price": "8: plan scale: unknown key 'monthly_price'",
    "prices_without_a_currency": "8: plan scale, prices: must have at least one currency",
    "prices_in_an_unknown_currency": "8: plan scale, prices, XXX: 'XXX' is not a currency that can be billed",
    "included_beside_prices": "8: plan scale, meter api_calls: unknown key 'included'",
    "base_missing": "8: plan scale, prices, USD: base missing",
    "base_finer_than_the_currency": "8: plan scale, prices, JPY, base: '9.5' has more decimals than JPY",
    "charge_without_a_price": "8: plan scale, prices, USD, charges, api_calls: needs one price: one of flat_fee",
    "charge_with_two_prices": "8: plan scale, prices, USD, charges, api_calls: needs one price: one of flat_fee",
    "charge_repeated": "13: plan scale, prices, USD, charges: the key 'api_calls' is there twice",
    "charge_name_in_capitals": "8: plan scale, prices, USD, charges, Calls: the name 'Calls' must be lower-case",
    "flat_fee_with_a_meter": "8: plan scale, prices, USD, charges, fee, meter: a flat fee counts nothing",
    "flat_fee_with_three_decimals": "8: plan scale, prices, USD, charges, fee, flat_fee: '1.005' has more decimals",
    "unit_price_with_13_decimals": "8: plan scale, prices, USD, charges, api_calls, per_unit: '0.0000000000001' is not",
    "tiers_missing": "8: plan scale, prices, USD, charges, api_calls, graduated: needs at least one tier",
    "tiers_that_descend": "15: plan scale, prices, USD, charges, api_calls, volume 2, up_to: 50 is not above 100",
    "last_tier_closed": "8: plan scale, prices, USD, charges, api_calls, graduated 1, up_to: the last tier is open",
    "open_tier_before_the_last": "14: plan scale, prices, USD, charges, api_calls, graduated 1: up_to missing",
    "package_without_a_size": "8: plan scale, prices, USD, charges, api_calls, package: size missing",
    "percentage_negative": "8: plan scale, prices, USD, charges, provider_cost, percentage, percent: -5 is negative",
}
_REFUSED_BY_THE_METERS = {
    "meter_unknown": "14: plan starter, meter agent_hours: there is no meter 'agent_hours'; there are agent_minutes",
    "limit_between_base_units": "14: plan starter, meter agent_minutes, limit: 0.00001 is not a whole number",
    "limit_beyond_2_to_the_53": "14: plan starter, meter agent_minutes, limit: 150119987580 is more than 2^53 - 1",
    "charge_of_an_unknown_meter": "8: plan scale, prices, USD, charges, gpu_hours: there is no meter 'gpu_hours'",
    "tier_between_base_units": "14: plan scale, prices, USD, charges, api_calls, graduated 1, up_to: 0.5 is not a",
}


@pytest.mark.parametrize("broken_rule", _REFUSED_WHEN_READ)
def test_file_that_breaks_a_rule_is_refused_with_line_plan_and_field(broken_rule: str) -> None:
    path = _BROKEN / f"{broken_rule}.yaml"
    with pytest.raises(CatalogError, match=re.escape(f"{path}:{_REFUSED_WHEN_READ[broken_rule]}")):
        read_catalog(path)


@pytest.mark.parametrize("broken_rule", _REFUSED_BY_THE_METERS)
def test_file_that_the_meters_do_not_fit_is_refused_with_line_plan_and_field(broken_rule: str) -> None:
    path = _BROKEN / f"{broken_rule}.yaml"
    catalog = read_catalog(path)
    with pytest.raises(CatalogError, match=re.escape(f"{path}:{_REFUSED_BY_THE_METERS[broken_rule]}")):
        plans_to_pb(catalog, _METERS)


def test_every_broken_file_has_its_refusal() -> None:
    assert {path.stem for path in _BROKEN.glob("*.yaml")} == {*_REFUSED_WHEN_READ, *_REFUSED_BY_THE_METERS}


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"nowhere\.yaml: No such file"):
        read_catalog(tmp_path / "nowhere.yaml")


def test_bytes_that_are_not_utf_8_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "plans.yaml"
    path.write_bytes(b"currency: \xff\n")
    with pytest.raises(CatalogError, match=r"plans\.yaml: not UTF-8 at byte 10"):
        read_catalog(path)


def test_file_that_nests_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plans.yaml"
    path.write_text("[" * 100_000, encoding="ascii")
    with pytest.raises(CatalogError, match="not YAML"):
        read_catalog(path)


def _shipped() -> dict[str, catalog_pb2.Plan]:
    return {plan.plan_id: plan for plan in plans_to_pb(read_catalog(_SHIPPED), _METERS)}


def test_shipped_plans_cost_what_was_agreed() -> None:
    prices = {plan_id: (plan.monthly_price, plan.currency_code) for plan_id, plan in _shipped().items()}
    assert prices == {
        "free": ("0.00", "USD"),
        "starter": ("49.00", "USD"),
        "pro": ("149.00", "USD"),
        "enterprise": ("499.00", "USD"),
    }


def test_shipped_agent_minutes_are_limited_and_charged_in_milliseconds_as_agreed() -> None:
    def agent_minutes(plan: catalog_pb2.Plan) -> tuple[int | None, int, int, str]:
        meter = next(meter for meter in plan.meters if meter.meter == "agent_minutes")
        assert meter.limit_kind == catalog_pb2.PLAN_LIMIT_KIND_PERIOD
        limit = meter.limit_quantity if meter.HasField("limit_quantity") else None
        return limit, meter.grace_percent, meter.included_quantity, meter.overage_unit_price

    assert {plan_id: agent_minutes(plan) for plan_id, plan in _shipped().items()} == {
        "free": (6_000_000, 0, 6_000_000, ""),
        "starter": (60_000_000, 10, 60_000_000, "0.05"),
        "pro": (600_000_000, 10, 600_000_000, "0.05"),
        "enterprise": (None, 0, 0, "0.05"),
    }


def test_shipped_concurrent_agents_are_limited_as_agreed() -> None:
    def concurrent_agents(plan: catalog_pb2.Plan) -> int | None:
        meter = next(meter for meter in plan.meters if meter.meter == "concurrent_agents")
        assert meter.limit_kind == catalog_pb2.PLAN_LIMIT_KIND_CONCURRENCY
        return meter.limit_quantity if meter.HasField("limit_quantity") else None

    counts = {plan_id: concurrent_agents(plan) for plan_id, plan in _shipped().items()}
    assert counts == {"free": 1, "starter": 5, "pro": 20, "enterprise": None}


def test_every_plan_says_of_every_feature_whether_it_is_on() -> None:
    plans = _shipped()
    assert {frozenset(plan.features) for plan in plans.values()} == {frozenset(plans["enterprise"].features)}
    assert all(plans["enterprise"].features.values())
    assert [name for name, is_on in plans["free"].features.items() if is_on] == ["basic_analytics"]


def test_same_plan_written_twice_is_one_value_for_its_alias(tmp_path: Path) -> None:
    path = tmp_path / "plans.yaml"
    path.write_text(
        "currency: USD\n"
        "features: {}\n"
        "plans:\n"
        "  free: &plan {name: Free, monthly_price: 0, meters: {}}\n"
        "  other: *plan\n",
        encoding="ascii",
    )
    assert [plan.plan_id for plan in read_catalog(path).plans] == ["free", "other"]


def _example() -> catalog_pb2.Plan:
    ratios = _METERS | {"tokens_output": 1, "tokens_cache_read": 1, "provider_cost": 10**9}
    return next(plan for plan in plans_to_pb(read_catalog(_EXAMPLE), ratios) if plan.plan_id == "scale")


def test_the_example_has_every_part_that_a_plan_can_have() -> None:
    plan = _example()
    assert (plan.interval, plan.trial_days, plan.monthly_price) == (catalog_pb2.PLAN_INTERVAL_YEAR, 14, "")
    assert [(book.currency_code, book.base_price, book.minimum) for book in plan.price_books] == [
        ("USD", "12000.00", "250.00"),
        ("JPY", "1800000", "37000"),
        ("KWD", "3700.000", "77.000"),
    ]
    kinds = [charge.WhichOneof("price") for charge in plan.price_books[0].charges]
    assert sorted(filter(None, kinds)) == [
        "flat_fee",
        "graduated",
        "package",
        "per_unit",
        "percentage",
        "volume",
    ]


def test_quantities_of_charges_are_written_in_display_units() -> None:
    charges = {charge.charge_id: charge for charge in _example().price_books[0].charges}
    minutes = charges["agent_minutes"]
    assert (minutes.meter, minutes.included_quantity) == ("agent_minutes", 10_000 * 60_000)
    assert [tier.up_to for tier in minutes.graduated.tiers] == [40_000 * 60_000, 90_000 * 60_000, 0]
    assert not minutes.graduated.tiers[2].HasField("up_to")
    assert (charges["tokens"].meter, charges["tokens"].package.size) == ("tokens_output", 1_000_000)
    assert (charges["priority_support"].meter, charges["priority_support"].flat_fee.amount) == ("", "99.00")


def test_a_plan_may_have_a_trial_in_the_short_spelling(tmp_path: Path) -> None:
    path = tmp_path / "plans.yaml"
    path.write_text(
        "currency: USD\nfeatures: {}\nplans:\n"
        "  free: {name: Free, monthly_price: 0, meters: {}}\n"
        "  tried: {name: Tried, monthly_price: 9.00, trial_days: 30, meters: {}}\n",
        encoding="ascii",
    )
    assert [plan.trial_days for plan in plans_to_pb(read_catalog(path), {})] == [0, 30]


def test_a_diff_reads_plan_by_plan_and_field_by_field() -> None:
    diffs = [
        catalog_pb2.PlanDiff(
            plan_id="starter",
            kind=catalog_pb2.PLAN_DIFF_KIND_CHANGED,
            version_before=3,
            version_after=4,
            fields=[
                catalog_pb2.FieldDiff(field="prices.USD.base", before="49.00 USD a month", after="59.00 USD a month"),
                catalog_pb2.FieldDiff(field="trial_days", before="", after="14"),
                catalog_pb2.FieldDiff(field="features.sso", before="on", after=""),
            ],
        ),
        catalog_pb2.PlanDiff(plan_id="old", kind=catalog_pb2.PLAN_DIFF_KIND_WITHDRAWN),
        catalog_pb2.PlanDiff(plan_id="back", kind=catalog_pb2.PLAN_DIFF_KIND_SOLD_AGAIN, version_after=2),
        catalog_pb2.PlanDiff(plan_id="scale", kind=catalog_pb2.PLAN_DIFF_KIND_ADDED, version_after=1),
    ]
    assert diff_lines(diffs) == [
        "starter: version 3 becomes 4; who has 3 keeps it",
        "  prices.USD.base  49.00 USD a month -> 59.00 USD a month",
        "  trial_days       14",
        "  features.sso     on -> gone",
        "old: no longer sold; who has it keeps it",
        "back: sold again, version 2",
        "scale: new",
    ]
