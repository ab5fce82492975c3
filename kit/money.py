"""Money without a float: integer minor units of a currency, Decimal rates, and the one rounding function."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

# The decimals of the currencies that can be billed, as their amounts are charged. That is ISO 4217's minor unit, but
# for the Icelandic króna: it has none any more, and the processors of payments still count it in hundredths.
_EXPONENTS = {
    "USD": 2, "EUR": 2, "GBP": 2, "CHF": 2, "CAD": 2, "AUD": 2, "SEK": 2, "NOK": 2, "DKK": 2, "PLN": 2, "INR": 2,
    "NZD": 2, "SGD": 2, "HKD": 2, "TWD": 2, "MXN": 2, "BRL": 2, "ZAR": 2, "CZK": 2, "HUF": 2, "RON": 2, "ILS": 2,
    "THB": 2, "AED": 2, "SAR": 2, "ISK": 2,
    "JPY": 0, "KRW": 0, "CLP": 0, "VND": 0, "PYG": 0, "XAF": 0, "XOF": 0, "XPF": 0,
    "KWD": 3, "BHD": 3, "JOD": 3, "OMR": 3, "TND": 3,
}  # fmt: skip

# Amounts that cannot be charged are those between two multiples of this many minor units; 1 where none is said. A card
# has no last of three decimals, and there is no coin below the króna. Hungary and Taiwan are paid out, but not charged,
# in whole units.
_CHARGE_INCREMENTS = {"KWD": 10, "BHD": 10, "JOD": 10, "OMR": 10, "TND": 10, "ISK": 100}


class UnknownCurrency(ValueError):
    """The currency code is not one that can be billed."""


def currency_exponent(currency_code: str) -> int:
    """How many decimals the currency has: 2 for USD, 0 for JPY, 3 for KWD. Raises UnknownCurrency."""
    try:
        return _EXPONENTS[currency_code]
    except KeyError:
        raise UnknownCurrency(currency_code) from None


def charge_increment(currency_code: str) -> int:
    """How many minor units an amount must be a multiple of to be charged: 1 for USD, 10 for KWD. Raises
    UnknownCurrency.
    """
    currency_exponent(currency_code)
    return _CHARGE_INCREMENTS.get(currency_code, 1)


def round_half_away(value: Fraction) -> int:
    """The nearest integer; a half goes away from zero. The only rounding of money in the project."""
    doubled = abs(value) * 2
    nearest = (doubled.numerator + doubled.denominator) // (2 * doubled.denominator)
    return nearest if value >= 0 else -nearest


@dataclass(frozen=True, slots=True)
class Money:
    """An amount in the smallest unit of a currency: `Money(5400, "USD")` is 54 dollars."""

    minor: int
    currency_code: str

    def __str__(self) -> str:
        """The amount as a decimal string with the currency's decimals: `"54.00"`."""
        exponent = currency_exponent(self.currency_code)
        sign = "-" if self.minor < 0 else ""
        digits = str(abs(self.minor)).rjust(exponent + 1, "0")
        return f"{sign}{digits[:-exponent]}.{digits[-exponent:]}" if exponent else f"{sign}{digits}"

    def __add__(self, other: Money) -> Money:
        """The sum; both must be of one currency."""
        if other.currency_code != self.currency_code:
            msg = f"cannot add {other.currency_code} to {self.currency_code}"
            raise ValueError(msg)
        return Money(self.minor + other.minor, self.currency_code)

    def rounding_to_increment(self) -> Money:
        """What is to be added so that the amount can be charged: the least, and of two that are as far the one away
        from zero; 0 for most amounts. An amount of many parts is rounded once, when they are summed, and this is a part
        of its own then, so that the parts still sum to what is charged.
        """
        increment = charge_increment(self.currency_code)
        chargeable = round_half_away(Fraction(self.minor, increment)) * increment
        return Money(chargeable - self.minor, self.currency_code)

    @classmethod
    def rounded(cls, major: Fraction, currency_code: str) -> Money:
        """An exact amount in the major unit (dollars), rounded once to the smallest unit."""
        return cls(round_half_away(major * 10 ** currency_exponent(currency_code)), currency_code)

    @classmethod
    def parse(cls, text: str, currency_code: str) -> Money:
        """An amount from text such as `"54.00"`.

        Raises ValueError when it is no decimal or has more decimals than the currency.
        """
        exact = Fraction(parse_decimal(text)) * 10 ** currency_exponent(currency_code)
        if exact.denominator != 1:
            msg = f"{text!r} has more decimals than {currency_code}"
            raise ValueError(msg)
        return cls(exact.numerator, currency_code)


def parse_decimal(text: str) -> Decimal:
    """A plain decimal such as `"0.05"`: ASCII digits, a point; at most 18 and 12 of them. Raises ValueError."""
    whole, point, decimals = text.removeprefix("-").partition(".")
    plain = whole.isascii() and whole.isdigit() and (not point or (decimals.isascii() and decimals.isdigit()))
    if not plain or len(whole) > 18 or len(decimals) > 12:  # noqa: PLR2004 - documented above
        msg = f"{text!r} is not a decimal"
        raise ValueError(msg)
    return Decimal(text)


def format_decimal(value: Decimal) -> str:
    """The shortest plain decimal string, never with an exponent: `"0.05"`, `"12"`, `"0"`."""
    text = f"{value:f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text
