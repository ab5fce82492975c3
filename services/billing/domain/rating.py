"""Rating: from what was used to what it costs. Exact fractions; each line is rounded once, to the smallest unit."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from kit.money import Money
from services.billing.domain.catalog import Meter, Plan
from services.billing.domain.invoices import Line, LineKind
from services.billing.domain.periods import Period
from services.billing.domain.wording import base_fee_text, overage_text


def charged_meters(plan: Plan) -> tuple[str, ...]:
    """The meters whose usage the plan charges for, by name."""
    return tuple(each.meter for each in plan.meters if each.overage_unit_price is not None)


def rate(plan: Plan, period: Period, used: Mapping[str, int], meters: Mapping[str, Meter]) -> tuple[Line, ...]:
    """The plan's price, then one line for every meter that the plan charges for, by meter name, also when its usage is
    within what the plan includes. `used` is by meter in base units; a meter that is not in it was not used.
    """
    lines = [
        Line(
            kind=LineKind.BASE_FEE,
            description=base_fee_text(plan, period),
            amount=plan.monthly_price,
            period=period,
        )
    ]
    currency_code = plan.monthly_price.currency_code
    for each in plan.meters:
        if each.overage_unit_price is None:
            continue
        meter = meters[each.meter]
        used_quantity = used.get(each.meter, 0)
        charged_quantity = max(0, used_quantity - each.included_quantity)
        units = Fraction(charged_quantity, meter.base_units_per_display_unit)
        lines.append(
            Line(
                kind=LineKind.OVERAGE,
                description=overage_text(each, meter, units, currency_code),
                amount=Money.rounded(units * Fraction(each.overage_unit_price), currency_code),
                period=period,
                meter=each.meter,
                used_quantity=used_quantity,
                included_quantity=each.included_quantity,
                charged_quantity=charged_quantity,
                unit_price=each.overage_unit_price,
            )
        )
    return tuple(lines)
