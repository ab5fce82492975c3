"""What the lines of an invoice say, for the person who pays it."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from fractions import Fraction

from kit.money import Money, currency_exponent, format_decimal, round_half_away
from services.billing.domain.catalog import Plan
from services.billing.domain.meters import Meter
from services.billing.domain.periods import Period
from services.billing.domain.prices import Charge, PerUnit

# A millisecond in minutes shows as 0.000017: enough to tell it from nothing. The line itself keeps the exact count.
_SHOWN_DECIMALS = 6
_SYMBOLS = {"USD": "$", "EUR": "€", "GBP": "£"}


def base_fee_text(plan: Plan, period: Period) -> str:
    """`Starter plan, 20 Nov 2026 to 20 Dec 2026`."""
    return f"{plan.display_name} plan, {date_text(period.start)} to {date_text(period.end)}"


def usage_text(charge: Charge, meter: Meter, charged_quantity: int, currency_code: str) -> str:
    """`Agent minutes beyond 1 000 included: 12.345 at $0.05 per minute`. It says the unit once and beside the price,
    so that no unit needs a plural.
    """
    units = Fraction(charged_quantity, meter.base_units_per_display_unit)
    included = Fraction(charge.included_quantity, meter.base_units_per_display_unit)
    beyond = f" beyond {quantity_text(included)} included" if included else ""
    price = charge.price
    at = (
        f" at {price_text(price.unit_price, currency_code)} per {meter.display_unit}"
        if isinstance(price, PerUnit)
        else ""
    )
    return f"{charge.display_name}{beyond}: {quantity_text(units)}{at}"


def flat_fee_text(charge: Charge, period: Period) -> str:
    """`Support, 20 Nov 2026 to 20 Dec 2026`."""
    return f"{charge.display_name}, {date_text(period.start)} to {date_text(period.end)}"


def minimum_text(minimum: Money) -> str:
    """`Usage up to the agreed minimum of 100.00 USD`."""
    return f"Usage up to the agreed minimum of {minimum} {minimum.currency_code}"


def correction_text(description: str, invoice_number: str) -> str:
    """`Correction of TB-000042: Agent minutes: 12 at $0.05 per minute`."""
    return f"Correction of {invoice_number}: {description}"


def withdrawal_text(period: Period, invoice_number: str) -> str:
    """`Correction of TB-000042: not due, 20 Nov 2026 to 20 Dec 2026`."""
    return correction_text(f"not due, {date_text(period.start)} to {date_text(period.end)}", invoice_number)


def credit_purchase_text(amount: Money, valid_days: int) -> str:
    """`Prepaid credits of 100.00 USD, for 365 days from payment`."""
    validity = f", for {valid_days} days from payment" if valid_days else ""
    return f"Prepaid credits of {amount} {amount.currency_code}{validity}"


CREDIT_TEXT = "Prepaid credits"
ROUNDING_TEXT = "Rounding"
TO_CREDIT_TEXT = "Put to your credit"


def date_text(moment: datetime) -> str:
    """`20 Nov 2026`."""
    return f"{moment.day} {moment:%b %Y}"


def quantity_text(units: Fraction) -> str:
    """`1 099.8`: a quantity of display units."""
    shown = Decimal(round_half_away(units * 10**_SHOWN_DECIMALS)).scaleb(-_SHOWN_DECIMALS)
    whole, point, decimals = format_decimal(shown).partition(".")
    return f"{int(whole):,}".replace(",", " ") + point + decimals


def price_text(price: Decimal, currency_code: str) -> str:
    """`$0.05`, or `7 JPY`: a price with all its decimals."""
    whole, _, decimals = format_decimal(price).partition(".")
    decimals = decimals.ljust(currency_exponent(currency_code), "0")
    number = f"{whole}.{decimals}" if decimals else whole
    symbol = _SYMBOLS.get(currency_code)
    return f"{symbol}{number}" if symbol else f"{number} {currency_code}"
