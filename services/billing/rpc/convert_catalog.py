"""Plans on the wire and in the domain."""

from __future__ import annotations

from kit.money import format_decimal
from services.billing.domain.catalog import LimitKind, Plan, PlanMeter
from services.billing.domain.catalog_rules import PlanMeterText, PlanText
from services.billing.domain.prices import Charge, PerUnit
from tollbook.billing.v1 import catalog_pb2

_LIMIT_KINDS = {
    catalog_pb2.PLAN_LIMIT_KIND_PERIOD: LimitKind.PERIOD,
    catalog_pb2.PLAN_LIMIT_KIND_CONCURRENCY: LimitKind.CONCURRENCY,
}


def plan_text_from_pb(message: catalog_pb2.Plan) -> PlanText:
    """The plan as written; its version is ours to set and is not read."""
    return PlanText(
        plan_id=message.plan_id,
        display_name=message.display_name,
        monthly_price=message.monthly_price,
        currency_code=message.currency_code,
        meters=tuple(
            PlanMeterText(
                meter=each.meter,
                limit_kind=_LIMIT_KINDS.get(each.limit_kind),
                limit_quantity=each.limit_quantity if each.HasField("limit_quantity") else None,
                grace_percent=each.grace_percent,
                included_quantity=each.included_quantity,
                overage_unit_price=each.overage_unit_price,
            )
            for each in message.meters
        ),
        features=dict(message.features),
    )


def plan_to_pb(plan: Plan) -> catalog_pb2.Plan:
    """The plan."""
    book = plan.default_book
    return catalog_pb2.Plan(
        plan_id=plan.plan_id,
        version=plan.version,
        display_name=plan.display_name,
        monthly_price=str(book.base_price),
        currency_code=book.currency_code,
        meters=plan_meters_to_pb(plan),
        features=plan.features,
    )


def plan_meters_to_pb(plan: Plan) -> list[catalog_pb2.PlanMeter]:
    """What it allows of each meter, and what it charges by the unit, as far as that is all it charges for the meter."""
    return [_plan_meter_to_pb(each, _charges_for(plan, each.meter)) for each in plan.meters]


def _charges_for(plan: Plan, meter: str) -> list[Charge]:
    return [charge for charge in plan.default_book.usage_charges if charge.meter == meter]


def _plan_meter_to_pb(each: PlanMeter, charges: list[Charge]) -> catalog_pb2.PlanMeter:
    message = catalog_pb2.PlanMeter(
        meter=each.meter,
        limit_kind=catalog_pb2.PlanLimitKind.Value(f"PLAN_LIMIT_KIND_{each.limit_kind.value}"),
        limit_quantity=each.limit_quantity,
        grace_percent=each.grace_percent,
        included_quantity=each.included_quantity,
    )
    match charges:
        case [Charge(included_quantity=included, price=PerUnit(unit_price))]:
            message.included_quantity = included
            message.overage_unit_price = format_decimal(unit_price)
    return message
