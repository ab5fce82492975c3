from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from kit.money import Money
from services.billing.adapters.plan_content import plan_from_content, plan_to_content
from services.billing.domain.catalog import Plan, PriceBook
from services.billing.domain.errors import CurrencyNotOffered
from tests.unit.billing.plans import EVERYTHING, FREE, MINUTE, PLANS, STARTER, book, minutes_charge

FIRST_FORM: dict[str, Any] = {
    "display_name": "Starter",
    "monthly_price": "49.00",
    "currency_code": "USD",
    "meters": [
        {"meter": "agent_minutes", "limit_kind": "PERIOD", "limit_quantity": 1_000 * MINUTE, "grace_percent": 10,
         "included_quantity": 1_000 * MINUTE, "overage_unit_price": "0.05"},
        {"meter": "concurrent_agents", "limit_kind": "CONCURRENCY", "limit_quantity": 5, "grace_percent": 0,
         "included_quantity": 0, "overage_unit_price": None},
    ],
    "features": {"exports": True},
}  # fmt: skip
"""As versions were kept when a plan had one price a meter; such rows are never rewritten."""


def test_a_version_that_was_kept_in_the_first_form_is_the_plan_that_it_was() -> None:
    assert plan_from_content("starter", 3, FIRST_FORM) == STARTER.with_version(3)


def test_an_allowance_without_a_price_in_the_first_form_is_kept() -> None:
    content = {**FIRST_FORM, "meters": [{**FIRST_FORM["meters"][0], "overage_unit_price": None}]}
    plan = plan_from_content("starter", 1, content)
    assert (plan.meters[0].included_quantity, plan.default_book.charges) == (1_000 * MINUTE, ())


@pytest.mark.parametrize("plan", [*PLANS, EVERYTHING], ids=lambda plan: plan.plan_id)
def test_what_is_kept_of_a_plan_is_all_of_it(plan: Plan) -> None:
    assert plan_from_content(plan.plan_id, plan.version, json.loads(plan_to_content(plan))) == plan


def test_a_price_of_a_kind_that_is_not_known_is_an_error_and_never_a_guess() -> None:
    content = json.loads(plan_to_content(STARTER))
    content["price_books"][0]["charges"][0]["price"]["kind"] = "AUCTION"
    with pytest.raises(ValueError, match="AUCTION"):
        plan_from_content("starter", 1, content)


def test_a_plan_has_the_book_of_every_currency_that_it_is_sold_in_and_no_other() -> None:
    yen = book(Money(7_000, "JPY"), minutes_charge(included=1_000, unit_price="8"))
    plan = replace(STARTER, price_books=(*STARTER.price_books, yen))
    assert plan.book("JPY") == yen
    assert plan.book("USD") == plan.default_book == STARTER.price_books[0]
    with pytest.raises(CurrencyNotOffered, match=r"Plan 'starter' has no prices in 'EUR', but in USD, JPY\."):
        plan.book("EUR")


def test_what_is_free_of_charge_is_so_in_every_currency() -> None:
    assert FREE.book("KWD") == PriceBook(currency_code="KWD", base_price=Money(0, "KWD"))
    assert FREE.is_free_of_charge


@pytest.mark.parametrize(
    "priced",
    [
        book(Money(1, "USD")),
        book(Money(0, "USD"), minutes_charge(included=0, unit_price="0")),
        replace(book(Money(0, "USD")), minimum=Money(1, "USD")),
    ],
    ids=["base_price", "charge_of_zero", "minimum"],
)
def test_a_plan_that_charges_anything_is_not_free_of_charge(priced: PriceBook) -> None:
    plan = replace(STARTER, price_books=(book(Money(0, "USD")), priced))
    assert not plan.is_free_of_charge
    with pytest.raises(CurrencyNotOffered):
        plan.book("EUR")
