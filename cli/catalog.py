"""`tollbook catalog apply`: a YAML file becomes the plans that are sold."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import grpc

from cli.endpoints import SuiteNotUp, add_state_argument, read_endpoints
from cli.rpc import CallFailed, call
from cli.seed_files.plans import Catalog, CatalogError, Counting, Interval, Plan, PlanMeter, Quantity, read_catalog
from cli.seed_files.price_books import (
    Charge,
    FlatFee,
    Graduated,
    Package,
    Percentage,
    PerUnit,
    PriceBook,
    Tier,
    Volume,
)
from cli.seed_files.strict_yaml import Entry
from kit.grpc.client import connect
from kit.ids import new_id
from kit.money import format_decimal
from tollbook.billing.v1 import catalog_pb2, catalog_pb2_grpc
from tollbook.metering.v1 import metering_pb2, metering_pb2_grpc

__all__ = ["CatalogError", "add_arguments", "apply_catalog", "diff_catalog", "read_catalog", "run"]

_DONE, _REFUSED = 0, 2
_PATIENCE_SECONDS = 30.0

_LIMIT_KINDS = {
    Counting.PERIOD: catalog_pb2.PLAN_LIMIT_KIND_PERIOD,
    Counting.CONCURRENCY: catalog_pb2.PLAN_LIMIT_KIND_CONCURRENCY,
}
_INTERVALS = {
    Interval.MONTH: catalog_pb2.PLAN_INTERVAL_MONTH,
    Interval.YEAR: catalog_pb2.PLAN_INTERVAL_YEAR,
}
_HEADINGS = {
    catalog_pb2.PLAN_DIFF_KIND_ADDED: "{plan_id}: new",
    catalog_pb2.PLAN_DIFF_KIND_CHANGED: "{plan_id}: version {before} becomes {after}; who has {before} keeps it",
    catalog_pb2.PLAN_DIFF_KIND_WITHDRAWN: "{plan_id}: no longer sold; who has it keeps it",
    catalog_pb2.PLAN_DIFF_KIND_SOLD_AGAIN: "{plan_id}: sold again, version {after}",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what `tollbook catalog` takes."""
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    apply = verbs.add_parser(
        "apply", help="show what the plans of a file change and make them the catalog; equal plans keep their version"
    )
    apply.add_argument("file", type=Path, metavar="FILE", help="the catalog, as deploy/plans.yaml")
    apply.add_argument("--dry-run", action="store_true", help="only show what would change")
    add_state_argument(apply)


def run(args: argparse.Namespace) -> int:
    """Shows what the file changes, then applies it unless it is a dry run: 0 when done, 2 when refused as a whole."""
    try:
        read_catalog(args.file)
        endpoints = read_endpoints(args.state)
        where = {
            "billing_address": endpoints.addresses["billing"],
            "metering_address": endpoints.addresses["metering"],
            "admin_key": endpoints.admin_key,
        }
        diffs = asyncio.run(diff_catalog(args.file, **where))
        for line in diff_lines(diffs):
            print(line)
        if not diffs:
            print("nothing changed")
        elif args.dry_run:
            print("not applied: this was a dry run")
        else:
            changed = asyncio.run(apply_catalog(args.file, **where))
            print(f"applied; new versions of: {', '.join(changed)}" if changed else "applied; no new versions")
    except (CatalogError, SuiteNotUp) as refusal:
        print(f"tollbook catalog: {refusal}", file=sys.stderr)
        return _REFUSED
    return _DONE


def diff_lines(diffs: Sequence[catalog_pb2.PlanDiff]) -> list[str]:
    """What changes, plan by plan and field by field, to be read by a person."""
    lines: list[str] = []
    for diff in diffs:
        heading = _HEADINGS[diff.kind]
        lines.append(heading.format(plan_id=diff.plan_id, before=diff.version_before, after=diff.version_after))
        width = max((len(each.field) for each in diff.fields), default=0)
        lines.extend(f"  {each.field:<{width}}  {_change(each)}" for each in diff.fields)
    return lines


def _change(diff: catalog_pb2.FieldDiff) -> str:
    if not diff.before:
        return diff.after
    return f"{diff.before} -> {diff.after or 'gone'}"


async def diff_catalog(
    path: Path, *, billing_address: str, metering_address: str, admin_key: str
) -> Sequence[catalog_pb2.PlanDiff]:
    """What applying the file would change; nothing when it is what is sold. Raises CatalogError."""
    catalog = read_catalog(path)
    try:
        async with connect(metering_address, admin_key) as metering, connect(billing_address, admin_key) as billing:
            answer = await call(
                catalog_pb2_grpc.CatalogServiceStub(billing).DiffCatalog,
                catalog_pb2.DiffCatalogRequest(plans=plans_to_pb(catalog, await _ratios(metering))),
                patience_seconds=_PATIENCE_SECONDS,
            )
    except CallFailed as failure:
        raise _refusal(path, failure) from None
    return answer.diffs


async def apply_catalog(path: Path, *, billing_address: str, metering_address: str, admin_key: str) -> list[str]:
    """The ids of the plans that got a new version. Metering says how many base units a display unit has.

    Applies all of the file or, with CatalogError, nothing. Applying it again changes nothing.
    """
    catalog = read_catalog(path)
    try:
        async with connect(metering_address, admin_key) as metering, connect(billing_address, admin_key) as billing:
            answer = await call(
                catalog_pb2_grpc.CatalogServiceStub(billing).ApplyCatalog,
                catalog_pb2.ApplyCatalogRequest(
                    # Not a digest of the content: going back to an earlier catalog is a new request.
                    request_id=new_id("catalog"),
                    plans=plans_to_pb(catalog, await _ratios(metering)),
                ),
                patience_seconds=_PATIENCE_SECONDS,
            )
    except CallFailed as failure:
        raise _refusal(path, failure) from None
    return list(answer.changed_plan_ids)


async def _ratios(metering: grpc.aio.Channel) -> dict[str, int]:
    meters = await call(
        metering_pb2_grpc.MeteringServiceStub(metering).ListMeters,
        metering_pb2.ListMetersRequest(),
        patience_seconds=_PATIENCE_SECONDS,
    )
    return {meter.name: meter.base_units_per_display_unit for meter in meters.meters}


def _refusal(path: Path, failure: CallFailed) -> CatalogError:
    return CatalogError(f"{path}: {failure.details}" if failure.reason == "INVALID_CATALOG" else f"{path}: {failure}")


def plans_to_pb(catalog: Catalog, base_units_per_display_unit: dict[str, int]) -> list[catalog_pb2.Plan]:
    """The plans in base units. Raises CatalogError for a meter that is not in the mapping."""
    return [_plan_to_pb(plan, base_units_per_display_unit) for plan in catalog.plans]


def _plan_to_pb(plan: Plan, ratios: dict[str, int]) -> catalog_pb2.Plan:
    price = plan.monthly_price
    return catalog_pb2.Plan(
        plan_id=plan.plan_id,
        display_name=plan.display_name,
        monthly_price="" if price is None else str(price),
        currency_code="" if price is None else price.currency_code,
        interval=_INTERVALS[plan.interval],
        trial_days=plan.trial_days,
        meters=[_meter_to_pb(meter, ratios) for meter in plan.meters],
        price_books=[_book_to_pb(book, ratios) for book in plan.price_books],
        features=plan.features,
    )


def _meter_to_pb(meter: PlanMeter, ratios: dict[str, int]) -> catalog_pb2.PlanMeter:
    ratio = _ratio(meter.meter, meter.entry, ratios)
    return catalog_pb2.PlanMeter(
        meter=meter.meter,
        limit_kind=_LIMIT_KINDS[meter.counting],
        limit_quantity=None if meter.limit is None else meter.limit.in_base_units(ratio),
        grace_percent=meter.grace_percent,
        included_quantity=_base_units(meter.included, ratio),
        overage_unit_price="" if meter.overage_price is None else format_decimal(meter.overage_price),
    )


def _book_to_pb(book: PriceBook, ratios: dict[str, int]) -> catalog_pb2.PriceBook:
    return catalog_pb2.PriceBook(
        currency_code=book.currency_code,
        base_price=str(book.base_price),
        charges=[_charge_to_pb(charge, ratios) for charge in book.charges],
        minimum="" if book.minimum is None else str(book.minimum),
    )


def _charge_to_pb(charge: Charge, ratios: dict[str, int]) -> catalog_pb2.Charge:
    ratio = _ratio(charge.meter, charge.entry, ratios) if charge.meter else 1
    message = catalog_pb2.Charge(
        charge_id=charge.charge_id,
        display_name=charge.display_name,
        meter=charge.meter,
        included_quantity=_base_units(charge.included, ratio),
    )
    match charge.price:
        case FlatFee(amount):
            message.flat_fee.amount = str(amount)
        case PerUnit(unit_price):
            message.per_unit.unit_price = format_decimal(unit_price)
        case Graduated(tiers):
            message.graduated.tiers.extend(_tier_to_pb(tier, ratio) for tier in tiers)
        case Volume(tiers):
            message.volume.tiers.extend(_tier_to_pb(tier, ratio) for tier in tiers)
        case Package(size=size, price=price):
            message.package.size = size.in_base_units(ratio)
            message.package.price = format_decimal(price)
        case Percentage(percent=percent, exchange_rate=rate):
            message.percentage.percent = format_decimal(percent)
            message.percentage.exchange_rate = "" if rate is None else format_decimal(rate)
    return message


def _tier_to_pb(tier: Tier, ratio: int) -> catalog_pb2.PriceTier:
    return catalog_pb2.PriceTier(
        up_to=None if tier.up_to is None else tier.up_to.in_base_units(ratio),
        unit_price=format_decimal(tier.unit_price),
        flat_price="" if tier.flat_price is None else str(tier.flat_price),
    )


def _base_units(quantity: Quantity | None, ratio: int) -> int:
    return 0 if quantity is None else quantity.in_base_units(ratio)


def _ratio(meter: str, entry: Entry, ratios: dict[str, int]) -> int:
    ratio = ratios.get(meter)
    if ratio is None:
        problem = f"there is no meter {meter!r}; there are {', '.join(sorted(ratios)) or 'none'}"
        raise CatalogError(str(entry.refused(problem)))
    return ratio
