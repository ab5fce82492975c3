from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

import pytest

from kit.money import Money
from services.billing.domain.catalog import CatalogPlan, Plan, change_catalog
from services.billing.domain.catalog_diff import FieldDiff, PlanDiff, PlanDiffKind, diff_catalog
from services.billing.domain.prices import Charge, Package
from tests.unit.billing.plans import (
    ENTERPRISE,
    EVERYTHING,
    FREE,
    METERS,
    MINUTE,
    PLANS,
    STARTER,
    book,
    minutes_charge,
    priced,
)

KNOWN = {plan.plan_id: CatalogPlan(plan.with_version(3), is_sold=True) for plan in PLANS}


def diff(plans: Sequence[Plan], known: dict[str, CatalogPlan] = KNOWN) -> tuple[PlanDiff, ...]:
    return diff_catalog(change_catalog(plans, known), known, METERS)


def test_the_same_catalog_has_no_diff() -> None:
    assert diff(PLANS) == ()


def test_a_dearer_plan_shows_the_price_before_and_after_and_nothing_else() -> None:
    (found,) = diff([FREE, priced(STARTER, Money(5900, "USD")), ENTERPRISE])
    assert (found.plan_id, found.kind, found.version_before, found.version_after) == (
        "starter",
        PlanDiffKind.CHANGED,
        3,
        4,
    )
    assert found.fields == (FieldDiff("prices.USD.base", "49.00 USD a month", "59.00 USD a month"),)


def test_quantities_are_shown_in_display_units_and_rates_per_display_unit() -> None:
    meters = (replace(STARTER.meters[0], limit_quantity=2_500 * MINUTE + 30_000), STARTER.meters[1])
    books = (book(Money(4900, "USD"), minutes_charge(included=1_200, unit_price="0.045")),)
    (found,) = diff([FREE, replace(STARTER, meters=meters, price_books=books), ENTERPRISE])
    assert found.fields == (
        FieldDiff("meters.agent_minutes.limit", "1 000 minute", "2 500.5 minute"),
        FieldDiff("prices.USD.charges.agent_minutes.included", "1 000 minute", "1 200 minute"),
        FieldDiff("prices.USD.charges.agent_minutes.price", "0.05 USD per minute", "0.045 USD per minute"),
    )


def test_a_quantity_without_a_finite_decimal_is_shown_exactly() -> None:
    meters = (replace(STARTER.meters[0], limit_quantity=1), STARTER.meters[1])
    (found,) = diff([FREE, replace(STARTER, meters=meters), ENTERPRISE])
    assert found.fields[0].after == "1/60000 minute"


def test_a_new_plan_shows_all_of_itself() -> None:
    (found,) = diff([*PLANS, EVERYTHING])
    assert (found.kind, found.version_before, found.version_after) == (PlanDiffKind.ADDED, 0, 1)
    shown = {each.field: each.after for each in found.fields}
    assert {each.before for each in found.fields} == {""}
    tiers = "up to 10 000 minute 0.05 USD per minute and 3 USD once; above 0.000000000001 USD per minute"
    assert (
        shown
        | {
            "interval": "year",
            "trial_days": "14",
            "currencies": "USD, JPY, KWD",
            "prices.USD.base": "12000.00 USD a year",
            "prices.KWD.base": "1200.000 KWD a year",
            "prices.JPY.minimum": "5000 JPY a month",
            "prices.USD.charges.support.price": "20 USD a month",
            "prices.USD.charges.minutes.price": f"graduated: {tiers}",
            "prices.USD.charges.more_minutes.price": f"volume: {tiers}",
            "prices.USD.charges.calls.price": "0.5 USD per 1 000 call begun",
            "prices.USD.charges.models.price": "12.5 % of provider_cost",
            "prices.JPY.charges.models.price": "12.5 % of provider_cost, 1 usd = 151.5 JPY",
            "features.sso": "off",
        }
        == shown
    )


def test_a_plan_that_is_left_out_is_withdrawn() -> None:
    (found,) = diff([FREE, ENTERPRISE])
    assert found == PlanDiff(
        plan_id="starter", kind=PlanDiffKind.WITHDRAWN, version_before=3, version_after=3, fields=()
    )


def test_a_plan_that_returns_unchanged_is_sold_again_at_its_version() -> None:
    known = KNOWN | {"starter": CatalogPlan(STARTER.with_version(3), is_sold=False)}
    (found,) = diff(PLANS, known)
    assert (found.kind, found.version_after, found.fields) == (PlanDiffKind.SOLD_AGAIN, 3, ())


def test_what_is_gone_after_is_shown_as_gone() -> None:
    (found,) = diff([FREE, STARTER, replace(ENTERPRISE, features={"exports": True})])
    assert found.fields == (FieldDiff("features.sso", "on", ""),)


_CALLS = Charge(
    charge_id="calls",
    display_name="Calls",
    meter="api_calls",
    included_quantity=0,
    price=Package(size=10, price=Decimal(1)),
)
_MINUTES = minutes_charge(included=0)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (STARTER, replace(STARTER, display_name="Start")),
        (STARTER, replace(STARTER, trial_days=1)),
        (STARTER, replace(STARTER, price_books=(*STARTER.price_books, book(Money(1, "EUR"), _MINUTES)))),
        (
            replace(STARTER, price_books=(book(Money(1, "EUR")), book(Money(1, "USD")))),
            replace(STARTER, price_books=(book(Money(1, "USD")), book(Money(1, "EUR")))),
        ),
        (
            replace(STARTER, price_books=(book(Money(1, "USD"), _MINUTES, _CALLS),)),
            replace(STARTER, price_books=(book(Money(1, "USD"), _CALLS, _MINUTES),)),
        ),
        (
            replace(STARTER, price_books=(book(Money(1, "USD"), _CALLS),)),
            replace(STARTER, price_books=(book(Money(1, "USD"), replace(_CALLS, display_name="Call")),)),
        ),
    ],
    ids=["name", "trial", "currency", "default_currency", "order_of_charges", "name_of_a_charge"],
)
def test_every_new_version_shows_something(before: Plan, after: Plan) -> None:
    (found,) = diff([after], {"starter": CatalogPlan(before.with_version(1), is_sold=True)})
    assert found.kind is PlanDiffKind.CHANGED
    assert found.fields
