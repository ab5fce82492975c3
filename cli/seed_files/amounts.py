"""Amounts, rates and quantities as people write them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from cli.seed_files.strict_yaml import Entry
from kit.money import Money, UnknownCurrency, currency_exponent, parse_decimal

_QUANTITY_MAX = 2**53 - 1
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_NAME_RULE = "must be lower-case letters, digits and _, beginning with a letter, at most 64 of them"
_DISPLAY_NAME_BYTES_MAX = 200


class CatalogError(Exception):
    """The catalog cannot be applied; the message names the file and, where known, line, plan and field."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantity:
    """A number of display units, and where it is written."""

    display_units: Decimal
    entry: Entry

    def in_base_units(self, base_units_per_display_unit: int) -> int:
        """Exactly so many base units. Raises CatalogError for a fraction of one, or too many."""
        # A product of decimals would be rounded to the context's digits.
        scaled = Fraction(self.display_units) * base_units_per_display_unit
        if scaled.denominator != 1:
            problem = f"{self.display_units} is not a whole number of the meter's base unit"
            raise CatalogError(str(self.entry.refused(problem)))
        if scaled > _QUANTITY_MAX:
            raise CatalogError(str(self.entry.refused(f"{self.display_units} is more than 2^53 - 1 base units")))
        return scaled.numerator


def read_quantity(entry: Entry) -> Quantity:
    """A quantity of 0 or more. Raises FileRefused."""
    return Quantity(display_units=read_rate(entry), entry=entry)


def read_rate(entry: Entry) -> Decimal:
    """A decimal of 0 or more. Raises FileRefused."""
    try:
        value = parse_decimal(entry.text())
    except ValueError as error:
        raise entry.refused(str(error)) from None
    if value < 0:
        raise entry.refused(f"{entry.text()} is negative")
    return value


def read_amount(entry: Entry, currency_code: str) -> Money:
    """An amount of 0 or more, no finer than the currency. Raises FileRefused."""
    try:
        amount = Money.parse(entry.text(), currency_code)
    except ValueError as error:
        raise entry.refused(str(error)) from None
    if amount.minor < 0:
        raise entry.refused(f"{entry.text()} is negative")
    return amount


def read_whole_number(entry: Entry, maximum: int) -> int:
    """A whole number from 0 to the maximum. Raises FileRefused."""
    text = entry.text()
    if not (text.isascii() and text.isdigit() and int(text) <= maximum):
        raise entry.refused(f"{text!r} is not a whole number from 0 to {maximum}")
    return int(text)


def read_display_name(entry: Entry) -> str:
    """A name for people. Raises FileRefused."""
    name = entry.text()
    if len(name.encode()) > _DISPLAY_NAME_BYTES_MAX:
        raise entry.refused(f"longer than {_DISPLAY_NAME_BYTES_MAX} bytes")
    return name


def require_currency(code: str, entry: Entry) -> None:
    """Raises FileRefused for what is no currency that can be billed."""
    try:
        currency_exponent(code)
    except UnknownCurrency:
        raise entry.refused(f"{code!r} is not a currency that can be billed, such as USD") from None


def require_name(name: str, entry: Entry) -> None:
    """Raises FileRefused for what cannot name a plan, a meter, a charge or a feature."""
    if not _NAME.fullmatch(name):
        raise entry.refused(f"the name {name!r} {_NAME_RULE}")
