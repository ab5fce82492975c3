"""The billing service as the process that is deployed, between an accounts and a metering that keep just enough."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest

from cli.suite.parts import Program, ProgramSpec, grpc_probe
from kit.grpc.context import ServicerContext
from kit.grpc.errors import reason_of
from kit.postgres.embedded import EmbeddedPostgres
from kit.process import ChildProcess
from kit.testing.stores import free_port
from services.billing.adapters.postgres_books.books import PostgresBooks
from services.billing.domain.profile import BillingProfile, Party
from tests.integration.billing_database import BillingDatabase, billing_database
from tests.papers import text_of_pdf
from tests.smtp_sink import TAKEN, SmtpSink, smtp_sink
from tollbook.accounts.v1 import accounts_pb2, identity_pb2
from tollbook.billing.v1 import (
    billing_pb2,
    billing_pb2_grpc,
    catalog_pb2,
    catalog_pb2_grpc,
    stripe_webhook_pb2,
    stripe_webhook_pb2_grpc,
)
from tollbook.metering.v1 import metering_pb2

ADMIN_KEY = "tb_admin_of_tests"
SERVICE_KEY = "tb_service_" + "b" * 40
COMMAND = (sys.executable, "-m", "services.billing")
START_SECONDS = 60
REFUSED_TO_START, BAD_SETTINGS = 3, 2


async def verify_api_key(
    request: identity_pb2.VerifyApiKeyRequest, _: ServicerContext
) -> identity_pb2.VerifyApiKeyResponse:
    """Knows one key, the admin's."""
    if request.key_sha256 != hashlib.sha256(ADMIN_KEY.encode()).digest():
        return identity_pb2.VerifyApiKeyResponse()
    admin = identity_pb2.Principal(kind=identity_pb2.PRINCIPAL_KIND_ADMIN, api_key_id="admin")
    return identity_pb2.VerifyApiKeyResponse(principal=admin)


async def get_organization(
    request: accounts_pb2.GetOrganizationRequest, context: ServicerContext
) -> accounts_pb2.GetOrganizationResponse:
    """Knows every organization but `nobody`."""
    if request.organization_id == "nobody":
        await context.abort(grpc.StatusCode.NOT_FOUND, "nobody")
    organization = accounts_pb2.Organization(organization_id=request.organization_id)
    organization.create_time.FromDatetime(datetime.now(UTC) - timedelta(days=3))
    return accounts_pb2.GetOrganizationResponse(organization=organization)


async def list_meters(_: metering_pb2.ListMetersRequest, __: ServicerContext) -> metering_pb2.ListMetersResponse:
    """Knows one meter."""
    minutes = metering_pb2.Meter(
        name="agent_minutes", base_unit="millisecond", display_unit="minute", base_units_per_display_unit=60_000
    )
    return metering_pb2.ListMetersResponse(meters=[minutes])


async def query_usage(
    request: metering_pb2.QueryUsageRequest, context: ServicerContext
) -> metering_pb2.QueryUsageResponse:
    """Everybody used 1 100 minutes, and so much of another meter that its total cannot be told."""
    if not request.meters and request.start_time != request.end_time:
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "a total is beyond what can be told")
    rows = [metering_pb2.UsageRow(meter=meter, quantity=1_100 * 60_000) for meter in request.meters]
    return metering_pb2.QueryUsageResponse(rows=rows, as_of_sequence=5)


PEERS: dict[str, dict[str, tuple[Callable[[Any, ServicerContext], Awaitable[Any]], type[Any]]]] = {
    "tollbook.accounts.v1.IdentityFeedService": {
        "VerifyApiKey": (verify_api_key, identity_pb2.VerifyApiKeyRequest),
    },
    "tollbook.accounts.v1.AccountsService": {
        "GetOrganization": (get_organization, accounts_pb2.GetOrganizationRequest),
    },
    "tollbook.metering.v1.MeteringService": {
        "ListMeters": (list_meters, metering_pb2.ListMetersRequest),
        "QueryUsage": (query_usage, metering_pb2.QueryUsageRequest),
    },
}


@pytest.fixture
async def peers() -> AsyncIterator[str]:
    server = grpc.aio.server()
    for service, methods in PEERS.items():
        handlers: dict[str, Any] = {
            name: grpc.unary_unary_rpc_method_handler(
                behaviour,
                request_deserializer=request_type.FromString,
                response_serializer=lambda message: message.SerializeToString(),
            )
            for name, (behaviour, request_type) in methods.items()
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(1)


@pytest.fixture
async def database(postgres: EmbeddedPostgres) -> AsyncIterator[BillingDatabase]:
    async with billing_database(postgres.url) as fresh:
        yield fresh


@pytest.fixture
def environment(database: BillingDatabase, peers: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "TOLLBOOK_LISTEN_ADDRESS": f"127.0.0.1:{free_port()}",
        "TOLLBOOK_METRICS_ADDRESS": f"127.0.0.1:{free_port()}",
        "TOLLBOOK_SERVICE_KEY": SERVICE_KEY,
        "TOLLBOOK_SERVICE_KEY_HASHES": json.dumps({"billing": hashlib.sha256(SERVICE_KEY.encode()).hexdigest()}),
        "TOLLBOOK_POSTGRES_TENANT_URL": database.tenant_url,
        "TOLLBOOK_POSTGRES_FLEET_URL": database.fleet_url,
        "TOLLBOOK_METERING_ADDRESS": peers,
        "TOLLBOOK_ACCOUNTS_ADDRESS": peers,
        "STRIPE_API_KEY": "sk_test_nobody",
        "STRIPE_API_BASE": f"http://127.0.0.1:{free_port()}",
        "STRIPE_WEBHOOK_SECRET": "",
    }


def billing(environment: dict[str, str], folder: Path) -> ChildProcess:
    return ChildProcess(COMMAND, environment=environment, log_path=folder / "billing.log")


@asynccontextmanager
async def running(environment: dict[str, str], folder: Path) -> AsyncIterator[grpc.aio.Channel]:
    """The service until the block ends; then it is stopped, and goes as it should."""
    address = environment["TOLLBOOK_LISTEN_ADDRESS"]
    spec = ProgramSpec(
        name="billing",
        command=COMMAND,
        environment=environment,
        working_folder=Path.cwd(),
        probe=grpc_probe(address),
    )
    program = Program(spec, log_path=folder / "billing.log")
    await program.start()
    try:
        async with asyncio.timeout(START_SECONDS):
            await program.wait_ready()
        async with grpc.aio.insecure_channel(address) as channel:
            yield channel
    finally:
        await program.stop(20)
    assert await program.wait() == 0


@pytest.fixture
async def channel(environment: dict[str, str], tmp_path: Path) -> AsyncIterator[grpc.aio.Channel]:
    async with running(environment, tmp_path) as channel:
        yield channel


def as_admin() -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {ADMIN_KEY}"),)


def catalog() -> catalog_pb2.ApplyCatalogRequest:
    minutes = catalog_pb2.PlanMeter(
        meter="agent_minutes",
        limit_kind=catalog_pb2.PLAN_LIMIT_KIND_PERIOD,
        limit_quantity=60_000_000,
        included_quantity=60_000_000,
    )
    free = catalog_pb2.Plan(plan_id="free", display_name="Free", monthly_price="0.00", currency_code="USD")
    starter = catalog_pb2.Plan(plan_id="starter", display_name="Starter", monthly_price="49.00", currency_code="USD")
    for plan in (free, starter):
        plan.meters.append(minutes)
    starter.meters[0].overage_unit_price = "0.05"
    return catalog_pb2.ApplyCatalogRequest(request_id="catalog", plans=[free, starter])


async def test_the_service_sells_closes_and_answers_while_stripe_is_away(
    channel: grpc.aio.Channel, database: BillingDatabase
) -> None:
    plans = catalog_pb2_grpc.CatalogServiceStub(channel)
    stub = billing_pb2_grpc.BillingServiceStub(channel)
    applied = await plans.ApplyCatalog(catalog(), metadata=as_admin())
    assert list(applied.changed_plan_ids) == ["free", "starter"]

    wanted = billing_pb2.Subscription(organization_id="acme", plan_id="starter")
    selling = billing_pb2.CreateSubscriptionRequest(request_id="sell", subscription=wanted)
    await stub.CreateSubscription(selling, metadata=as_admin())
    closing = billing_pb2.CloseBillingPeriodRequest(request_id="close", organization_id="acme")
    invoice = (await stub.CloseBillingPeriod(closing, metadata=as_admin())).invoice
    assert (invoice.total, invoice.number, invoice.closed_through_sequence) == ("54.00", "TB-000001", 5)
    asking = billing_pb2.GetInvoiceRequest(organization_id="acme", invoice_id=invoice.invoice_id)
    assert (await stub.GetInvoice(asking, metadata=as_admin())).invoice == invoice
    with psycopg.connect(database.owner_url) as owner:
        assert owner.execute("SELECT parked_reason FROM billing.due_invoices").fetchall() == [("",)]

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.GetSubscription(billing_pb2.GetSubscriptionRequest(organization_id="nobody"), metadata=as_admin())
    assert reason_of(refused.value) == "ORGANIZATION_NOT_FOUND"

    webhook = stripe_webhook_pb2_grpc.StripeWebhookServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await webhook.HandleStripeEvent(stripe_webhook_pb2.HandleStripeEventRequest(payload=b"{}", signature="t=1"))
    assert reason_of(refused.value) == "WEBHOOK_DISABLED"


async def test_the_service_makes_by_itself_the_cuts_whose_time_has_come(
    channel: grpc.aio.Channel, database: BillingDatabase
) -> None:
    stub = billing_pb2_grpc.BillingServiceStub(channel)
    await catalog_pb2_grpc.CatalogServiceStub(channel).ApplyCatalog(catalog(), metadata=as_admin())
    wanted = billing_pb2.Subscription(organization_id="acme", plan_id="starter")
    selling = billing_pb2.CreateSubscriptionRequest(request_id="sell", subscription=wanted)
    await stub.CreateSubscription(selling, metadata=as_admin())
    with psycopg.connect(database.owner_url) as owner:
        # Half an hour has passed since.
        owner.execute("UPDATE billing.subscriptions SET opening_time = now()")
        owner.execute("UPDATE billing.due_closes SET next_attempt_time = now()")
    listing = billing_pb2.ListInvoicesRequest(organization_id="acme")
    async with asyncio.timeout(START_SECONDS):
        # Another process makes it: nothing here can be waited for but its answer.
        while not (found := (await stub.ListInvoices(listing, metadata=as_admin())).invoices):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert [(each.total, each.cut) for each in found] == [("49.00", billing_pb2.INVOICE_CUT_OPENING)]
    with psycopg.connect(database.owner_url) as owner:
        (waiting,) = owner.execute("SELECT next_attempt_time > now() + interval '27 days' FROM billing.due_closes")
    assert waiting == (True,)


@pytest.mark.parametrize("variable", ["TOLLBOOK_POSTGRES_TENANT_URL", "TOLLBOOK_POSTGRES_FLEET_URL"])
async def test_a_service_whose_role_could_see_everything_does_not_start(
    variable: str, environment: dict[str, str], database: BillingDatabase, tmp_path: Path
) -> None:
    process = billing(environment | {variable: database.owner_url}, tmp_path)
    await process.start()
    assert await process.wait() == REFUSED_TO_START
    assert "refused_to_start" in process.log_tail()


async def test_a_service_without_a_key_to_stripe_names_the_variable(
    environment: dict[str, str], tmp_path: Path
) -> None:
    process = billing(environment | {"STRIPE_API_KEY": ""}, tmp_path)
    await process.start()
    assert await process.wait() == BAD_SETTINGS
    assert "bad setting STRIPE_API_KEY" in process.log_tail()


# --- mails

PATIENCE_SECONDS = 60


@pytest.fixture
async def sink() -> AsyncIterator[SmtpSink]:
    async with smtp_sink() as running_sink:
        yield running_sink


@pytest.fixture
def mailing(environment: dict[str, str], sink: SmtpSink) -> dict[str, str]:
    return environment | {"TOLLBOOK_SMTP_URL": sink.url, "TOLLBOOK_MAIL_FROM": "Tollbook <billing@tollbook.example>"}


async def bill(channel: grpc.aio.Channel, database: BillingDatabase, organization_id: str) -> billing_pb2.Invoice:
    """Sells a plan to a customer who has an address, and closes its first period."""
    async with PostgresBooks(database.tenant).open(organization_id) as book:
        party = Party(legal_name="Acme GmbH", mail=f"{organization_id}@customers.example")
        profile = BillingProfile(update_time=datetime.now(UTC), party=party)
        await book.profile.set(profile, actor="tests", request_id="profile")
    stub = billing_pb2_grpc.BillingServiceStub(channel)
    wanted = billing_pb2.Subscription(organization_id=organization_id, plan_id="starter")
    selling = billing_pb2.CreateSubscriptionRequest(request_id="sell", subscription=wanted)
    await stub.CreateSubscription(selling, metadata=as_admin())
    closing = billing_pb2.CloseBillingPeriodRequest(request_id="close", organization_id=organization_id)
    invoice: billing_pb2.Invoice = (await stub.CloseBillingPeriod(closing, metadata=as_admin())).invoice
    return invoice


async def apply_catalog(channel: grpc.aio.Channel) -> None:
    await catalog_pb2_grpc.CatalogServiceStub(channel).ApplyCatalog(catalog(), metadata=as_admin())


def outbox(database: BillingDatabase) -> list[tuple[str, int]]:
    """What became of each mail, and the attempts at those that are still to be sent."""
    with psycopg.connect(database.owner_url) as owner:
        return owner.execute(
            "SELECT outcome, coalesce(attempt_count, 0) FROM billing.mail_outbox"
            " LEFT JOIN billing.due_mails USING (organization_id, mail_id)"
        ).fetchall()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - what is waited for is in other processes
            await asyncio.sleep(0.05)


async def test_an_invoice_that_is_closed_comes_by_mail_with_its_pdf(
    mailing: dict[str, str], database: BillingDatabase, sink: SmtpSink, tmp_path: Path
) -> None:
    async with running(mailing, tmp_path) as channel:
        await apply_catalog(channel)
        invoice = await bill(channel, database, "acme")
        await until(lambda: outbox(database) == [("SENT", 0)])
    [message] = sink.taken
    assert (message["To"], message["From"]) == ("acme@customers.example", "Tollbook <billing@tollbook.example>")
    assert message["Subject"] == f"Invoice {invoice.number} from Tollbook: USD 54.00"
    [paper] = message.iter_attachments()
    assert (paper.get_filename(), paper.get_content_type()) == (f"{invoice.number}.pdf", "application/pdf")
    words = text_of_pdf(paper.get_content())
    assert all(word in words for word in (invoice.number, "Acme GmbH", "54.00"))


async def test_a_mail_server_that_fails_gets_the_mail_once_when_it_has_recovered(
    mailing: dict[str, str], database: BillingDatabase, sink: SmtpSink, tmp_path: Path
) -> None:
    sink.to_recipient = "451 later"
    async with running(mailing, tmp_path) as channel:
        await apply_catalog(channel)
        await bill(channel, database, "acme")
        await until(lambda: outbox(database)[0][1] > 1)
        assert sink.taken == []
        sink.to_recipient = TAKEN
        await until(lambda: outbox(database) == [("SENT", 0)])
    assert len(sink.taken) == 1


async def test_a_mail_whose_sending_broke_off_comes_again_as_the_same_mail(
    mailing: dict[str, str], database: BillingDatabase, sink: SmtpSink, tmp_path: Path
) -> None:
    sink.drops_after_data = True
    async with running(mailing, tmp_path) as channel:
        await apply_catalog(channel)
        await bill(channel, database, "acme")
        await until(lambda: bool(sink.taken))
        sink.drops_after_data = False
        await until(lambda: outbox(database) == [("SENT", 0)])
    assert len({message["Message-ID"] for message in sink.taken}) == 1
    assert len({message["Subject"] for message in sink.taken}) == 1


async def test_two_processes_send_each_mail_once(
    mailing: dict[str, str], database: BillingDatabase, sink: SmtpSink, tmp_path: Path
) -> None:
    other = mailing | {
        "TOLLBOOK_LISTEN_ADDRESS": f"127.0.0.1:{free_port()}",
        "TOLLBOOK_METRICS_ADDRESS": f"127.0.0.1:{free_port()}",
    }
    (tmp_path / "other").mkdir()
    customers = [f"customer-{number}" for number in range(5)]
    async with running(mailing, tmp_path) as one, running(other, tmp_path / "other") as two:
        await apply_catalog(one)
        for number, customer in enumerate(customers):
            await bill((one, two)[number % 2], database, customer)
        await until(lambda: outbox(database) == [("SENT", 0)] * len(customers))
    assert sorted(message["To"] for message in sink.taken) == [f"{each}@customers.example" for each in customers]


async def test_without_a_mail_server_no_mail_waits_for_one(
    channel: grpc.aio.Channel, database: BillingDatabase
) -> None:
    await apply_catalog(channel)
    await bill(channel, database, "acme")
    await until(lambda: outbox(database) == [("SKIPPED", 0)])


@pytest.mark.parametrize(
    ("settings", "variable"),
    [
        ({"TOLLBOOK_SMTP_URL": "mail.example:hunter2", "TOLLBOOK_MAIL_FROM": "a@b.example"}, "TOLLBOOK_SMTP_URL"),
        ({"TOLLBOOK_SMTP_URL": "smtp://mail.example"}, "TOLLBOOK_MAIL_FROM"),
        ({"TOLLBOOK_MAIL_FROM": "Acme hunter2"}, "TOLLBOOK_MAIL_FROM"),
    ],
)
async def test_a_service_that_could_send_no_mail_as_it_is_set_names_the_variable(
    environment: dict[str, str], tmp_path: Path, settings: dict[str, str], variable: str
) -> None:
    process = billing(environment | settings, tmp_path)
    await process.start()
    assert await process.wait() == BAD_SETTINGS
    assert f"bad setting {variable}" in process.log_tail()
    assert "hunter2" not in process.log_tail()
