"""Rating: from what was used to what it costs. Exact fractions; each line is rounded once, to the smallest unit."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction

from kit.money import Money
from services.billing.domain.catalog import Plan
from services.billing.domain.invoices import Line, LineKind
from services.billing.domain.meters import Meter
from services.billing.domain.periods import Period
from services.billing.domain.prices import Charge, FlatFee, PerUnit, charged_quantity, price_of
from services.billing.domain.wording import base_fee_text, overage_text


def charged_meters(plan: Plan) -> tuple[str, ...]:
    """The meters whose usage the plan charges for, by name."""
    return tuple(sorted({charge.meter for charge in plan.default_book.usage_charges}))


def rate(plan: Plan, period: Period, used: Mapping[str, int], meters: Mapping[str, Meter]) -> tuple[Line, ...]:
    """The plan's price, then one line for every charge, also when its usage is within what the plan includes. `used` is
    by meter in base units; a meter that is not in it was not used.
    """
    book = plan.default_book
    base = Line(kind=LineKind.BASE_FEE, description=base_fee_text(plan, period), amount=book.base_price, period=period)
    fees = [
        Line(
            kind=LineKind.BASE_FEE,
            description=charge.display_name,
            amount=Money.rounded(Fraction(charge.price.amount), book.currency_code),
            period=period,
        )
        for charge in book.flat_fees
        if isinstance(charge.price, FlatFee)
    ]
    usage = [
        _usage_line(charge, meters[charge.meter], used.get(charge.meter, 0), period, book.currency_code)
        for charge in book.usage_charges
    ]
    return (base, *fees, *usage)


def _usage_line(charge: Charge, meter: Meter, used_quantity: int, period: Period, currency_code: str) -> Line:
    charged = charged_quantity(charge, used_quantity)
    units = Fraction(charged, meter.base_units_per_display_unit)
    return Line(
        kind=LineKind.OVERAGE,
        description=overage_text(charge, meter, units, currency_code),
        amount=Money.rounded(price_of(charge, meter, used_quantity), currency_code),
        period=period,
        meter=charge.meter,
        used_quantity=used_quantity,
        included_quantity=charge.included_quantity,
        charged_quantity=charged,
        unit_price=_unit_price(charge),
    )


def _unit_price(charge: Charge) -> Decimal | None:
    return charge.price.unit_price if isinstance(charge.price, PerUnit) else None
