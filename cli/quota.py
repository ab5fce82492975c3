"""`tollbook quota audit` says whether the counters are what the ledger and the open reservations say."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator

from cli.endpoints import Endpoints, SuiteNotUp, add_state_argument, read_endpoints
from cli.rpc import CallFailed, Connections, call, connections
from tollbook.accounts.v1 import accounts_pb2, accounts_pb2_grpc
from tollbook.quota.v1 import quota_pb2, upkeep_pb2, upkeep_pb2_grpc

_CLEAN, _DRIFT, _REFUSED = 0, 1, 2
_PATIENCE_SECONDS = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what `tollbook quota` takes."""
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    audit = verbs.add_parser("audit", help="compare counters with the ledger and the open reservations")
    audit.add_argument("--organization", default="", metavar="ID", help="one organization; without it, every one")
    audit.add_argument("--repair", action="store_true", help="put right what is wrong")
    add_state_argument(audit)


def run(args: argparse.Namespace) -> int:
    """Prints a line for each counter that is wrong: 0 when none is, or is any more; 1 when some are; 2 when refused."""
    try:
        endpoints = read_endpoints(args.state)
        audits = asyncio.run(audit_quotas(endpoints, organization_id=args.organization, repair=args.repair))
    except (CallFailed, SuiteNotUp) as refusal:
        print(f"tollbook quota: {refusal}", file=sys.stderr)
        return _REFUSED
    for organization_id, audit in audits.items():
        for line in _lines(audit):
            print(f"{organization_id}: {line}")
    wrong = [each for each in audits.values() if _is_wrong(each)]
    inconclusive = sum(not each.conclusive and not _is_wrong(each) for each in audits.values())
    print(f"audited {len(audits)}, wrong {len(wrong)}, inconclusive {inconclusive}")
    return _CLEAN if all(each.repaired for each in wrong) else _DRIFT


async def audit_quotas(
    endpoints: Endpoints, *, organization_id: str, repair: bool
) -> dict[str, upkeep_pb2.AuditQuotasResponse]:
    """What the audit of one organization found, or (empty id) of every one. Raises CallFailed."""
    async with connections(endpoints, endpoints.admin_key) as suite:
        stub = upkeep_pb2_grpc.QuotaUpkeepServiceStub(suite.to("quota"))
        audits: dict[str, upkeep_pb2.AuditQuotasResponse] = {}
        async for each in _organizations(suite, organization_id):
            request = upkeep_pb2.AuditQuotasRequest(organization_id=each, repair=repair)
            audits[each] = await call(stub.AuditQuotas, request, patience_seconds=_PATIENCE_SECONDS)
        return audits


async def _organizations(suite: Connections, only: str) -> AsyncIterator[str]:
    if only:
        yield only
        return
    stub = accounts_pb2_grpc.AccountsServiceStub(suite.to("accounts"))
    token = ""
    while True:
        request = accounts_pb2.ListOrganizationsRequest(page_token=token)
        page = await call(stub.ListOrganizations, request, patience_seconds=_PATIENCE_SECONDS)
        for organization in page.organizations:
            yield organization.organization_id
        token = page.next_page_token
        if not token:
            return


def _is_wrong(audit: upkeep_pb2.AuditQuotasResponse) -> bool:
    return bool(audit.drifts) or audit.missing


def _lines(audit: upkeep_pb2.AuditQuotasResponse) -> list[str]:
    outcome = "repaired" if audit.repaired else "wrong"
    lines = [f"{outcome}: a part of the counters was gone"] if audit.missing else []
    for drift in audit.drifts:
        level = quota_pb2.LimitScopeKind.Name(drift.scope.kind).removeprefix("LIMIT_SCOPE_KIND_").lower()
        whose = f"{level} {drift.scope.id}" if drift.scope.id else level
        lines.append(
            f"{outcome}: {drift.part} {drift.meter} of {whose} is {drift.kept_quantity},"
            f" should be {drift.expected_quantity}"
        )
    return lines
