from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.money import Money, UnknownCurrency, charge_increment, format_decimal, parse_decimal, round_half_away


@pytest.mark.parametrize(
    ("value", "rounded"),
    [("1/2", 1), ("-1/2", -1), ("3/2", 2), ("5/2", 3), ("-5/2", -3), ("49/100", 0), ("-49/100", 0), ("7", 7)],
)
def test_a_half_rounds_away_from_zero(value: str, rounded: int) -> None:
    assert round_half_away(Fraction(value)) == rounded


@given(st.fractions())
def test_rounding_is_never_further_than_a_half_and_symmetric(value: Fraction) -> None:
    assert abs(round_half_away(value) - value) <= Fraction(1, 2)
    assert round_half_away(-value) == -round_half_away(value)


@given(st.integers(-(10**15), 10**15), st.sampled_from(["USD", "JPY", "KWD"]))
def test_an_amount_survives_the_wire(minor: int, currency_code: str) -> None:
    amount = Money(minor, currency_code)
    assert Money.parse(str(amount), currency_code) == amount


@pytest.mark.parametrize(
    ("minor", "currency_code", "text"),
    [(5400, "USD", "54.00"), (5, "USD", "0.05"), (-5, "USD", "-0.05"), (54, "JPY", "54"), (1, "KWD", "0.001")],
)
def test_an_amount_has_the_decimals_of_its_currency(minor: int, currency_code: str, text: str) -> None:
    assert str(Money(minor, currency_code)) == text


@pytest.mark.parametrize("text", ["", "1e3", "NaN", "1.", ".5", "1,00", "0.005", " 1", "٣", "+1", "1_0"])
def test_what_is_no_amount_of_dollars_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="decimal"):
        Money.parse(text, "USD")


def test_amounts_of_two_currencies_are_never_added() -> None:
    with pytest.raises(ValueError, match="cannot add"):
        Money(1, "USD") + Money(1, "EUR")


def test_an_unknown_currency_is_refused_rather_than_given_two_decimals() -> None:
    with pytest.raises(UnknownCurrency):
        Money.parse("1.00", "XXX")


@pytest.mark.parametrize(("value", "text"), [("1E+2", "100"), ("0.0500", "0.05"), ("-0", "0"), ("12", "12")])
def test_a_decimal_is_written_plainly(value: str, text: str) -> None:
    assert format_decimal(Decimal(value)) == text


def test_a_rate_keeps_twelve_decimals() -> None:
    assert parse_decimal("0.000000000001") == Decimal("1E-12")


@pytest.mark.parametrize(
    ("minor", "currency_code", "added"),
    [
        (5_401, "USD", 0),
        (1_234, "KWD", -4),
        (1_235, "KWD", 5),
        (-1_235, "KWD", -5),
        (1_240, "KWD", 0),
        (4, "KWD", -4),
        (54, "JPY", 0),
        (12_349, "ISK", -49),
        (12_350, "ISK", 50),
        (12_345, "HUF", 0),
    ],
)
def test_an_amount_becomes_chargeable_by_the_least_that_can_be_added(
    minor: int, currency_code: str, added: int
) -> None:
    assert Money(minor, currency_code).rounding_to_increment() == Money(added, currency_code)


@given(st.integers(-(10**15), 10**15), st.sampled_from(["USD", "JPY", "KWD", "BHD", "ISK"]))
def test_what_can_be_charged_is_a_multiple_of_the_increment_and_never_further_than_half_of_it(
    minor: int, currency_code: str
) -> None:
    amount, increment = Money(minor, currency_code), charge_increment(currency_code)
    added = amount.rounding_to_increment()
    assert (amount + added).minor % increment == 0
    assert 2 * abs(added.minor) <= increment
    assert (amount + added).rounding_to_increment().minor == 0


def test_an_unknown_currency_has_no_increment() -> None:
    with pytest.raises(UnknownCurrency):
        charge_increment("XXX")
