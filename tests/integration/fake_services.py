"""Five services in one server that keep just enough to be replayed against, and lose answers on purpose.

They promise only what the contracts say of retries: the same ids again have the first effect and answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import grpc

from kit.grpc.errors import to_status
from tollbook.accounts.v1 import accounts_pb2, accounts_pb2_grpc
from tollbook.analytics.v1 import analytics_pb2, analytics_pb2_grpc
from tollbook.billing.v1 import billing_pb2, billing_pb2_grpc
from tollbook.errors.v1 import errors_pb2
from tollbook.metering.v1 import metering_pb2, metering_pb2_grpc
from tollbook.quota.v1 import quota_pb2, quota_pb2_grpc

_MONTH_SECONDS = 30 * 86_400
_HARD_LIMITS_MS = {"starter": 66_000_000, "pro": 660_000_000, "enterprise": None}
_PRICES = {
    "openai_codex": (Fraction("0.002"), Fraction("0.004")),
    "github_copilot": (Fraction("0.001"), Fraction("0.003")),
    "google_code_assist": (Fraction("0.0015"), Fraction("0.0035")),
}
# What a caller is told, by its own gRPC or by ours, when a connection or a server goes away under a call.
_LOST_WITH = (
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
)


@dataclass
class Faults:
    """What goes wrong."""

    lose_every: int = 0
    """The answer to every so many'th call of each method is lost after the call had its effect; 0: none is."""
    degraded_checks: int = 0
    """So many checks are answered without the counters first."""
    reject_events: bool = False
    refuse_subscriptions: bool = False


@dataclass
class _Organization:
    plan_id: str = "free"
    plan_reads: int = 0
    start_seconds: int = 0
    answers: dict[str, quota_pb2.CheckResponse] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)
    events: dict[str, metering_pb2.UsageEvent] = field(default_factory=dict)

    @property
    def used_ms(self) -> int:
        return sum(event.measurements[0].quantity for event in self.events.values())

    def cost(self, provider: str | None = None) -> Fraction:
        """What its calls cost, or would cost at another provider."""
        total = Fraction()
        for event in self.events.values():
            call = event.provider_call
            per_thousand_in, per_thousand_out = _PRICES[provider or call.provider]
            total += (call.tokens_input_uncached * per_thousand_in + call.tokens_output * per_thousand_out) / 1000
        return total


class FakeServices:
    """The state behind all five."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.calls: Counter[str] = Counter()
        self.organizations: dict[str, _Organization] = {}
        self.live_keys: dict[str, str] = {}
        self._keys_by_request: dict[str, str] = {}

    def _own(self, context: Any) -> _Organization:
        """The organization of the key of a call."""
        key = dict(context.invocation_metadata())["authorization"].removeprefix("Bearer ")
        return self.organizations[self.live_keys[key]]

    async def create_organization(
        self, request: accounts_pb2.CreateOrganizationRequest, _: Any
    ) -> accounts_pb2.CreateOrganizationResponse:
        self.organizations.setdefault(request.organization.organization_id, _Organization())
        return accounts_pb2.CreateOrganizationResponse(organization=request.organization)

    async def create_api_key(
        self, request: accounts_pb2.CreateApiKeyRequest, _: Any
    ) -> accounts_pb2.CreateApiKeyResponse:
        if request.request_id in self._keys_by_request:
            key = accounts_pb2.ApiKey(api_key_id=self._keys_by_request[request.request_id])
            return accounts_pb2.CreateApiKeyResponse(api_key=key)
        secret = f"tb_live_{len(self._keys_by_request)}"
        self._keys_by_request[request.request_id] = secret
        self.live_keys[secret] = request.api_key.organization_id
        return accounts_pb2.CreateApiKeyResponse(api_key=accounts_pb2.ApiKey(api_key_id=secret), secret=secret)

    async def revoke_api_key(
        self, request: accounts_pb2.RevokeApiKeyRequest, _: Any
    ) -> accounts_pb2.RevokeApiKeyResponse:
        self.live_keys.pop(request.api_key_id, None)
        return accounts_pb2.RevokeApiKeyResponse()

    async def create_subscription(
        self, request: billing_pb2.CreateSubscriptionRequest, context: Any
    ) -> billing_pb2.CreateSubscriptionResponse:
        if self.faults.refuse_subscriptions:
            await context.abort_with_status(to_status("NOT_FOUND", "NOT_FOUND", "There is no plan 'starter'.", "r"))
        subscription = request.subscription
        organization = self.organizations[subscription.organization_id]
        organization.plan_id, organization.start_seconds = subscription.plan_id, subscription.start_time.seconds
        subscription.period_start_time.CopyFrom(subscription.start_time)
        subscription.period_end_time.FromSeconds(subscription.start_time.seconds + _MONTH_SECONDS)
        return billing_pb2.CreateSubscriptionResponse(subscription=subscription)

    async def close_billing_period(
        self, request: billing_pb2.CloseBillingPeriodRequest, _: Any
    ) -> billing_pb2.CloseBillingPeriodResponse:
        used = self.organizations[request.organization_id].used_ms
        line = billing_pb2.InvoiceLine(kind=billing_pb2.INVOICE_LINE_KIND_BASE_FEE, description="Plan", amount="49.00")
        overage = billing_pb2.InvoiceLine(
            kind=billing_pb2.INVOICE_LINE_KIND_OVERAGE, amount="0.00", meter="agent_minutes", used_quantity=used
        )
        return billing_pb2.CloseBillingPeriodResponse(invoice=billing_pb2.Invoice(total="49.00", lines=[line, overage]))

    async def check(self, request: quota_pb2.CheckRequest, context: Any) -> quota_pb2.CheckResponse:
        organization = self._own(context)
        if self.faults.degraded_checks > 0:
            self.faults.degraded_checks -= 1
            return quota_pb2.CheckResponse(
                decision=quota_pb2.DECISION_DENIED, deny_reason=quota_pb2.DENY_REASON_STORE_UNAVAILABLE, degraded=True
            )
        if request.request_id not in organization.answers:
            organization.answers[request.request_id] = self._decide(organization, request)
        return organization.answers[request.request_id]

    def _decide(self, organization: _Organization, request: quota_pb2.CheckRequest) -> quota_pb2.CheckResponse:
        quantity, hard_limit = request.consumptions[0].quantity, _HARD_LIMITS_MS[organization.plan_id]
        if hard_limit is not None and organization.used_ms + sum(organization.held.values()) + quantity > hard_limit:
            return quota_pb2.CheckResponse(
                decision=quota_pb2.DECISION_DENIED, deny_reason=quota_pb2.DENY_REASON_LIMIT_REACHED
            )
        organization.held[request.request_id] = quantity
        return quota_pb2.CheckResponse(decision=quota_pb2.DECISION_ALLOWED, reservation_id=request.request_id)

    async def list_quotas(self, _: quota_pb2.ListQuotasRequest, context: Any) -> quota_pb2.ListQuotasResponse:
        organization = self._own(context)
        organization.plan_reads += 1
        state = quota_pb2.LimitState(
            meter="agent_minutes",
            kind=quota_pb2.LIMIT_KIND_PERIOD,
            used=organization.used_ms,
            applied_sequence=len(organization.events),
        )
        # Quota hears of a new plan a little later.
        plan_id = organization.plan_id if organization.plan_reads > 2 else "free"
        return quota_pb2.ListQuotasResponse(limits=[state], plan_id=plan_id)

    async def record_usage(
        self, request: metering_pb2.RecordUsageRequest, context: Any
    ) -> metering_pb2.RecordUsageResponse:
        organization = self._own(context)
        if self.faults.reject_events:
            result = metering_pb2.EventResult(
                status=metering_pb2.EVENT_STATUS_REJECTED,
                reason=errors_pb2.ERROR_REASON_EVENT_TOO_OLD,
                message="The event is too old.",
            )
            return metering_pb2.RecordUsageResponse(results=[result])
        (event,) = request.events
        status = metering_pb2.EVENT_STATUS_DUPLICATE
        if event.id not in organization.events:
            assert event.reservation_final
            assert organization.held.pop(event.reservation_id) == event.measurements[0].quantity
            organization.events[event.id] = event
            status = metering_pb2.EVENT_STATUS_ACCEPTED
        return metering_pb2.RecordUsageResponse(results=[metering_pb2.EventResult(status=status)])

    async def query_usage(self, _: metering_pb2.QueryUsageRequest, context: Any) -> metering_pb2.QueryUsageResponse:
        organization = self._own(context)
        row = metering_pb2.UsageRow(meter="agent_minutes", quantity=organization.used_ms)
        return metering_pb2.QueryUsageResponse(rows=[row], as_of_sequence=len(organization.events))

    async def get_cost_summary(
        self, _: analytics_pb2.GetCostSummaryRequest, context: Any
    ) -> analytics_pb2.GetCostSummaryResponse:
        organization = self._own(context)
        actual, baseline = organization.cost(), organization.cost("openai_codex")
        return analytics_pb2.GetCostSummaryResponse(
            actual_cost=_decimal(actual),
            baseline_cost=_decimal(baseline),
            savings=_decimal(baseline - actual),
            applied_sequence=len(organization.events),
        )


def _decimal(amount: Fraction) -> str:
    whole, decimals = divmod((amount * 10**7).numerator, 10**7)
    return f"{whole}.{decimals:07}"


class _LoseAnswers(grpc.aio.ServerInterceptor):
    def __init__(self, fakes: FakeServices) -> None:
        self._fakes = fakes

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        fakes, method = self._fakes, handler_call_details.method

        async def answer_or_lose(request: Any, context: Any) -> Any:
            answer = await handler.unary_unary(request, context)
            fakes.calls[method] += 1
            if fakes.faults.lose_every and fakes.calls[method] % fakes.faults.lose_every == 1:
                code = _LOST_WITH[fakes.calls[method] // fakes.faults.lose_every % len(_LOST_WITH)]
                await context.abort(code, "the answer is lost")
            return answer

        return grpc.unary_unary_rpc_method_handler(
            answer_or_lose, handler.request_deserializer, handler.response_serializer
        )


@asynccontextmanager
async def fake_services(faults: Faults) -> AsyncIterator[tuple[FakeServices, str]]:
    """All five on one free port of the loopback interface: their state and their address."""
    fakes = FakeServices(faults)
    server = grpc.aio.server(interceptors=[_LoseAnswers(fakes)])
    for add, methods in (
        (
            accounts_pb2_grpc.add_AccountsServiceServicer_to_server,
            {
                "CreateOrganization": fakes.create_organization,
                "CreateApiKey": fakes.create_api_key,
                "RevokeApiKey": fakes.revoke_api_key,
            },
        ),
        (
            billing_pb2_grpc.add_BillingServiceServicer_to_server,
            {"CreateSubscription": fakes.create_subscription, "CloseBillingPeriod": fakes.close_billing_period},
        ),
        (
            quota_pb2_grpc.add_QuotaServiceServicer_to_server,
            {"Check": fakes.check, "ListQuotas": fakes.list_quotas},
        ),
        (
            metering_pb2_grpc.add_MeteringServiceServicer_to_server,
            {"RecordUsage": fakes.record_usage, "QueryUsage": fakes.query_usage},
        ),
        (
            analytics_pb2_grpc.add_AnalyticsServiceServicer_to_server,
            {"GetCostSummary": fakes.get_cost_summary},
        ),
    ):
        _add(add, methods, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield fakes, f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


class _Unserved:
    """Stands for the methods of a service that the fake does not have."""

    def __getattr__(self, name: str) -> None:
        return None


def _add(add: Callable[[Any, Any], None], methods: dict[str, Any], server: grpc.aio.Server) -> None:
    servicer = _Unserved()
    for name, method in methods.items():
        setattr(servicer, name, method)
    add(servicer, server)
