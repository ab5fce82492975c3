"""The end of a replay: wait until all followers have applied the ledger, read them, close the period."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from cli.replaying.customer import SLOW_CALL_SECONDS, Customer
from cli.replaying.drive import METER
from cli.replaying.errors import ReplayFailed
from cli.rpc import PATIENCE_SECONDS, call
from kit.money import parse_decimal
from tollbook.analytics.v1 import analytics_pb2, analytics_pb2_grpc
from tollbook.billing.v1 import billing_pb2, billing_pb2_grpc
from tollbook.metering.v1 import metering_pb2, metering_pb2_grpc
from tollbook.quota.v1 import quota_pb2, quota_pb2_grpc

_POLL_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What provider calls cost, exactly."""

    actual: Decimal
    baseline: Decimal
    savings: Decimal


@dataclass(frozen=True, kw_only=True, slots=True)
class Settled:
    """What the services say of one organization once all has come to rest."""

    ledger_agent_ms: int
    quota_used_ms: int
    cost: Cost
    invoice: billing_pb2.Invoice


async def settle(customer: Customer) -> Settled:
    """Reads all at one position of the ledger, then closes the period: closing starts the counters anew."""
    quota_used_ms, summary = await _wait_until_applied(customer)
    return Settled(
        ledger_agent_ms=await _ledger_agent_ms(customer),
        quota_used_ms=quota_used_ms,
        cost=Cost(
            actual=parse_decimal(summary.actual_cost),
            baseline=parse_decimal(summary.baseline_cost),
            savings=parse_decimal(summary.savings),
        ),
        invoice=await _close(customer),
    )


async def _wait_until_applied(customer: Customer) -> tuple[int, analytics_pb2.GetCostSummaryResponse]:
    """What quota counts as used, and the cost, both as of the ledger's head."""
    now = asyncio.get_running_loop().time
    give_up_at = now() + PATIENCE_SECONDS
    while True:
        # The followers first: a head that is read later and equals what they applied was it all the while.
        state, summary = await asyncio.gather(_limit_state(customer), _cost_summary(customer))
        head = await _ledger_head(customer)
        if state.applied_sequence == head == summary.applied_sequence:
            return state.used, summary
        if now() >= give_up_at:
            msg = (
                f"organization {customer.name}: after {PATIENCE_SECONDS:.0f} s the ledger's head is {head}, "
                f"but quota has applied {state.applied_sequence} and analytics {summary.applied_sequence}"
            )
            raise ReplayFailed(msg)
        await asyncio.sleep(_POLL_SECONDS)


async def _limit_state(customer: Customer) -> quota_pb2.LimitState:
    answer = await call(
        quota_pb2_grpc.QuotaServiceStub(customer.own.to("quota")).ListQuotas, quota_pb2.ListQuotasRequest()
    )
    for state in answer.limits:
        if state.meter == METER and state.kind == quota_pb2.LIMIT_KIND_PERIOD:
            return state
    msg = f"organization {customer.name}: quota lists no period limit of {METER} (plan {answer.plan_id!r})"
    raise ReplayFailed(msg)


async def _cost_summary(customer: Customer) -> analytics_pb2.GetCostSummaryResponse:
    return await call(
        analytics_pb2_grpc.AnalyticsServiceStub(customer.own.to("analytics")).GetCostSummary,
        analytics_pb2.GetCostSummaryRequest(
            start_date=customer.period_start.ToDatetime(UTC).date().isoformat(),
            end_date=datetime.now(UTC).date().isoformat(),
        ),
    )


async def _ledger_head(customer: Customer) -> int:
    answer = await _query_usage(customer, metering_pb2.QueryUsageRequest(meters=[METER]))
    return answer.as_of_sequence


async def _ledger_agent_ms(customer: Customer) -> int:
    request = metering_pb2.QueryUsageRequest(
        meters=[METER], start_time=customer.period_start, end_time=customer.period_end
    )
    answer = await _query_usage(customer, request)
    return sum(row.quantity for row in answer.rows if row.meter == METER)


async def _query_usage(customer: Customer, request: metering_pb2.QueryUsageRequest) -> metering_pb2.QueryUsageResponse:
    return await call(metering_pb2_grpc.MeteringServiceStub(customer.own.to("metering")).QueryUsage, request)


async def _close(customer: Customer) -> billing_pb2.Invoice:
    answer = await call(
        billing_pb2_grpc.BillingServiceStub(customer.admin.to("billing")).CloseBillingPeriod,
        billing_pb2.CloseBillingPeriodRequest(
            request_id=f"{customer.organization_id}-close", organization_id=customer.organization_id
        ),
        attempt_seconds=SLOW_CALL_SECONDS,
    )
    return answer.invoice
