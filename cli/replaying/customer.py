"""A customer made for one replay: an organization, its API key and a subscription that began a day ago."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from google.protobuf.timestamp_pb2 import Timestamp

from cli.endpoints import Endpoints
from cli.replaying.errors import ReplayFailed
from cli.replaying.naming import organization_id_of
from cli.replaying.workload import PLANS
from cli.rpc import PATIENCE_SECONDS, Connections, call, connections
from tollbook.accounts.v1 import accounts_pb2, accounts_pb2_grpc
from tollbook.billing.v1 import billing_pb2, billing_pb2_grpc
from tollbook.quota.v1 import quota_pb2, quota_pb2_grpc

_DAY_SECONDS = 86_400
_POLL_SECONDS = 0.05
# Each attempt needs a service killed between making a key and answering; more than two in a row is a defect.
_KEY_ATTEMPTS = 5
# Creating a subscription reaches on to Stripe.
SLOW_CALL_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Customer:
    """An organization of the replay, ready to be used."""

    name: str
    """A, B or C."""
    run_id: str
    organization_id: str
    period_start: Timestamp
    period_end: Timestamp
    admin: Connections = field(repr=False)
    """Channels with the operator's key."""
    own: Connections = field(repr=False)
    """Channels with the organization's key."""


@asynccontextmanager
async def new_customer(name: str, run_id: str, endpoints: Endpoints, admin: Connections) -> AsyncIterator[Customer]:
    """Makes the customer and waits until its plan is in force. Its channels end with the block."""
    organization_id = organization_id_of(run_id, name)
    await call(
        accounts_pb2_grpc.AccountsServiceStub(admin.to("accounts")).CreateOrganization,
        accounts_pb2.CreateOrganizationRequest(
            request_id=f"{organization_id}-organization",
            organization=accounts_pb2.Organization(
                organization_id=organization_id, display_name=f"Replay {run_id} {name}"
            ),
        ),
    )
    key = await _new_key(organization_id, admin)
    subscription = await _subscribe(organization_id, PLANS[name], admin)
    async with connections(endpoints, key) as own:
        await _wait_for_plan(name, PLANS[name], own)
        yield Customer(
            name=name,
            run_id=run_id,
            organization_id=organization_id,
            period_start=subscription.period_start_time,
            period_end=subscription.period_end_time,
            admin=admin,
            own=own,
        )


async def _new_key(organization_id: str, admin: Connections) -> str:
    """The secret of a new key. A repeated request answers without it, so a lost answer costs the key."""
    accounts = accounts_pb2_grpc.AccountsServiceStub(admin.to("accounts"))
    for attempt in range(_KEY_ATTEMPTS):
        request_id = f"{organization_id}-key-{attempt}"
        key = accounts_pb2.ApiKey(organization_id=organization_id, display_name="replay")
        answer = await call(accounts.CreateApiKey, accounts_pb2.CreateApiKeyRequest(request_id=request_id, api_key=key))
        if answer.secret:
            return answer.secret
        await call(
            accounts.RevokeApiKey,
            accounts_pb2.RevokeApiKeyRequest(
                request_id=f"{request_id}-lost",
                organization_id=organization_id,
                api_key_id=answer.api_key.api_key_id,
            ),
        )
    msg = f"{organization_id}: accounts made {_KEY_ATTEMPTS} keys and answered none with its secret"
    raise ReplayFailed(msg)


async def _subscribe(organization_id: str, plan_id: str, admin: Connections) -> billing_pb2.Subscription:
    answer = await call(
        billing_pb2_grpc.BillingServiceStub(admin.to("billing")).CreateSubscription,
        billing_pb2.CreateSubscriptionRequest(
            request_id=f"{organization_id}-subscription",
            subscription=billing_pb2.Subscription(
                organization_id=organization_id,
                plan_id=plan_id,
                # A whole second: every store keeps it exactly.
                start_time=Timestamp(seconds=int(time.time()) - _DAY_SECONDS),
            ),
        ),
        attempt_seconds=SLOW_CALL_SECONDS,
    )
    return answer.subscription


async def _wait_for_plan(name: str, plan_id: str, own: Connections) -> None:
    """Until then quota decides by `free`, in that plan's period."""
    quota = quota_pb2_grpc.QuotaServiceStub(own.to("quota"))
    now = asyncio.get_running_loop().time
    give_up_at = now() + PATIENCE_SECONDS
    while True:
        answer = await call(quota.ListQuotas, quota_pb2.ListQuotasRequest())
        if answer.plan_id == plan_id:
            return
        if now() >= give_up_at:
            msg = (
                f"organization {name}: {PATIENCE_SECONDS:.0f} s after it was put on {plan_id}, "
                f"quota still has it on {answer.plan_id or 'no plan'}"
            )
            raise ReplayFailed(msg)
        await asyncio.sleep(_POLL_SECONDS)
