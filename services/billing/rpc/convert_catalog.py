"""Plans on the wire and in the domain."""

from __future__ import annotations

from collections.abc import Sequence

from kit.money import format_decimal
from services.billing.domain.catalog import Interval, LimitKind, Plan, PlanMeter, PriceBook
from services.billing.domain.catalog_diff import PlanDiff
from services.billing.domain.catalog_text import (
    ChargeText,
    FlatFeeText,
    GraduatedText,
    PackageText,
    PercentageText,
    PerUnitText,
    PlanMeterText,
    PlanText,
    PriceBookText,
    PriceText,
    TierText,
    VolumeText,
)
from services.billing.domain.prices import (
    Charge,
    FlatFee,
    Graduated,
    Package,
    Percentage,
    PerUnit,
    Tier,
    Volume,
)
from tollbook.billing.v1 import catalog_pb2

_LIMIT_KINDS = {
    catalog_pb2.PLAN_LIMIT_KIND_PERIOD: LimitKind.PERIOD,
    catalog_pb2.PLAN_LIMIT_KIND_CONCURRENCY: LimitKind.CONCURRENCY,
}
_INTERVALS = {
    catalog_pb2.PLAN_INTERVAL_UNSPECIFIED: Interval.MONTH,
    catalog_pb2.PLAN_INTERVAL_MONTH: Interval.MONTH,
    catalog_pb2.PLAN_INTERVAL_YEAR: Interval.YEAR,
}


def plan_text_from_pb(message: catalog_pb2.Plan) -> PlanText:
    """The plan as written; its version is ours to set and is not read."""
    return PlanText(
        plan_id=message.plan_id,
        display_name=message.display_name,
        monthly_price=message.monthly_price,
        currency_code=message.currency_code,
        interval=_INTERVALS.get(message.interval),
        trial_days=message.trial_days,
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
        price_books=tuple(_book_text_from_pb(book) for book in message.price_books),
        features=dict(message.features),
    )


def _book_text_from_pb(message: catalog_pb2.PriceBook) -> PriceBookText:
    return PriceBookText(
        currency_code=message.currency_code,
        base_price=message.base_price,
        charges=tuple(
            ChargeText(
                charge_id=each.charge_id,
                display_name=each.display_name,
                meter=each.meter,
                included_quantity=each.included_quantity,
                price=_price_text_from_pb(each),
            )
            for each in message.charges
        ),
        minimum=message.minimum,
    )


def _price_text_from_pb(message: catalog_pb2.Charge) -> PriceText | None:
    match message.WhichOneof("price"):
        case "flat_fee":
            return FlatFeeText(message.flat_fee.amount)
        case "per_unit":
            return PerUnitText(message.per_unit.unit_price)
        case "graduated" | "volume" as kind:
            read = GraduatedText if kind == "graduated" else VolumeText
            return read(_tier_texts_from_pb(message.graduated if kind == "graduated" else message.volume))
        case "package":
            return PackageText(size=message.package.size, price=message.package.price)
        case "percentage":
            share = message.percentage
            return PercentageText(percent=share.percent, exchange_rate=share.exchange_rate)
        case None:
            return None


def _tier_texts_from_pb(message: catalog_pb2.TieredPrice) -> tuple[TierText, ...]:
    return tuple(
        TierText(
            up_to=tier.up_to if tier.HasField("up_to") else None,
            unit_price=tier.unit_price,
            flat_price=tier.flat_price,
        )
        for tier in message.tiers
    )


def plan_to_pb(plan: Plan) -> catalog_pb2.Plan:
    """The plan: its price books, and what the short spelling can say of the first of them."""
    book = plan.default_book
    return catalog_pb2.Plan(
        plan_id=plan.plan_id,
        version=plan.version,
        display_name=plan.display_name,
        monthly_price=str(book.base_price) if plan.interval is Interval.MONTH else "",
        currency_code=book.currency_code,
        meters=plan_meters_to_pb(plan),
        features=plan.features,
        interval=catalog_pb2.PlanInterval.Value(f"PLAN_INTERVAL_{plan.interval.value}"),
        trial_days=plan.trial_days,
        price_books=[_book_to_pb(each) for each in plan.price_books],
    )


def plan_meters_to_pb(plan: Plan) -> list[catalog_pb2.PlanMeter]:
    """What it allows of each meter, and what the short spelling can say of what it charges."""
    return [_plan_meter_to_pb(each, plan.default_book.per_unit_charge_of(each.meter)) for each in plan.meters]


def _plan_meter_to_pb(each: PlanMeter, charge: Charge | None) -> catalog_pb2.PlanMeter:
    message = catalog_pb2.PlanMeter(
        meter=each.meter,
        limit_kind=catalog_pb2.PlanLimitKind.Value(f"PLAN_LIMIT_KIND_{each.limit_kind.value}"),
        limit_quantity=each.limit_quantity,
        grace_percent=each.grace_percent,
        included_quantity=each.included_quantity,
    )
    if charge is not None and isinstance(charge.price, PerUnit):
        message.included_quantity = charge.included_quantity
        message.overage_unit_price = format_decimal(charge.price.unit_price)
    return message


def _book_to_pb(book: PriceBook) -> catalog_pb2.PriceBook:
    return catalog_pb2.PriceBook(
        currency_code=book.currency_code,
        base_price=str(book.base_price),
        charges=[_charge_to_pb(charge) for charge in book.charges],
        minimum="" if book.minimum is None else str(book.minimum),
    )


def _charge_to_pb(charge: Charge) -> catalog_pb2.Charge:
    message = catalog_pb2.Charge(
        charge_id=charge.charge_id,
        display_name=charge.display_name,
        meter=charge.meter,
        included_quantity=charge.included_quantity,
    )
    match charge.price:
        case FlatFee(amount):
            message.flat_fee.amount = format_decimal(amount)
        case PerUnit(unit_price):
            message.per_unit.unit_price = format_decimal(unit_price)
        case Graduated(tiers):
            message.graduated.CopyFrom(_tiers_to_pb(tiers))
        case Volume(tiers):
            message.volume.CopyFrom(_tiers_to_pb(tiers))
        case Package(size=size, price=price):
            message.package.CopyFrom(catalog_pb2.PackagePrice(size=size, price=format_decimal(price)))
        case Percentage(percent=percent, exchange_rate=rate):
            message.percentage.percent = format_decimal(percent)
            message.percentage.exchange_rate = "" if rate is None else format_decimal(rate)
    return message


def _tiers_to_pb(tiers: Sequence[Tier]) -> catalog_pb2.TieredPrice:
    return catalog_pb2.TieredPrice(
        tiers=[
            catalog_pb2.PriceTier(
                up_to=tier.up_to,
                unit_price=format_decimal(tier.unit_price),
                flat_price=format_decimal(tier.flat_price) if tier.flat_price else "",
            )
            for tier in tiers
        ]
    )


def plan_diff_to_pb(diff: PlanDiff) -> catalog_pb2.PlanDiff:
    """What changes of one plan."""
    return catalog_pb2.PlanDiff(
        plan_id=diff.plan_id,
        kind=catalog_pb2.PlanDiffKind.Value(f"PLAN_DIFF_KIND_{diff.kind.value}"),
        version_before=diff.version_before,
        version_after=diff.version_after,
        fields=[catalog_pb2.FieldDiff(field=each.field, before=each.before, after=each.after) for each in diff.fields],
    )
