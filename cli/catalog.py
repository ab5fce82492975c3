"""`tollbook catalog apply`: a YAML file becomes the plans that are sold."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from cli.endpoints import SuiteNotUp, read_endpoints
from cli.rpc import CallFailed, call
from cli.seed_files.plans import Catalog, CatalogError, Counting, Plan, PlanMeter, Quantity, read_catalog
from kit.grpc.client import connect
from kit.ids import new_id
from kit.money import format_decimal
from tollbook.billing.v1 import catalog_pb2, catalog_pb2_grpc
from tollbook.metering.v1 import metering_pb2, metering_pb2_grpc

__all__ = ["CatalogError", "add_arguments", "apply_catalog", "read_catalog", "run"]

_DONE, _REFUSED = 0, 2
_PATIENCE_SECONDS = 30.0

_LIMIT_KINDS = {
    Counting.PERIOD: catalog_pb2.PLAN_LIMIT_KIND_PERIOD,
    Counting.CONCURRENCY: catalog_pb2.PLAN_LIMIT_KIND_CONCURRENCY,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what `tollbook catalog` takes."""
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    apply = verbs.add_parser("apply", help="make the plans of a file the catalog; equal plans keep their version")
    apply.add_argument("file", type=Path, metavar="FILE", help="the catalog, as deploy/plans.yaml")
    apply.add_argument(
        "--state",
        type=Path,
        default=Path(".state"),
        metavar="DIR",
        help="the state folder of the running suite (%(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Applies the file, prints which plans got a new version: 0 when applied, 2 when refused as a whole."""
    try:
        read_catalog(args.file)
        endpoints = read_endpoints(args.state)
        changed = asyncio.run(
            apply_catalog(
                args.file,
                billing_address=endpoints.addresses["billing"],
                metering_address=endpoints.addresses["metering"],
                admin_key=endpoints.admin_key,
            )
        )
    except (CatalogError, SuiteNotUp) as refusal:
        print(f"tollbook catalog: {refusal}", file=sys.stderr)
        return _REFUSED
    print(f"new versions of: {', '.join(changed)}" if changed else "nothing changed")
    return _DONE


async def apply_catalog(path: Path, *, billing_address: str, metering_address: str, admin_key: str) -> list[str]:
    """The ids of the plans that got a new version. Metering says how many base units a display unit has.

    Applies all of the file or, with CatalogError, nothing. Applying it again changes nothing.
    """
    catalog = read_catalog(path)
    try:
        async with (
            connect(metering_address, admin_key) as metering,
            connect(billing_address, admin_key) as billing,
        ):
            meters = await call(
                metering_pb2_grpc.MeteringServiceStub(metering).ListMeters,
                metering_pb2.ListMetersRequest(),
                patience_seconds=_PATIENCE_SECONDS,
            )
            ratios = {meter.name: meter.base_units_per_display_unit for meter in meters.meters}
            answer = await call(
                catalog_pb2_grpc.CatalogServiceStub(billing).ApplyCatalog,
                catalog_pb2.ApplyCatalogRequest(
                    # Not a digest of the content: going back to an earlier catalog is a new request.
                    request_id=new_id("catalog"),
                    plans=plans_to_pb(catalog, ratios),
                ),
                patience_seconds=_PATIENCE_SECONDS,
            )
    except CallFailed as failure:
        msg = f"{path}: {failure.details}" if failure.reason == "INVALID_CATALOG" else f"{path}: {failure}"
        raise CatalogError(msg) from None
    return list(answer.changed_plan_ids)


def plans_to_pb(catalog: Catalog, base_units_per_display_unit: dict[str, int]) -> list[catalog_pb2.Plan]:
    """The plans in base units. Raises CatalogError for a meter that is not in the mapping."""
    return [_plan_to_pb(plan, base_units_per_display_unit) for plan in catalog.plans]


def _plan_to_pb(plan: Plan, ratios: dict[str, int]) -> catalog_pb2.Plan:
    return catalog_pb2.Plan(
        plan_id=plan.plan_id,
        display_name=plan.display_name,
        monthly_price=str(plan.monthly_price),
        currency_code=plan.monthly_price.currency_code,
        meters=[_meter_to_pb(meter, ratios) for meter in plan.meters],
        features=plan.features,
    )


def _meter_to_pb(meter: PlanMeter, ratios: dict[str, int]) -> catalog_pb2.PlanMeter:
    ratio = ratios.get(meter.meter)
    if ratio is None:
        problem = f"there is no meter {meter.meter!r}; there are {', '.join(sorted(ratios)) or 'none'}"
        raise CatalogError(str(meter.entry.refused(problem)))

    def base_units(quantity: Quantity | None) -> int | None:
        return None if quantity is None else quantity.in_base_units(ratio)

    return catalog_pb2.PlanMeter(
        meter=meter.meter,
        limit_kind=_LIMIT_KINDS[meter.counting],
        limit_quantity=base_units(meter.limit),
        grace_percent=meter.grace_percent,
        included_quantity=base_units(meter.included) or 0,
        overage_unit_price="" if meter.overage_price is None else format_decimal(meter.overage_price),
    )
