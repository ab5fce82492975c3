"""`tollbook revenue` says how the business stands."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator
from datetime import UTC, datetime

from google.protobuf.json_format import MessageToJson
from google.protobuf.timestamp_pb2 import Timestamp

from cli.endpoints import Endpoints, SuiteNotUp, add_state_argument, read_endpoints
from cli.rpc import CallFailed, call, connections
from tollbook.billing.v1 import revenue_pb2, revenue_pb2_grpc

_DONE, _REFUSED = 0, 2
_PATIENCE_SECONDS = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what `tollbook revenue` takes."""
    parser.add_argument("--as-of", type=_moment, metavar="TIME", help="a past moment, as 2026-11-20T12:00:00Z; now")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")
    add_state_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the report: 0 done, 2 refused."""
    try:
        report = asyncio.run(get_report(read_endpoints(args.state), args.as_of))
    except (CallFailed, SuiteNotUp) as refusal:
        print(f"tollbook revenue: {refusal}", file=sys.stderr)
        return _REFUSED
    print(MessageToJson(report, always_print_fields_with_no_presence=True) if args.json else "\n".join(_lines(report)))
    return _DONE


async def get_report(endpoints: Endpoints, as_of: datetime | None) -> revenue_pb2.RevenueReport:
    """The report as of a moment; None: now. Raises CallFailed."""
    request = revenue_pb2.GetRevenueReportRequest()
    if as_of is not None:
        request.as_of_time.CopyFrom(_timestamp(as_of))
    async with connections(endpoints, endpoints.admin_key) as suite:
        stub = revenue_pb2_grpc.RevenueServiceStub(suite.to("billing"))
        return (await call(stub.GetRevenueReport, request, patience_seconds=_PATIENCE_SECONDS)).report


def _lines(report: revenue_pb2.RevenueReport) -> Iterator[str]:
    yield f"as of {report.as_of_time.ToDatetime():%Y-%m-%d %H:%M} UTC"
    for each in report.currencies:
        code = each.currency_code
        change = each.monthly_recurring_revenue_change
        sign = "" if change.startswith("-") else "+"
        yield f"MRR {each.monthly_recurring_revenue} {code} ({sign}{change} in a week)"
        yield f"overage {each.overage_revenue} {code} in 30 days"
        for tier in each.tiers:
            yield f"  {tier.plan_id}: MRR {tier.monthly_recurring_revenue}, overage {tier.overage_revenue}"
    for on_plan in report.tiers:
        yield (
            f"{on_plan.plan_id}: {on_plan.active_count} active, {on_plan.trialing_count} in trial, "
            f"{on_plan.past_due_count} past due, {on_plan.suspended_count} suspended, {on_plan.paused_count} paused"
        )
        for usage in on_plan.average_usage:
            yield f"  {usage.meter}: {usage.quantity} base units on average, of {usage.customer_count} customers"


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _timestamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
