"""`tollbook reconcile`: what billing's record and Stripe's say differently, and the repairs that are asked for."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence

from google.protobuf import json_format

from cli.endpoints import SuiteNotUp, add_state_argument, read_endpoints
from cli.rpc import CallFailed, call
from kit.grpc.client import connect
from kit.ids import new_id
from tollbook.billing.v1 import reconciliation_pb2, reconciliation_pb2_grpc

_CLEAN, _DIFFERS, _REFUSED = 0, 1, 2
_PATIENCE = {"attempt_seconds": 600.0, "patience_seconds": 600.0}
"""Stripe is asked some things of every customer, at its pace."""
_KIND, _REPAIR = "DRIFT_KIND_", "REPAIR_"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what `tollbook reconcile` takes."""
    parser.add_argument(
        "--apply",
        nargs="+",
        default=[],
        metavar="KIND|ID",
        help="then apply the repairs of these: kinds, such as PAYMENT_UNSEEN, or ids of differences",
    )
    parser.add_argument(
        "--report", default="", metavar="ID", help="show (and repair from) this report instead of comparing anew"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_state_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the report: 0 when nothing differs (or all of it was repaired), 1 when something does, 2 when refused."""
    try:
        endpoints = read_endpoints(args.state)
        report = asyncio.run(
            reconcile(
                report_id=args.report,
                chosen=args.apply,
                billing_address=endpoints.addresses["billing"],
                admin_key=endpoints.admin_key,
            )
        )
    except (CallFailed, SuiteNotUp) as refusal:
        print(f"tollbook reconcile: {refusal}", file=sys.stderr)
        return _REFUSED
    if args.json:
        print(json.dumps(json_format.MessageToDict(report, preserving_proto_field_name=True)))
    else:
        for line in report_lines(report):
            print(line)
    left = [each for each in report.differences if not each.pending and each.outcome not in {"repaired", "gone"}]
    return _DIFFERS if left or report.failures else _CLEAN


async def reconcile(
    *, report_id: str, chosen: Sequence[str], billing_address: str, admin_key: str
) -> reconciliation_pb2.ReconciliationReport:
    """A report, as it is after the chosen repairs; none are applied unless chosen. Raises CallFailed."""
    known = {name.removeprefix(_KIND): value for name, value in reconciliation_pb2.DriftKind.items() if value}
    async with connect(billing_address, admin_key) as billing:
        stub = reconciliation_pb2_grpc.ReconciliationServiceStub(billing)
        if not report_id:
            made = await call(stub.Reconcile, reconciliation_pb2.ReconcileRequest(), **_PATIENCE)
            report_id = made.report.report_id
        if chosen:
            request = reconciliation_pb2.ApplyRepairsRequest(
                request_id=new_id("req"),
                report_id=report_id,
                kinds=[known[each] for each in chosen if each in known],
                difference_ids=[each for each in chosen if each not in known],
            )
            await call(stub.ApplyRepairs, request, **_PATIENCE)
        wanted = reconciliation_pb2.GetReconciliationReportRequest(report_id=report_id)
        return (await call(stub.GetReconciliationReport, wanted, **_PATIENCE)).report


def report_lines(report: reconciliation_pb2.ReconciliationReport) -> list[str]:
    """The report, to be read by a person."""
    counts = f"{report.difference_count} differences, {report.pending_count} pending"
    lines = [f"{report.report_id}: {report.organization_count} organizations, {counts}"]
    lines += [f"{each.organization_id}: not compared: {each.error}" for each in report.failures]
    for each in report.differences:
        kind = reconciliation_pb2.DriftKind.Name(each.kind).removeprefix(_KIND)
        repair = reconciliation_pb2.Repair.Name(each.repair).removeprefix(_REPAIR)
        what = " ".join(part for part in (each.object_id, each.stripe_id) if part)
        amounts = [
            f"{amount} {code}" if code else "-"
            for amount, code in (
                (each.our_amount, each.our_currency_code),
                (each.their_amount, each.their_currency_code),
            )
        ]
        lines.append(f"{each.difference_id}  {kind}  {each.organization_id}  {what}{'  (pending)' * each.pending}")
        lines.append(f"  ours: {each.ours} ({amounts[0]}); theirs: {each.theirs} ({amounts[1]})")
        lines.append(f"  repair: {repair}{f' -> {each.outcome}' if each.outcome else ''}")
    return lines
