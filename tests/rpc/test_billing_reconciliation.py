"""ReconciliationService over gRPC, and `tollbook reconcile` on it, on the shipped fakes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.protobuf.message import Message

from cli.reconcile import reconcile, report_lines
from cli.rpc import CallFailed
from kit.grpc.access import TENANT_SCOPES
from kit.grpc.call import CallerKind, Principal
from kit.grpc.identity import Authenticator
from kit.grpc.server import Application
from kit.money import Money
from kit.testing.clock import FakeClock
from kit.testing.servers import KnownKeys, serving_at
from services.billing.adapters.memory.books import MemoryBooks
from services.billing.adapters.memory.catalog import MemoryPlans
from services.billing.adapters.memory.organizations import MemoryOrganizations
from services.billing.adapters.memory.reports import MemoryReports
from services.billing.adapters.memory.stripe import MemoryCustomersAtStripe, MemoryStripe
from services.billing.adapters.memory.stripe_records import MemoryRecordsAtStripe
from services.billing.adapters.memory.usage import MemoryUsage
from services.billing.application.apply_repairs import ApplyRepairs
from services.billing.application.close_billing_period import CloseBillingPeriod
from services.billing.application.compare_organization import CompareOrganization
from services.billing.application.find_plan import FindPlan
from services.billing.application.follow_payment import FollowPayment
from services.billing.application.make_cut import MakeCut
from services.billing.application.reconcile_billing import ReconcileBilling
from services.billing.application.subscription_in_force import SubscriptionInForce
from services.billing.domain.reconciliation import TheirCharge, TheirRecord
from services.billing.rpc.reconciliation_servicer import ReconciliationServicer
from tests.unit.billing.plans import METERS
from tollbook.billing.v1 import reconciliation_pb2 as pb
from tollbook.billing.v1 import reconciliation_pb2_grpc

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
DAY = timedelta(days=1)
ADMIN, TENANT = "tb_admin_1", "tb_live_acme"
KEYS = {
    TENANT: Principal(CallerKind.TENANT, "key-1", "acme", TENANT_SCOPES),
    ADMIN: Principal(CallerKind.ADMIN, "admin"),
}


@dataclass
class World:
    """What a test moves, and the way to billing."""

    address: str
    stub: reconciliation_pb2_grpc.ReconciliationServiceAsyncStub
    clock: FakeClock
    records: MemoryRecordsAtStripe

    def charge_for_nothing(self) -> None:
        """Money is taken of acme for no invoice, a day ago."""
        charge = TheirCharge(
            stripe_charge_id="ch_1",
            stripe_invoice_id="",
            amount=Money(700, "USD"),
            refunds=(),
            create_time=self.clock.now() - DAY,
        )
        self.records.owners["cus_1"] = "acme"
        self.records.by_customer["cus_1"] = TheirRecord(is_customer_there=True, invoices=(), charges=(charge,))


def as_caller(secret: str) -> tuple[tuple[str, str]]:
    return (("authorization", f"Bearer {secret}"),)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    clock, books, usage = FakeClock(NOW), MemoryBooks(), MemoryUsage(*METERS.values())
    plans, records, reports = MemoryPlans(), MemoryRecordsAtStripe(), MemoryReports(books)
    in_force = SubscriptionInForce(books, plans, MemoryOrganizations({"acme": NOW - 60 * DAY}), clock)
    make_cut = MakeCut(books, FindPlan(books, plans), usage, clock)
    compare = CompareOrganization(books, records, usage, make_cut, clock)

    async def exists(organization_id: str) -> bool:
        return organization_id == "acme"

    servicer = ReconciliationServicer(
        reports=reports,
        books=books,
        reconcile_billing=ReconcileBilling(reports, books, records, compare, clock),
        apply_repairs=ApplyRepairs(
            reports=reports,
            books=books,
            records=records,
            compare=compare,
            collector=MemoryStripe(),
            customers=MemoryCustomersAtStripe(),
            follow_payment=FollowPayment(clock),
            close_billing_period=CloseBillingPeriod(books, in_force, make_cut, clock),
            clock=clock,
        ),
        exists=exists,
    )

    async def prepare() -> None:
        return None

    application = Application(authenticator=Authenticator(KnownKeys(KEYS), {}), servicers=[servicer], prepare=prepare)
    async with serving_at(application) as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = reconciliation_pb2_grpc.ReconciliationServiceStub(channel)
        yield World(f"127.0.0.1:{port}", stub, clock, records)


async def test_a_report_says_what_differs_and_its_repair_and_is_read_again_as_it_was(world: World) -> None:
    world.charge_for_nothing()
    made = (await world.stub.Reconcile(pb.ReconcileRequest(), metadata=as_caller(ADMIN))).report
    (found,) = made.differences
    assert (made.organization_count, made.difference_count, made.pending_count) == (1, 1, 0)
    assert (found.kind, found.repair) == (pb.DRIFT_KIND_PAYMENT_EXTRA, pb.REPAIR_REFUND_AT_STRIPE)
    assert (found.organization_id, found.stripe_id) == ("acme", "ch_1")
    assert (found.their_amount, found.their_currency_code, found.our_amount) == ("7.00", "USD", "")
    wanted = pb.GetReconciliationReportRequest(report_id=made.report_id)
    assert (await world.stub.GetReconciliationReport(wanted, metadata=as_caller(ADMIN))).report == made


async def test_reports_are_listed_newest_first_by_pages(world: World) -> None:
    made: list[str] = []
    for _ in range(3):
        made.append((await world.stub.Reconcile(pb.ReconcileRequest(), metadata=as_caller(ADMIN))).report.report_id)
        world.clock.advance(DAY)
    token, listed = "", list[str]()
    while True:
        wanted = pb.ListReconciliationReportsRequest(page_size=2, page_token=token)
        page = await world.stub.ListReconciliationReports(wanted, metadata=as_caller(ADMIN))
        listed += [each.report_id for each in page.reports]
        token = page.next_page_token
        if not token:
            break
    assert listed == made[::-1]


@pytest.mark.parametrize(
    "request_of",
    [
        pb.ReconcileRequest(),
        pb.ListReconciliationReportsRequest(),
        pb.GetReconciliationReportRequest(report_id="rec_1"),
        pb.ApplyRepairsRequest(request_id="r", report_id="rec_1"),
    ],
    ids=lambda each: type(each).__name__,
)
async def test_reconciling_is_the_operators(world: World, request_of: Message) -> None:
    method = getattr(world.stub, type(request_of).__name__.removesuffix("Request"))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await method(request_of, metadata=as_caller(TENANT))
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (pb.ApplyRepairsRequest(report_id="rec_1"), grpc.StatusCode.INVALID_ARGUMENT),
        (pb.ApplyRepairsRequest(request_id="r", report_id="rec_none"), grpc.StatusCode.NOT_FOUND),
        (pb.ApplyRepairsRequest(request_id="r", kinds=[pb.DRIFT_KIND_UNSPECIFIED]), grpc.StatusCode.INVALID_ARGUMENT),
        (pb.ApplyRepairsRequest(request_id="r", difference_ids=["d"] * 1_001), grpc.StatusCode.INVALID_ARGUMENT),
        (pb.ReconcileRequest(organization_ids=["nobody"]), grpc.StatusCode.NOT_FOUND),
        (pb.ListReconciliationReportsRequest(page_token="x"), grpc.StatusCode.INVALID_ARGUMENT),
    ],
    ids=["no_request_id", "no_report", "no_kind", "too_many", "nobody", "token"],
)
async def test_what_cannot_be_meant_is_refused(world: World, bad: Message, code: grpc.StatusCode) -> None:
    method = getattr(world.stub, type(bad).__name__.removesuffix("Request"))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await method(bad, metadata=as_caller(ADMIN))
    assert refused.value.code() is code


async def test_without_stripe_it_is_unavailable(world: World) -> None:
    world.records.is_away = True
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await world.stub.Reconcile(pb.ReconcileRequest(), metadata=as_caller(ADMIN))
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_the_command_repairs_what_it_is_told_and_nothing_else(world: World) -> None:
    world.charge_for_nothing()

    async def run(report_id: str, *chosen: str) -> pb.ReconciliationReport:
        return await reconcile(report_id=report_id, chosen=chosen, billing_address=world.address, admin_key=ADMIN)

    looked = await run("")
    assert world.records.refunded == {}
    (found,) = looked.differences
    (other,) = (await run(looked.report_id, "INVOICE_MISSING")).differences
    assert (other.outcome, world.records.refunded) == ("", {})
    (repaired,) = (await run(looked.report_id, found.difference_id)).differences
    assert (repaired.outcome, world.records.refunded) == ("repaired", {"ch_1": 700})
    told = "\n".join(report_lines(await run(looked.report_id)))
    assert "PAYMENT_EXTRA  acme  ch_1" in told
    assert "REFUND_AT_STRIPE -> repaired" in told
    with pytest.raises(CallFailed, match="not in the report"):
        await run(looked.report_id, "NO_SUCH_KIND")
