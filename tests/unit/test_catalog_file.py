from __future__ import annotations

import re
from pathlib import Path

import pytest

from cli.catalog import CatalogError, plans_to_pb, read_catalog
from tollbook.billing.v1 import catalog_pb2

_ROOT = Path(__file__).resolve().parents[2]
_SHIPPED = _ROOT / "deploy" / "plans.yaml"
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
}
_REFUSED_BY_THE_METERS = {
    "meter_unknown": "14: plan starter, meter agent_hours: there is no meter 'agent_hours'; there are agent_minutes",
    "limit_between_base_units": "14: plan starter, meter agent_minutes, limit: 0.00001 is not a whole number",
    "limit_beyond_2_to_the_53": "14: plan starter, meter agent_minutes, limit: 150119987580 is more than 2^53 - 1",
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
