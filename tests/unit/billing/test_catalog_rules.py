from __future__ import annotations

from dataclasses import replace

import pytest

from kit.money import Money
from services.billing.domain import limits
from services.billing.domain.catalog import CatalogPlan, Interval, LimitKind, change_catalog
from services.billing.domain.catalog_rules import read_catalog
from services.billing.domain.catalog_text import ChargeText, FlatFeeText, PlanMeterText, PlanText, PriceBookText
from services.billing.domain.errors import InvalidCatalog
from tests.unit.billing.plans import ENTERPRISE, FREE, METERS, MINUTE, STARTER, book, minutes_charge, priced

MINUTES = PlanMeterText(
    meter="agent_minutes",
    limit_kind=LimitKind.PERIOD,
    limit_quantity=6_000_000,
    grace_percent=0,
    included_quantity=6_000_000,
    overage_unit_price="",
)
AGENTS = PlanMeterText(
    meter="concurrent_agents",
    limit_kind=LimitKind.CONCURRENCY,
    limit_quantity=1,
    grace_percent=0,
    included_quantity=0,
    overage_unit_price="",
)
FREE_TEXT = PlanText(
    plan_id="free",
    display_name="Free",
    monthly_price="0.00",
    currency_code="USD",
    meters=(MINUTES, AGENTS),
    features={},
)
STARTER_TEXT = PlanText(
    plan_id="starter",
    display_name="Starter",
    monthly_price="49.00",
    currency_code="USD",
    meters=(replace(MINUTES, overage_unit_price="0.05"), AGENTS),
    features={"exports": True},
)


FEE = ChargeText(charge_id="fee", price=FlatFeeText("0"))


def in_full(text: PlanText, *books: PriceBookText) -> PlanText:
    return replace(text, monthly_price="", currency_code="", price_books=books)


def with_meter(**changes: object) -> PlanText:
    return replace(STARTER_TEXT, meters=(replace(STARTER_TEXT.meters[0], **changes), AGENTS))  # type: ignore[arg-type]


def with_agents(**changes: object) -> PlanText:
    return replace(STARTER_TEXT, meters=(replace(AGENTS, **changes),))  # type: ignore[arg-type]


BROKEN: dict[str, tuple[PlanText, str]] = {
    "plan_id_in_capitals": (replace(STARTER_TEXT, plan_id="Starter"), "plan_id"),
    "plan_id_empty": (replace(STARTER_TEXT, plan_id=""), "plan_id"),
    "plan_id_too_long": (replace(STARTER_TEXT, plan_id="a" * 65), "plan_id"),
    "display_name_empty": (replace(STARTER_TEXT, display_name=""), "display_name"),
    "display_name_with_a_line_break": (replace(STARTER_TEXT, display_name="a\nb"), "display_name"),
    "currency_unknown": (replace(STARTER_TEXT, currency_code="XXX"), "currency_code"),
    "price_empty": (replace(STARTER_TEXT, monthly_price=""), "monthly_price"),
    "price_not_a_decimal": (replace(STARTER_TEXT, monthly_price="4.9e1"), "monthly_price"),
    "price_not_a_number": (replace(STARTER_TEXT, monthly_price="NaN"), "monthly_price"),
    "price_finer_than_the_currency": (replace(STARTER_TEXT, monthly_price="49.005"), "monthly_price"),
    "price_of_a_currency_without_decimals": (
        replace(STARTER_TEXT, monthly_price="49.5", currency_code="JPY"),
        "monthly_price",
    ),
    "price_negative": (replace(STARTER_TEXT, monthly_price="-1.00"), "monthly_price"),
    "price_beyond_all_prices": (replace(STARTER_TEXT, monthly_price="1000000001"), "monthly_price"),
    "meter_unknown": (with_meter(meter="gpu_hours"), "meters[gpu_hours].meter"),
    "meter_twice": (replace(STARTER_TEXT, meters=(MINUTES, MINUTES)), "meters[agent_minutes]"),
    "limit_kind_missing": (with_meter(limit_kind=None), "meters[agent_minutes].limit_kind"),
    "limit_negative": (with_meter(limit_quantity=-1), "meters[agent_minutes].limit_quantity"),
    "limit_beyond_2_to_the_53": (with_meter(limit_quantity=2**53), "meters[agent_minutes].limit_quantity"),
    "grace_negative": (with_meter(grace_percent=-1), "meters[agent_minutes].grace_percent"),
    "grace_above_100": (with_meter(grace_percent=101), "meters[agent_minutes].grace_percent"),
    "included_negative": (with_meter(included_quantity=-1), "meters[agent_minutes].included_quantity"),
    "included_beyond_2_to_the_53": (with_meter(included_quantity=2**53), "meters[agent_minutes].included_quantity"),
    "overage_price_not_a_decimal": (with_meter(overage_unit_price="x"), "meters[agent_minutes].overage_unit_price"),
    "overage_price_negative": (with_meter(overage_unit_price="-0.05"), "meters[agent_minutes].overage_unit_price"),
    "concurrency_with_included": (with_agents(included_quantity=1), "meters[concurrent_agents].included_quantity"),
    "concurrency_with_overage_price": (
        with_agents(overage_unit_price="1"),
        "meters[concurrent_agents].overage_unit_price",
    ),
    "feature_in_capitals": (replace(STARTER_TEXT, features={"SSO": True}), "features"),
    "too_many_meters": (
        replace(STARTER_TEXT, meters=tuple(replace(MINUTES, meter=f"m{n}") for n in range(65))),
        "meters",
    ),
    "too_many_features": (replace(STARTER_TEXT, features={f"f{n}": True for n in range(101)}), "features"),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_a_catalog_that_breaks_a_rule_is_refused_with_plan_and_field(rule: str) -> None:
    text, field = BROKEN[rule]
    with pytest.raises(InvalidCatalog) as refused:
        read_catalog([FREE_TEXT, text], METERS)
    assert refused.value.reason == "INVALID_CATALOG"
    assert (refused.value.fields["plan_id"], refused.value.fields["field"]) == (text.plan_id[:64], field)
    assert field in str(refused.value)


def test_a_catalog_without_free_is_refused() -> None:
    with pytest.raises(InvalidCatalog, match=r"'free'.*must be in the catalog"):
        read_catalog([STARTER_TEXT], METERS)


def test_a_catalog_with_a_plan_twice_is_refused() -> None:
    with pytest.raises(InvalidCatalog, match="appears twice"):
        read_catalog([FREE_TEXT, STARTER_TEXT, STARTER_TEXT], METERS)


@pytest.mark.parametrize(
    "text",
    [
        replace(FREE_TEXT, monthly_price="0.01"),
        replace(FREE_TEXT, meters=(replace(MINUTES, overage_unit_price="0.05"),)),
        replace(FREE_TEXT, meters=(replace(MINUTES, overage_unit_price="0"),)),
        replace(FREE_TEXT, trial_days=1),
        in_full(FREE_TEXT, PriceBookText(currency_code="USD", base_price="0", minimum="1")),
        in_full(FREE_TEXT, PriceBookText(currency_code="USD", base_price="0", charges=(FEE,))),
        in_full(
            FREE_TEXT,
            PriceBookText(currency_code="USD", base_price="0"),
            PriceBookText(currency_code="EUR", base_price="1"),
        ),
        replace(in_full(FREE_TEXT, PriceBookText(currency_code="USD", base_price="0")), interval=Interval.YEAR),
    ],
    ids=[
        "price",
        "overage_price",
        "overage_price_of_zero",
        "trial",
        "minimum",
        "flat_fee",
        "price_elsewhere",
        "year",
    ],
)
def test_free_is_never_billed(text: PlanText) -> None:
    with pytest.raises(InvalidCatalog, match="Plan 'free'"):
        read_catalog([text], METERS)


def test_too_many_plans_are_refused() -> None:
    texts = [replace(STARTER_TEXT, plan_id=f"p{n}") for n in range(limits.PLANS_MAX)]
    with pytest.raises(InvalidCatalog, match="more than 100"):
        read_catalog([FREE_TEXT, *texts], METERS)


def test_a_sound_catalog_reads_as_written() -> None:
    free, starter = read_catalog([FREE_TEXT, STARTER_TEXT], METERS)
    assert free.price_books == (book(Money(0, "USD")),)
    assert free.meters[0].included_quantity == 100 * MINUTE
    assert starter.price_books == (book(Money(4900, "USD"), minutes_charge(included=100)),)
    assert starter.meters[0].included_quantity == 0
    assert starter.features == {"exports": True}


def test_an_unlimited_meter_has_no_limit() -> None:
    (free,) = read_catalog([replace(FREE_TEXT, meters=(replace(MINUTES, limit_quantity=None),))], METERS)
    assert free.meters[0].limit_quantity is None


def test_the_same_content_written_otherwise_is_no_new_version() -> None:
    (starter,) = read_catalog([FREE_TEXT, STARTER_TEXT], METERS)[1:]
    known = {"starter": CatalogPlan(starter.with_version(3), is_sold=True)}
    respelled = replace(
        STARTER_TEXT,
        monthly_price="49",
        meters=(AGENTS, replace(MINUTES, overage_unit_price="0.050")),
    )
    change = change_catalog(read_catalog([FREE_TEXT, respelled], METERS)[1:], known)
    assert change.changed == ()
    assert [plan.version for plan in change.sold] == [3]


def test_changed_content_gets_the_next_version_and_a_plan_left_out_is_withdrawn() -> None:
    known = {plan.plan_id: CatalogPlan(plan.with_version(1), is_sold=True) for plan in (FREE, STARTER, ENTERPRISE)}
    dearer = priced(STARTER, Money(5900, "USD"))
    change = change_catalog([dearer, FREE], known)
    assert change.changed == (dearer.with_version(2),)
    assert change.sold == (FREE.with_version(1), dearer.with_version(2))
    assert change.withdrawn == ("enterprise",)


def test_a_plan_sold_again_unchanged_keeps_its_version() -> None:
    known = {"starter": CatalogPlan(STARTER.with_version(4), is_sold=False)}
    assert change_catalog([STARTER], known).sold == (STARTER.with_version(4),)


def test_plans_are_listed_cheapest_first_across_currencies() -> None:
    yen = replace(priced(STARTER, Money(60, "JPY")), plan_id="yen")
    assert [plan.plan_id for plan in change_catalog([yen, STARTER, FREE], {}).sold] == ["free", "starter", "yen"]
