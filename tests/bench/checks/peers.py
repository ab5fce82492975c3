"""What quota asks of the other services: `python -m tests.bench.checks.peers ADDRESS`, all of them on one port.

Every key is the admin's, every organization exists and has the same plan, nothing was ever used. The organization
`full` has used up its minutes, `tight-N` may use N of them.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc

from kit.grpc.access import TENANT_SCOPES
from tests.integration.test_quota_process import DAY_US, NOW_US
from tollbook.accounts.v1 import accounts_pb2, identity_pb2
from tollbook.billing.v1 import billing_pb2, catalog_pb2, entitlements_pb2
from tollbook.feed.v1 import feed_pb2
from tollbook.metering.v1 import ledger_pb2, metering_pb2

METERS = ("agent_minutes", "concurrent_agents", "api_calls", "tokens_input", "tokens_output")
MINUTES = METERS[0]
FULL, TIGHT = "full", "tight-"
PLENTY = 2**50


async def _verify_api_key(_request: Any, _context: Any) -> identity_pb2.VerifyApiKeyResponse:
    principal = identity_pb2.Principal(kind=identity_pb2.PRINCIPAL_KIND_ADMIN, scopes=sorted(TENANT_SCOPES))
    return identity_pb2.VerifyApiKeyResponse(principal=principal)


async def _get_organization(request: Any, _context: Any) -> accounts_pb2.GetOrganizationResponse:
    organization = accounts_pb2.Organization(organization_id=request.organization_id)
    return accounts_pb2.GetOrganizationResponse(organization=organization)


async def _list_meters(_request: Any, _context: Any) -> metering_pb2.ListMetersResponse:
    return metering_pb2.ListMetersResponse(meters=[metering_pb2.Meter(name=name) for name in METERS])


async def _snapshot_usage(request: Any, _context: Any) -> ledger_pb2.SnapshotUsageResponse:
    position = feed_pb2.Position(sequence=1, commit_id="c")
    response = ledger_pb2.SnapshotUsageResponse(position=position)
    if request.organization_id.startswith(FULL):
        response.rows.add(meter=MINUTES, quantity=PLENTY)
    return response


async def _read_entitlements(request: Any, _context: Any) -> entitlements_pb2.ReadEntitlementsResponse:
    organization_id = request.organization_id
    limit = int(organization_id.removeprefix(TIGHT)) if organization_id.startswith(TIGHT) else PLENTY
    kind = catalog_pb2.PLAN_LIMIT_KIND_PERIOD
    meters = [catalog_pb2.PlanMeter(meter=MINUTES, limit_kind=kind, limit_quantity=limit)]
    entitlement = entitlements_pb2.Entitlement(
        organization_id=organization_id,
        version=1,
        plan_id="bench",
        status=billing_pb2.SUBSCRIPTION_STATUS_ACTIVE,
        meters=meters,
    )
    entitlement.period_start_time.FromMicroseconds(NOW_US - DAY_US)
    entitlement.period_end_time.FromMicroseconds(NOW_US + DAY_US)
    position = feed_pb2.Position(sequence=1, commit_id="c")
    return entitlements_pb2.ReadEntitlementsResponse(entitlements=[entitlement], position=position)


async def _watch_nothing(_request: Any, _context: Any) -> AsyncIterator[Any]:
    await asyncio.Event().wait()
    yield None


def _serialize(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data


def _unary(behaviour: Any, request: Any) -> Any:
    make: Any = grpc.unary_unary_rpc_method_handler
    return make(behaviour, request_deserializer=request.FromString, response_serializer=_serialize)


def _stream(behaviour: Any, request: Any) -> Any:
    make: Any = grpc.unary_stream_rpc_method_handler
    return make(behaviour, request_deserializer=request.FromString, response_serializer=_serialize)


_SERVICES = {
    "accounts.v1.IdentityFeedService": {"VerifyApiKey": _unary(_verify_api_key, identity_pb2.VerifyApiKeyRequest)},
    "accounts.v1.AccountsService": {
        "GetOrganization": _unary(_get_organization, accounts_pb2.GetOrganizationRequest),
    },
    "metering.v1.MeteringService": {"ListMeters": _unary(_list_meters, metering_pb2.ListMetersRequest)},
    "metering.v1.LedgerService": {
        "SnapshotUsage": _unary(_snapshot_usage, ledger_pb2.SnapshotUsageRequest),
        "WatchHeads": _stream(_watch_nothing, ledger_pb2.WatchHeadsRequest),
    },
    "billing.v1.EntitlementFeedService": {
        "ReadEntitlements": _unary(_read_entitlements, entitlements_pb2.ReadEntitlementsRequest),
        "WatchHeads": _stream(_watch_nothing, entitlements_pb2.WatchHeadsRequest),
    },
}


async def _serve(address: str) -> None:
    server = grpc.aio.server()
    for name, methods in _SERVICES.items():
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(f"tollbook.{name}", methods),))
    server.add_insecure_port(address)
    await server.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await server.stop(0.0)


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
