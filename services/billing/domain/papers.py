"""Papers: what an invoice or a credit note says to the finance team that gets it, before it is set in type."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from kit.money import Money
from services.billing.domain.profile import Party


@dataclass(frozen=True, slots=True)
class Fact:
    """Something beside the parties, such as the date of issue."""

    name: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperLine:
    """One line, in words and numbers as they are printed."""

    description: str
    amount: str
    detail: str = ""
    """What it rests on, in small print: the interval, the meter and the events of the ledger."""
    quantity: str = ""
    unit_price: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperTotal:
    """A sum under the lines."""

    name: str
    amount: str
    is_strong: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """A document. The same content is the same bytes, whenever and wherever it is set."""

    title: str
    number: str
    issue_time: datetime
    """The only time in it: also what the file says it was made at."""
    seller: Party
    buyer: Party
    facts: tuple[Fact, ...]
    currency_code: str
    lines: tuple[PaperLine, ...]
    totals: tuple[PaperTotal, ...]
    status: str = ""
    """Printed large, such as `PAID`; empty: nothing."""
    notes: tuple[str, ...] = ()
    is_letter: bool = False
    """US letter instead of A4."""


def printed(amount: Money) -> str:
    """An amount with thin groups of thousands and a real minus sign: `-1 234.50`, without its currency."""
    text = str(amount).removeprefix("-")
    whole, point, decimals = text.partition(".")
    grouped = f"{int(whole):,}".replace(",", "\u202f")
    return ("\u2212" if amount.minor < 0 else "") + grouped + point + decimals
