from __future__ import annotations

from dataclasses import replace

import pytest

from services.billing.domain.catalog import Interval, LimitKind, Plan
from services.billing.domain.catalog_rules import read_plan
from services.billing.domain.catalog_text import (
    ChargeText,
    FlatFeeText,
    GraduatedText,
    PackageText,
    PercentageText,
    PerUnitText,
    PlanMeterText,
    PlanText,
    PriceBookText,
    PriceText,
    TierText,
    VolumeText,
)
from services.billing.domain.errors import InvalidCatalog
from services.billing.rpc.convert_catalog import plan_text_from_pb, plan_to_pb
from tests.unit.billing.plans import EVERYTHING, METERS, STARTER

MINUTES = ChargeText(charge_id="minutes", meter="agent_minutes", price=PerUnitText("0.05"))
BOOK = PriceBookText(currency_code="USD", base_price="99.00", charges=(MINUTES,))
PLAN = PlanText(
    plan_id="scale",
    display_name="Scale",
    meters=(
        PlanMeterText(meter="agent_minutes", limit_kind=LimitKind.PERIOD, limit_quantity=None, grace_percent=0),
        PlanMeterText(meter="concurrent_agents", limit_kind=LimitKind.CONCURRENCY, limit_quantity=5, grace_percent=0),
    ),
    price_books=(BOOK,),
    features={},
)
OPEN = TierText(up_to=None, unit_price="0.01")


def with_book(**changes: object) -> PlanText:
    return replace(PLAN, price_books=(replace(BOOK, **changes),))  # type: ignore[arg-type]


def with_charge(**changes: object) -> PlanText:
    return with_book(charges=(replace(MINUTES, **changes),))  # type: ignore[arg-type]


def with_price(price: PriceText, *, meter: str = "agent_minutes") -> PlanText:
    return with_charge(price=price, meter=meter)


def with_tiers(*tiers: TierText) -> PlanText:
    return with_price(GraduatedText(tiers))


def with_meter(**changes: object) -> PlanText:
    meters = (replace(PLAN.meters[0], **changes), PLAN.meters[1])  # type: ignore[arg-type]
    return replace(PLAN, meters=meters)


def tier(up_to: int | None, *, unit_price: str = "0.01", flat_price: str = "") -> TierText:
    return TierText(up_to=up_to, unit_price=unit_price, flat_price=flat_price)


IN_BOOK = "price_books[USD]"
IN_CHARGE = f"{IN_BOOK}.charges[minutes]"
IN_TIERS = f"{IN_CHARGE}.graduated.tiers"
BROKEN: dict[str, tuple[PlanText, str]] = {
    "interval_unknown": (replace(PLAN, interval=None), "interval"),
    "trial_negative": (replace(PLAN, trial_days=-1), "trial_days"),
    "trial_of_more_than_a_year": (replace(PLAN, trial_days=366), "trial_days"),
    "year_in_the_short_spelling": (
        replace(PLAN, price_books=(), monthly_price="9.00", currency_code="USD", interval=Interval.YEAR),
        "interval",
    ),
    "currency_unknown": (with_book(currency_code="XXX"), "price_books[XXX].currency_code"),
    "currency_twice": (replace(PLAN, price_books=(BOOK, BOOK)), IN_BOOK),
    "too_many_currencies": (
        replace(PLAN, price_books=tuple(replace(BOOK, currency_code=f"X{n}") for n in range(21))),
        "price_books",
    ),
    "base_price_finer_than_the_currency": (with_book(base_price="1.005"), f"{IN_BOOK}.base_price"),
    "base_price_missing": (with_book(base_price=""), f"{IN_BOOK}.base_price"),
    "base_price_negative": (with_book(base_price="-1"), f"{IN_BOOK}.base_price"),
    "minimum_finer_than_the_currency": (with_book(minimum="1.005"), f"{IN_BOOK}.minimum"),
    "minimum_of_zero": (with_book(minimum="0"), f"{IN_BOOK}.minimum"),
    "charge_twice": (with_book(charges=(MINUTES, MINUTES)), IN_CHARGE),
    "charge_id_in_capitals": (with_charge(charge_id="A"), f"{IN_BOOK}.charges[A].charge_id"),
    "charge_name_with_a_line_break": (with_charge(display_name="a\nb"), f"{IN_CHARGE}.display_name"),
    "charge_name_too_long": (with_charge(display_name="ü" * 101), f"{IN_CHARGE}.display_name"),
    "charge_without_a_price": (with_charge(price=None), f"{IN_CHARGE}.price"),
    "charge_of_an_unknown_meter": (with_charge(meter="gpu_hours"), f"{IN_CHARGE}.meter"),
    "charge_without_a_meter": (with_charge(meter=""), f"{IN_CHARGE}.meter"),
    "charge_of_what_is_held_at_once": (with_charge(meter="concurrent_agents"), f"{IN_CHARGE}.meter"),
    "too_many_charges": (
        with_book(charges=tuple(replace(MINUTES, charge_id=f"c{n}") for n in range(65))),
        f"{IN_BOOK}.charges",
    ),
    "allowance_negative": (with_charge(included_quantity=-1), f"{IN_CHARGE}.included_quantity"),
    "allowance_beyond_2_to_the_53": (with_charge(included_quantity=2**53), f"{IN_CHARGE}.included_quantity"),
    "charge_missing_in_one_currency": (
        replace(PLAN, price_books=(BOOK, replace(BOOK, currency_code="EUR", charges=()))),
        "price_books[EUR].charges",
    ),
    "charge_of_another_meter_in_one_currency": (
        replace(
            PLAN,
            price_books=(
                BOOK,
                replace(BOOK, currency_code="EUR", charges=(replace(MINUTES, meter="api_calls"),)),
            ),
        ),
        "price_books[EUR].charges",
    ),
    "flat_fee_with_a_meter": (with_price(FlatFeeText("9")), f"{IN_CHARGE}.meter"),
    "flat_fee_with_an_allowance": (
        with_charge(price=FlatFeeText("9"), meter="", included_quantity=1),
        f"{IN_CHARGE}.included_quantity",
    ),
    "flat_fee_finer_than_the_currency": (
        with_price(FlatFeeText("9.005"), meter=""),
        f"{IN_CHARGE}.flat_fee.amount",
    ),
    "flat_fee_negative": (with_price(FlatFeeText("-9"), meter=""), f"{IN_CHARGE}.flat_fee.amount"),
    "unit_price_missing": (with_price(PerUnitText("")), f"{IN_CHARGE}.per_unit.unit_price"),
    "unit_price_with_13_decimals": (with_price(PerUnitText("0." + "0" * 12 + "1")), f"{IN_CHARGE}.per_unit.unit_price"),
    "unit_price_negative": (with_price(PerUnitText("-0.05")), f"{IN_CHARGE}.per_unit.unit_price"),
    "unit_price_beyond_all_prices": (with_price(PerUnitText("1000000000.5")), f"{IN_CHARGE}.per_unit.unit_price"),
    "tiers_missing": (with_tiers(), IN_TIERS),
    "too_many_tiers": (with_tiers(*(tier(n + 1) for n in range(50)), OPEN), IN_TIERS),
    "tiers_that_descend": (with_tiers(tier(10), tier(9), OPEN), f"{IN_TIERS}[2].up_to"),
    "tiers_that_repeat": (with_tiers(tier(10), tier(10), OPEN), f"{IN_TIERS}[2].up_to"),
    "tier_that_ends_at_nothing": (with_tiers(tier(0), OPEN), f"{IN_TIERS}[1].up_to"),
    "tier_beyond_2_to_the_53": (with_tiers(tier(2**53), OPEN), f"{IN_TIERS}[1].up_to"),
    "last_tier_closed": (with_tiers(tier(10), tier(20)), f"{IN_TIERS}[2].up_to"),
    "open_tier_before_the_last": (with_tiers(OPEN, OPEN), f"{IN_TIERS}[1].up_to"),
    "tier_price_missing": (with_tiers(tier(None, unit_price="")), f"{IN_TIERS}[1].unit_price"),
    "tier_fee_finer_than_the_currency": (with_tiers(tier(None, flat_price="0.005")), f"{IN_TIERS}[1].flat_price"),
    "volume_tiers_that_descend": (
        with_price(VolumeText((tier(10), tier(9), OPEN))),
        f"{IN_CHARGE}.volume.tiers[2].up_to",
    ),
    "package_of_nothing": (with_price(PackageText(size=0, price="1")), f"{IN_CHARGE}.package.size"),
    "package_beyond_2_to_the_53": (with_price(PackageText(size=2**53, price="1")), f"{IN_CHARGE}.package.size"),
    "package_price_missing": (with_price(PackageText(size=1, price="")), f"{IN_CHARGE}.package.price"),
    "percentage_of_what_is_no_money": (with_price(PercentageText(percent="20")), f"{IN_CHARGE}.percentage"),
    "percent_negative": (
        with_price(PercentageText(percent="-1"), meter="provider_cost"),
        f"{IN_CHARGE}.percentage.percent",
    ),
    "percent_above_10000": (
        with_price(PercentageText(percent="10000.1"), meter="provider_cost"),
        f"{IN_CHARGE}.percentage.percent",
    ),
    "exchange_rate_of_the_same_currency": (
        with_price(PercentageText(percent="20", exchange_rate="1"), meter="provider_cost"),
        f"{IN_CHARGE}.percentage.exchange_rate",
    ),
    "exchange_rate_missing": (
        with_book(
            currency_code="EUR",
            charges=(replace(MINUTES, meter="provider_cost", price=PercentageText(percent="20")),),
        ),
        "price_books[EUR].charges[minutes].percentage.exchange_rate",
    ),
    "exchange_rate_of_zero": (
        with_book(
            currency_code="EUR",
            charges=(replace(MINUTES, meter="provider_cost", price=PercentageText(percent="20", exchange_rate="0")),),
        ),
        "price_books[EUR].charges[minutes].percentage.exchange_rate",
    ),
    "short_price_that_differs": (replace(PLAN, monthly_price="98.00"), "monthly_price"),
    "short_price_of_a_yearly_plan": (
        replace(PLAN, monthly_price="99.00", interval=Interval.YEAR),
        "monthly_price",
    ),
    "short_currency_that_differs": (replace(PLAN, currency_code="EUR"), "currency_code"),
    "short_overage_price_that_differs": (
        with_meter(overage_unit_price="0.04"),
        "meters[agent_minutes].overage_unit_price",
    ),
    "short_allowance_that_differs": (with_meter(included_quantity=5), "meters[agent_minutes].included_quantity"),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_a_price_book_that_breaks_a_rule_is_refused_with_its_place(rule: str) -> None:
    text, field = BROKEN[rule]
    with pytest.raises(InvalidCatalog) as refused:
        read_plan(text, METERS)
    assert (refused.value.fields["plan_id"], refused.value.fields["field"]) == ("scale", field)


def test_the_plan_that_the_broken_ones_are_made_of_is_sound() -> None:
    plan = read_plan(PLAN, METERS)
    assert plan.default_book.charges[0].display_name == "Minutes"


def test_what_the_short_fields_repeat_of_the_long_ones_is_accepted() -> None:
    text = replace(with_meter(overage_unit_price="0.050"), monthly_price="99", currency_code="USD")
    assert read_plan(text, METERS) == read_plan(PLAN, METERS)


@pytest.mark.parametrize("plan", [STARTER, EVERYTHING], ids=lambda plan: plan.plan_id)
def test_a_plan_that_is_read_and_sent_back_is_the_same_plan(plan: Plan) -> None:
    message = plan_to_pb(plan)
    assert read_plan(plan_text_from_pb(message), METERS) == plan


def test_the_short_spelling_and_the_long_one_of_a_plan_are_one_plan() -> None:
    message = plan_to_pb(STARTER)
    message.ClearField("price_books")
    short = read_plan(plan_text_from_pb(message), METERS)
    message = plan_to_pb(STARTER)
    message.ClearField("monthly_price")
    message.ClearField("currency_code")
    message.meters[0].ClearField("overage_unit_price")
    message.meters[0].ClearField("included_quantity")
    assert short == read_plan(plan_text_from_pb(message), METERS) == STARTER


def test_an_interval_that_this_version_does_not_know_is_refused_and_never_a_month() -> None:
    message = plan_to_pb(STARTER)
    message.interval = 7  # type: ignore[assignment]
    with pytest.raises(InvalidCatalog, match="interval"):
        read_plan(plan_text_from_pb(message), METERS)
