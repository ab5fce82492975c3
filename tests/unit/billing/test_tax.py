"""Which taxes a customer pays, and what they come to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from kit.errors import InvalidField, LimitExceeded
from kit.money import Money
from services.billing.domain.tax import TaxRate, TaxRates, TaxTreatment, rates_at, require_rates, tax_lines

NEW_YEAR = datetime(2027, 1, 1, tzinfo=UTC)
VAT = TaxRate(display_name="VAT", percent=Decimal(19), jurisdiction="DE")
REDUCED = TaxRate(display_name="VAT", percent=Decimal(7), jurisdiction="DE")
REVERSE = TaxRate(
    display_name="VAT",
    percent=Decimal(0),
    jurisdiction="FR",
    treatment=TaxTreatment.REVERSE_CHARGE,
    note="Reverse charge: the customer owes the tax.",
)


def test_each_rate_is_charged_on_the_sum_before_tax_and_rounded_once() -> None:
    state = TaxRate(display_name="Sales tax", percent=Decimal("6.25"), jurisdiction="US-IL")
    city = TaxRate(display_name="Sales tax", percent=Decimal("1.25"), jurisdiction="Chicago")
    lines = tax_lines([state, city], Money(5399, "USD"))
    assert [line.amount for line in lines] == [Money(337, "USD"), Money(67, "USD")]
    assert {line.taxable for line in lines} == {Money(5399, "USD")}


def test_half_a_unit_of_tax_goes_away_from_zero_on_either_side() -> None:
    rate = TaxRate(display_name="Tax", percent=Decimal(5), jurisdiction="JP")
    assert tax_lines([rate], Money(10, "JPY"))[0].amount == Money(1, "JPY")
    assert tax_lines([rate], Money(-10, "JPY"))[0].amount == Money(-1, "JPY")


def test_a_tax_that_is_not_charged_has_a_line_that_says_why() -> None:
    (line,) = tax_lines([REVERSE], Money(5399, "EUR"))
    assert line.amount == Money(0, "EUR")
    assert "Reverse charge" in line.text


def test_a_new_rate_counts_from_its_first_instant_on() -> None:
    history = [
        TaxRates(version=2, start_time=NEW_YEAR, rates=(REDUCED,)),
        TaxRates(version=1, start_time=NEW_YEAR - timedelta(days=90), rates=(VAT,)),
    ]
    assert rates_at(history, NEW_YEAR - timedelta(microseconds=1)) == (VAT,)
    assert rates_at(history, NEW_YEAR) == (REDUCED,)
    assert rates_at(history, NEW_YEAR - timedelta(days=91)) == ()


def test_of_rates_with_one_start_those_set_last_count() -> None:
    history = [
        TaxRates(version=3, start_time=NEW_YEAR, rates=()),
        TaxRates(version=2, start_time=NEW_YEAR, rates=(VAT,)),
    ]
    assert rates_at(history, NEW_YEAR) == ()


@pytest.mark.parametrize(
    ("rate", "field"),
    [
        (TaxRate(display_name="", percent=Decimal(1), jurisdiction="DE"), "display_name"),
        (TaxRate(display_name="VAT", percent=Decimal(1), jurisdiction=""), "jurisdiction"),
        (TaxRate(display_name="VAT", percent=Decimal(-1), jurisdiction="DE"), "percent"),
        (TaxRate(display_name="VAT", percent=Decimal("100.01"), jurisdiction="DE"), "percent"),
        (
            TaxRate(display_name="VAT", percent=Decimal(0), jurisdiction="DE", treatment=TaxTreatment.EXEMPT),
            "note",
        ),
        (
            TaxRate(
                display_name="VAT", percent=Decimal(1), jurisdiction="DE", treatment=TaxTreatment.EXEMPT, note="By law"
            ),
            "percent",
        ),
    ],
)
def test_a_rate_that_no_invoice_can_carry_is_refused_by_its_field(rate: TaxRate, field: str) -> None:
    with pytest.raises(InvalidField, match=field):
        require_rates([rate])


def test_the_same_tax_twice_is_refused() -> None:
    with pytest.raises(InvalidField, match="twice"):
        require_rates([VAT, REDUCED])


def test_more_rates_than_an_invoice_has_lines_for_are_refused() -> None:
    rates = [TaxRate(display_name=f"Tax {n}", percent=Decimal(1), jurisdiction="DE") for n in range(11)]
    with pytest.raises(LimitExceeded):
        require_rates(rates)
