"""Sales taxes: which rates a customer pays, since when, and what they come to. Prices are before tax."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum
from fractions import Fraction

from kit.errors import InvalidField, LimitExceeded
from kit.money import Money, format_decimal, round_half_away
from services.billing.domain import limits
from services.billing.domain.texts import require_text

PERCENT = 100


class TaxTreatment(Enum):
    """How a supply is taxed."""

    STANDARD = "STANDARD"
    """At the rate's percent."""
    EXEMPT = "EXEMPT"
    """Not at all; the note says by which rule."""
    REVERSE_CHARGE = "REVERSE_CHARGE"
    """By the customer, who owes it to their own authority; the note says so on the invoice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaxRate:
    """One tax of one customer."""

    display_name: str
    """As the invoice calls it, such as `VAT`."""
    percent: Decimal
    """0 unless the treatment is STANDARD."""
    jurisdiction: str
    """Whose tax it is, such as `DE` or `US-CA`."""
    treatment: TaxTreatment = TaxTreatment.STANDARD
    note: str = ""
    """What the law wants said on the invoice; required unless the treatment is STANDARD."""

    @property
    def text(self) -> str:
        """The words of its invoice line, such as `VAT 19% (DE)`."""
        percent = f" {format_decimal(self.percent)}%" if self.treatment is TaxTreatment.STANDARD else ""
        note = f": {self.note}" if self.note else ""
        return f"{self.display_name}{percent} ({self.jurisdiction}){note}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaxRates:
    """All taxes of a customer from an instant on, until the next ones begin."""

    version: int
    """From 1; counts what was ever set for the customer."""
    start_time: datetime
    rates: tuple[TaxRate, ...]
    """Empty: no tax is charged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaxLine:
    """What one rate comes to."""

    rate: TaxRate
    taxable: Money
    amount: Money

    @property
    def text(self) -> str:
        """The words of its invoice line."""
        return f"{self.rate.text} on {self.taxable}"


def rates_at(history: Sequence[TaxRates], moment: datetime) -> tuple[TaxRate, ...]:
    """The rates in force at a moment: the last ones to begin, of those with the same start the last ones set. Empty
    before the first.
    """
    begun = [each for each in history if each.start_time <= moment]
    return max(begun, key=lambda each: (each.start_time, each.version)).rates if begun else ()


def tax_lines(rates: Sequence[TaxRate], net: Money) -> tuple[TaxLine, ...]:
    """What each rate comes to on the sum of an invoice's lines, in the order of the rates; no tax is charged on a tax.

    Each is rounded once, to the smallest unit of the currency, half away from zero; of a sum below zero it is the same
    below zero. A rate that charges nothing has its line too, because the invoice must say why.
    """
    return tuple(
        TaxLine(
            rate=rate,
            taxable=net,
            amount=Money(round_half_away(net.minor * Fraction(rate.percent) / PERCENT), net.currency_code),
        )
        for rate in rates
    )


def require_rates(rates: Sequence[TaxRate]) -> None:
    """Raises InvalidField or LimitExceeded unless an invoice can carry these rates together."""
    if len(rates) > limits.TAX_RATES_MAX:
        raise LimitExceeded(what="rates", actual=len(rates), maximum=limits.TAX_RATES_MAX)
    for position, rate in enumerate(rates):
        field = f"rates[{position}]"
        require_text(f"{field}.display_name", rate.display_name, limits.DISPLAY_NAME_BYTES_MAX)
        require_text(f"{field}.jurisdiction", rate.jurisdiction, limits.JURISDICTION_BYTES_MAX)
        require_text(f"{field}.note", rate.note, limits.NOTE_BYTES_MAX, is_required=False)
        if not 0 <= rate.percent <= PERCENT:
            raise InvalidField(field=f"{field}.percent", problem="not from 0 to 100")
        if rate.treatment is not TaxTreatment.STANDARD:
            if rate.percent:
                raise InvalidField(field=f"{field}.percent", problem="must be 0 where the tax is not charged")
            if not rate.note:
                raise InvalidField(field=f"{field}.note", problem="required: the invoice must say why")
    names = [(rate.display_name, rate.jurisdiction) for rate in rates]
    if len(set(names)) != len(names):
        raise InvalidField(field="rates", problem="the same name and jurisdiction are there twice")
