"""Amounts from the wire."""

from __future__ import annotations

from kit.errors import InvalidField
from kit.money import Money, UnknownCurrency


def money_from_pb(amount: str, currency_code: str, field: str) -> Money:
    """An amount. Raises InvalidField, of `field` for the amount and of its `currency_code` for the currency."""
    try:
        return Money.parse(amount, currency_code)
    except UnknownCurrency:
        raise InvalidField(field=f"{field}: currency_code", problem="not a currency that can be billed") from None
    except ValueError as error:
        raise InvalidField(field=field, problem=str(error)) from None
