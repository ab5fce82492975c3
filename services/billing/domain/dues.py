"""Dues: what a customer owes, each under a key that says what it is for.

All dues of a subscription follow from its timeline, what was used, and its discounts, whenever they are computed. An
invoice line is a due less what earlier invoices hold under the same key; see invoicing.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum

from kit.money import Money
from services.billing.domain.periods import Period


class DueKind(Enum):
    """What a due is for."""

    BASE_FEE = "BASE_FEE"
    """The plan's price, in advance."""
    FLAT_FEE = "FLAT_FEE"
    """A charge that does not depend on usage, in arrears."""
    OVERAGE = "OVERAGE"
    """Usage, in arrears."""
    MINIMUM = "MINIMUM"
    """What usage falls short of the agreed minimum."""
    DISCOUNT = "DISCOUNT"
    """What a redeemed coupon takes off; never above zero."""


class Category(Enum):
    """Which interval a due goes by, and so when it is invoiced: with what it discounts, for a discount."""

    BASE = "BASE"
    """By the interval that the plan's price is charged for, a month or a year; in advance."""
    USAGE = "USAGE"
    """By the monthly period; in arrears."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DueKey:
    """What a due is for. Two dues of a subscription never have the same key."""

    kind: DueKind
    category: Category
    interval: Period
    """The whole interval that the plan's price is charged for, or the whole period."""
    charge_id: str
    """The charge, `base`, `minimum`, or the redemption of a discount."""
    segment_start: datetime
    """Where the segment begins that is charged; the interval's start where a due is of the whole of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeteredQuantities:
    """The usage that a due charges for, in the meter's base unit."""

    meter: str
    used_quantity: int
    """What was used in the segment."""
    included_quantity: int
    """What the terms include in a period, free of charge."""
    charged_quantity: int
    """What of the usage is beyond what is included."""
    unit_price: Decimal | None
    """The price of one display unit, where there is one price."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """An amount that is owed, rounded once."""

    key: DueKey
    amount: Money
    interval: Period
    """The segment that is charged: within the key's interval."""
    description: str
    """What a line about it says."""
    plan_id: str
    """Whose terms it follows."""
    quantities: MeteredQuantities | None = None
    """None where usage is not what is charged."""
