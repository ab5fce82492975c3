"""Billing over gRPC, on its shipped fakes."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.api.httpbody_pb2 import HttpBody
from google.protobuf import timestamp_pb2

from cli.catalog import plans_to_pb, read_catalog
from kit.errors import DependencyUnavailable
from kit.grpc.access import TENANT_SCOPES
from kit.grpc.call import CallerKind, Principal
from kit.grpc.errors import reason_of
from kit.grpc.identity import Authenticator
from kit.grpc.server import Application
from kit.head_watch import HeadWatch
from kit.money import Money
from kit.testing.clock import FakeClock
from kit.testing.servers import KnownKeys, serving
from services.billing.adapters.memory.books import MemoryBooks
from services.billing.adapters.memory.catalog import MemoryPlans
from services.billing.adapters.memory.collection_list import MemoryCollectionList
from services.billing.adapters.memory.operators import MemoryLegalEntities
from services.billing.adapters.memory.organizations import MemoryOrganizations
from services.billing.adapters.memory.stripe import (
    MemoryCheckoutsAtStripe,
    MemoryCustomersAtStripe,
    MemoryStripe,
)
from services.billing.adapters.memory.stripe_events import MemoryStripeInbox
from services.billing.adapters.memory.usage import MemoryUsage, Used
from services.billing.adapters.typst_papers.renderer import TypstPapers
from services.billing.application.act_on_subscription import ActOnSubscription
from services.billing.application.apply_catalog import ApplyCatalog
from services.billing.application.begin_checkout import BeginCheckout
from services.billing.application.buy_credits import BuyCredits
from services.billing.application.cancel_subscription import CancelSubscription
from services.billing.application.change_plan import ChangePlan
from services.billing.application.close_billing_period import CloseBillingPeriod
from services.billing.application.create_subscription import CreateSubscription
from services.billing.application.diff_catalog import DiffCatalog
from services.billing.application.find_plan import FindPlan
from services.billing.application.find_wanted_plan import FindWantedPlan
from services.billing.application.follow_payment import FollowPayment
from services.billing.application.get_subscription_usage import GetSubscriptionUsage
from services.billing.application.list_entitlements import ListEntitlements
from services.billing.application.make_cut import MakeCut
from services.billing.application.open_portal import OpenPortal
from services.billing.application.pause_subscription import PauseSubscription
from services.billing.application.ports.usage import UsageTotals
from services.billing.application.preview_invoice import PreviewInvoice
from services.billing.application.print_papers import PrintPapers
from services.billing.application.read_entitlements import ReadEntitlements
from services.billing.application.resume_subscription import ResumeSubscription
from services.billing.application.settle_invoice import SettleInvoice
from services.billing.application.store_stripe_event import StoreStripeEvent
from services.billing.application.subscription_in_force import SubscriptionInForce
from services.billing.domain.periods import Period
from services.billing.rpc.billing_servicer import BillingServicer
from services.billing.rpc.catalog_servicer import CatalogServicer
from services.billing.rpc.entitlement_servicer import EntitlementServicer
from services.billing.rpc.payment_servicer import PaymentServicer
from services.billing.rpc.stripe_webhook_servicer import StripeWebhookServicer
from tests.papers import text_of_pdf
from tests.unit.billing.plans import METERS, MINUTE
from tollbook.billing.v1 import (
    billing_pb2,
    billing_pb2_grpc,
    catalog_pb2,
    catalog_pb2_grpc,
    entitlements_pb2,
    entitlements_pb2_grpc,
    payments_pb2,
    payments_pb2_grpc,
    stripe_webhook_pb2,
    stripe_webhook_pb2_grpc,
)
from tollbook.feed.v1 import feed_pb2

EXAMPLE = Path(__file__).resolve().parents[2] / "deploy" / "examples" / "plans-all-prices.yaml"
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
ACME_MADE = datetime(2026, 10, 31, 9, tzinfo=UTC)
KEYS = {
    "tb_live_acme": Principal(CallerKind.TENANT, "key-1", "acme", TENANT_SCOPES),
    "tb_live_globex": Principal(CallerKind.TENANT, "key-2", "globex", TENANT_SCOPES),
    "tb_admin_1": Principal(CallerKind.ADMIN, "admin"),
}
ADMIN, ACME, GLOBEX, QUOTA = "tb_admin_1", "tb_live_acme", "tb_live_globex", "tb_service_quota"
SECRET = "whsec_tests"
HOSTS = frozenset({"app.example.com"})


class MeteringThatMayBeDown(MemoryUsage):
    """Usage that cannot be asked when it is told so."""

    is_down = False

    async def totals(
        self, organization_id: str, period: Period, meters: Collection[str], *, as_of_sequence: int | None = None
    ) -> UsageTotals:
        if self.is_down:
            raise DependencyUnavailable(dependency="metering")
        return await super().totals(organization_id, period, meters, as_of_sequence=as_of_sequence)


@dataclass
class World:
    """What a test moves, and the channel to billing."""

    channel: grpc.aio.Channel
    clock: FakeClock
    usage: MeteringThatMayBeDown
    books: MemoryBooks
    webhook_secrets: list[str]
    ids: int = field(default=0)

    def request_id(self) -> str:
        self.ids += 1
        return f"request-{self.ids}"

    @property
    def billing(self) -> billing_pb2_grpc.BillingServiceAsyncStub:
        return billing_pb2_grpc.BillingServiceStub(self.channel)

    async def subscribe(
        self, plan_id: str = "starter", *, request_id: str = "", start: datetime | None = None
    ) -> billing_pb2.Subscription:
        wanted = billing_pb2.Subscription(organization_id="acme", plan_id=plan_id)
        if start is not None:
            wanted.start_time.FromDatetime(start)
        request = billing_pb2.CreateSubscriptionRequest(request_id=request_id or self.request_id(), subscription=wanted)
        return (await self.billing.CreateSubscription(request, metadata=key(ADMIN))).subscription

    async def subscription(self, secret: str = ACME, organization_id: str = "") -> billing_pb2.Subscription:
        request = billing_pb2.GetSubscriptionRequest(organization_id=organization_id)
        return (await self.billing.GetSubscription(request, metadata=key(secret))).subscription

    async def close(self, *, request_id: str = "", organization_id: str = "acme") -> billing_pb2.Invoice:
        request = billing_pb2.CloseBillingPeriodRequest(
            request_id=request_id or self.request_id(), organization_id=organization_id
        )
        return (await self.billing.CloseBillingPeriod(request, metadata=key(ADMIN))).invoice

    async def preview(self) -> billing_pb2.Invoice:
        answer = await self.billing.PreviewInvoice(billing_pb2.PreviewInvoiceRequest(), metadata=key(ACME))
        return answer.invoice

    async def invoices(self, *, page_size: int = 0, page_token: str = "") -> billing_pb2.ListInvoicesResponse:
        request = billing_pb2.ListInvoicesRequest(page_size=page_size, page_token=page_token)
        return await self.billing.ListInvoices(request, metadata=key(ACME))

    async def invoice(self, invoice_id: str, secret: str = ACME) -> billing_pb2.Invoice:
        request = billing_pb2.GetInvoiceRequest(invoice_id=invoice_id)
        return (await self.billing.GetInvoice(request, metadata=key(secret))).invoice

    async def pdf(self, invoice_id: str, secret: str = ACME) -> HttpBody:
        request = billing_pb2.GetInvoicePdfRequest(invoice_id=invoice_id)
        return await self.billing.GetInvoicePdf(request, metadata=key(secret))

    async def apply(self, *plans: catalog_pb2.Plan, request_id: str = "") -> catalog_pb2.ApplyCatalogResponse:
        request = catalog_pb2.ApplyCatalogRequest(request_id=request_id or self.request_id(), plans=plans)
        return await catalog_pb2_grpc.CatalogServiceStub(self.channel).ApplyCatalog(request, metadata=key(ADMIN))

    async def entitlements(self, after: feed_pb2.Position | None = None) -> entitlements_pb2.ReadEntitlementsResponse:
        stub = entitlements_pb2_grpc.EntitlementFeedServiceStub(self.channel)
        request = entitlements_pb2.ReadEntitlementsRequest(organization_id="acme", after=after)
        return await stub.ReadEntitlements(request, metadata=key(QUOTA))

    async def webhook(self, payload: bytes, signature: str) -> None:
        stub = stripe_webhook_pb2_grpc.StripeWebhookServiceStub(self.channel)
        await stub.HandleStripeEvent(stripe_webhook_pb2.HandleStripeEventRequest(payload=payload, signature=signature))


@pytest.fixture
async def unstocked() -> AsyncIterator[World]:
    clock, books, plans = FakeClock(NOW), MemoryBooks(), MemoryPlans()
    usage = MeteringThatMayBeDown(*METERS.values())
    organizations = MemoryOrganizations({"acme": ACME_MADE, "globex": NOW})
    in_force = SubscriptionInForce(books, plans, organizations, clock)
    make_cut = MakeCut(books, FindPlan(books, plans), usage, clock)
    find_plan, find_wanted_plan = FindPlan(books, plans), FindWantedPlan(plans, usage)
    act = ActOnSubscription(books, plans, in_force, clock)
    webhook_secrets = [SECRET]

    async def exists(organization_id: str) -> bool:
        return organization_id in ("acme", "globex")

    async def prepare() -> None:
        return None

    application = Application(
        authenticator=Authenticator(KnownKeys(KEYS), {"quota": hashlib.sha256(QUOTA.encode()).hexdigest()}),
        servicers=[
            CatalogServicer(
                plans=plans, diff_catalog=DiffCatalog(plans, usage), apply_catalog=ApplyCatalog(plans, usage)
            ),
            BillingServicer(
                books=books,
                subscription_in_force=in_force,
                create_subscription=CreateSubscription(books, find_wanted_plan, in_force, clock),
                change_plan=ChangePlan(find_wanted_plan, act),
                cancel_subscription=CancelSubscription(act),
                pause_subscription=PauseSubscription(act),
                resume_subscription=ResumeSubscription(act),
                get_subscription_usage=GetSubscriptionUsage(books, find_plan, usage, in_force, clock),
                list_entitlements=ListEntitlements(find_plan, in_force),
                preview_invoice=PreviewInvoice(books, in_force, make_cut),
                close_billing_period=CloseBillingPeriod(books, in_force, make_cut, clock),
                begin_checkout=BeginCheckout(
                    books=books,
                    find_wanted_plan=find_wanted_plan,
                    subscription_in_force=in_force,
                    customers=MemoryCustomersAtStripe(),
                    checkouts=MemoryCheckoutsAtStripe(),
                    hosts=HOSTS,
                    clock=clock,
                ),
                open_portal=OpenPortal(
                    books=books,
                    subscription_in_force=in_force,
                    customers=MemoryCustomersAtStripe(),
                    checkouts=MemoryCheckoutsAtStripe(),
                    hosts=HOSTS,
                    clock=clock,
                ),
                print_papers=PrintPapers(
                    books=books,
                    entities=MemoryLegalEntities(books),
                    usage=usage,
                    preview_invoice=PreviewInvoice(books, in_force, make_cut),
                    papers=TypstPapers(),
                    clock=clock,
                ),
                exists=exists,
            ),
            PaymentServicer(
                books=books,
                settle_invoice=SettleInvoice(
                    books, MemoryCollectionList(books), MemoryStripe(), FollowPayment(clock), clock
                ),
                exists=exists,
            ),
            EntitlementServicer(
                heads=HeadWatch(books.heads), read_entitlements=ReadEntitlements(books, find_plan, in_force, clock)
            ),
            StripeWebhookServicer(
                store_stripe_event=StoreStripeEvent(MemoryStripeInbox(books), webhook_secrets, clock)
            ),
        ],
        prepare=prepare,
    )
    async with serving(application) as channel:
        yield World(channel, clock, usage, books, webhook_secrets)


@pytest.fixture
async def world(unstocked: World) -> World:
    await unstocked.apply(plan("free", "0.00", overage=""), plan("starter", "49.00"), plan("pro", "149.00"))
    return unstocked


def plan(plan_id: str, price: str, *, overage: str = "0.05") -> catalog_pb2.Plan:
    return catalog_pb2.Plan(
        plan_id=plan_id,
        display_name=plan_id.title(),
        monthly_price=price,
        currency_code="USD",
        meters=[
            catalog_pb2.PlanMeter(
                meter="agent_minutes",
                limit_kind=catalog_pb2.PLAN_LIMIT_KIND_PERIOD,
                limit_quantity=1_000 * MINUTE,
                grace_percent=10,
                included_quantity=1_000 * MINUTE,
                overage_unit_price=overage,
            ),
            catalog_pb2.PlanMeter(
                meter="concurrent_agents", limit_kind=catalog_pb2.PLAN_LIMIT_KIND_CONCURRENCY, limit_quantity=5
            ),
        ],
        features={"exports": plan_id != "free"},
    )


def key(secret: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {secret}"),)


async def refusal(call: Awaitable[object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), reason_of(caught.value)


# --- free, and subscriptions


async def test_an_organization_without_a_subscription_is_on_free_since_it_was_made(world: World) -> None:
    found = await world.subscription()
    assert (found.plan_id, found.status) == ("free", billing_pb2.SUBSCRIPTION_STATUS_ACTIVE)
    assert found.start_time.ToDatetime(tzinfo=UTC) == ACME_MADE
    assert found.period_start_time.ToDatetime(tzinfo=UTC) == ACME_MADE
    assert found.period_end_time.ToDatetime(tzinfo=UTC) == datetime(2026, 11, 30, 9, tzinfo=UTC)


async def test_whoever_asks_first_and_however_many_at_once_get_the_one_free_subscription(world: World) -> None:
    found = await asyncio.gather(*(world.subscription() for _ in range(5)), world.subscription(ADMIN, "acme"))
    assert len({each.subscription_id for each in found}) == 1
    assert (await world.entitlements()).entitlements[0].version == 1


async def test_before_the_first_catalog_there_is_no_free_to_be_on(unstocked: World) -> None:
    expected = (grpc.StatusCode.FAILED_PRECONDITION, "INVALID_STATE")
    assert await refusal(unstocked.subscription()) == expected


async def test_an_organization_that_does_not_exist_is_not_put_on_free(world: World) -> None:
    expected = (grpc.StatusCode.NOT_FOUND, "ORGANIZATION_NOT_FOUND")
    assert await refusal(world.subscription(ADMIN, "nobody")) == expected
    stub = entitlements_pb2_grpc.EntitlementFeedServiceStub(world.channel)
    request = entitlements_pb2.ReadEntitlementsRequest(organization_id="nobody")
    assert await refusal(stub.ReadEntitlements(request, metadata=key(QUOTA))) == expected


async def test_a_sold_plan_replaces_free_and_keeps_the_version_it_was_sold_at(world: World) -> None:
    made = await world.subscribe()
    assert (made.plan_id, made.plan_version) == ("starter", 1)
    assert made.period_start_time.ToDatetime(tzinfo=UTC) == NOW
    await world.apply(plan("free", "0", overage=""), plan("starter", "59.00"))
    assert await world.subscription() == made
    assert (await world.preview()).total == "49.00"


async def test_the_same_request_answers_the_subscription_it_made(world: World) -> None:
    made = await world.subscribe(request_id="r")
    assert await world.subscribe(request_id="r") == made
    aborted = (grpc.StatusCode.ABORTED, "REQUEST_ID_REUSED")
    assert await refusal(world.subscribe("pro", request_id="r")) == aborted
    assert await refusal(world.close(request_id="r")) == aborted


async def test_a_start_that_was_left_out_is_no_part_of_the_content_of_a_retry(world: World) -> None:
    made = await world.subscribe(request_id="r")
    world.clock.advance(timedelta(minutes=5))
    assert (await world.subscribe(request_id="r")).subscription_id == made.subscription_id


async def test_a_second_sale_is_refused_while_one_is_in_force(world: World) -> None:
    await world.subscribe()
    expected = (grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS")
    assert await refusal(world.subscribe("pro")) == expected


async def test_sales_at_once_make_one_subscription(world: World) -> None:
    outcomes = await asyncio.gather(*(world.subscribe() for _ in range(4)), return_exceptions=True)
    assert sum(isinstance(outcome, billing_pb2.Subscription) for outcome in outcomes) == 1


@pytest.mark.parametrize(
    ("start", "sound"),
    [
        (NOW, True),
        (NOW - timedelta(days=35), True),
        (NOW - timedelta(days=35, microseconds=1), False),
        (NOW + timedelta(microseconds=1), False),
    ],
    ids=["now", "35_days_back", "further_back", "ahead"],
)
async def test_a_subscription_starts_within_the_last_35_days(world: World, start: datetime, *, sound: bool) -> None:
    if sound:
        made = await world.subscribe(start=start)
        assert made.start_time.ToDatetime(tzinfo=UTC) == start
        assert made.period_start_time.ToDatetime(tzinfo=UTC) <= NOW < made.period_end_time.ToDatetime(tzinfo=UTC)
    else:
        assert await refusal(world.subscribe(start=start)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


async def test_a_plan_that_is_unknown_or_withdrawn_cannot_be_bought(world: World) -> None:
    assert await refusal(world.subscribe("gold")) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    assert await refusal(world.subscribe("")) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    await world.apply(plan("free", "0", overage=""))
    assert await refusal(world.subscribe()) == (grpc.StatusCode.FAILED_PRECONDITION, "INVALID_STATE")


@pytest.mark.parametrize("request_id", ["", "x" * 129, "a\nb"])
async def test_a_malformed_request_id_is_refused(world: World, request_id: str) -> None:
    wanted = billing_pb2.Subscription(organization_id="acme", plan_id="starter")
    request = billing_pb2.CreateSubscriptionRequest(request_id=request_id, subscription=wanted)
    call = world.billing.CreateSubscription(request, metadata=key(ADMIN))
    assert await refusal(call) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


async def test_only_the_operator_sells_and_closes(world: World) -> None:
    denied = (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")
    selling = billing_pb2.CreateSubscriptionRequest(request_id="r")
    closing = billing_pb2.CloseBillingPeriodRequest(request_id="r")
    assert await refusal(world.billing.CreateSubscription(selling, metadata=key(ACME))) == denied
    assert await refusal(world.billing.CloseBillingPeriod(closing, metadata=key(ACME))) == denied


# --- invoices


async def test_the_preview_is_what_closing_then_makes(world: World) -> None:
    await world.subscribe(start=NOW - timedelta(days=5))
    world.usage.used["acme"] = UsageTotals({"agent_minutes": 1_100 * MINUTE}, 17)
    preview, made = await world.preview(), await world.close()
    assert (preview.state, preview.invoice_id, preview.number) == (billing_pb2.INVOICE_STATE_DRAFT, "", "")
    assert not preview.HasField("finalize_time")
    assert (made.state, made.number, made.total) == (billing_pb2.INVOICE_STATE_FINALIZED, "TB-000001", "54.00")
    assert [(line.kind, line.amount) for line in made.lines] == [
        (billing_pb2.INVOICE_LINE_KIND_BASE_FEE, "49.00"),
        (billing_pb2.INVOICE_LINE_KIND_OVERAGE, "5.00"),
    ]
    overage = made.lines[1]
    assert (overage.used_quantity, overage.included_quantity, overage.charged_quantity, overage.unit_price) == (
        1_100 * MINUTE,
        1_000 * MINUTE,
        100 * MINUTE,
        "0.05",
    )
    assert made.closed_through_sequence == 17
    for field_name in ("lines", "total", "period_start_time", "period_end_time", "plan_id", "plan_version"):
        assert getattr(preview, field_name) == getattr(made, field_name)


async def test_an_invoice_on_paper_is_one_file_until_its_state_changes(world: World) -> None:
    await world.subscribe(start=NOW - timedelta(days=5))
    world.usage.used["acme"] = UsageTotals({"agent_minutes": 1_100 * MINUTE}, 17)
    preview, made = await world.pdf("preview"), await world.close()
    world.clock.advance(timedelta(days=3))
    first, again = await world.pdf(made.invoice_id), await world.pdf(made.invoice_id)
    assert (first.content_type, first.data) == ("application/pdf", again.data)
    said, said_before = text_of_pdf(first.data), text_of_pdf(preview.data)
    for each in (made.number, made.total, "acme", "100", "ledger events 1 to 17", "$0.05 per minute"):
        assert each in said
    assert "DRAFT" in said_before
    assert "DRAFT" not in said
    assert made.number not in said_before
    async with world.books.open("acme") as book:
        await book.invoices.set_paid(made.invoice_id, "in_1")
    assert "PAID" in text_of_pdf((await world.pdf(made.invoice_id)).data)


async def test_b32_the_list_the_invoice_and_its_paper_tell_one_total_and_it_is_the_sum_of_the_lines(
    world: World,
) -> None:
    await world.subscribe(start=NOW - timedelta(days=5))
    # A cent is 12 seconds: this is a fraction of one.
    world.usage.used["acme"] = UsageTotals({"agent_minutes": 1_100 * MINUTE + 7_001}, 17)
    made = await world.close()
    (listed,) = (await world.invoices()).invoices
    assert listed == await world.invoice(made.invoice_id) == made
    assert made.total == str(sum(Decimal(line.amount) for line in made.lines)) == "54.01"
    assert f"Total USD {made.total}" in text_of_pdf((await world.pdf(made.invoice_id)).data)


async def test_nobody_prints_an_invoice_of_another_organization(world: World) -> None:
    await world.subscribe()
    made = await world.close()
    missing = (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    assert await refusal(world.pdf(made.invoice_id, GLOBEX)) == missing
    assert await refusal(world.pdf("inv_unknown")) == missing


async def test_a_preview_leaves_nothing_behind(world: World) -> None:
    await world.subscribe()
    await world.preview()
    assert not (await world.invoices()).invoices


async def test_free_is_invoiced_over_nothing(world: World) -> None:
    world.usage.used["acme"] = UsageTotals({"agent_minutes": 10**9}, 3)
    made = await world.close()
    assert (made.total, [line.amount for line in made.lines]) == ("0.00", ["0.00"])
    assert await MemoryCollectionList(world.books).claim(now=NOW + timedelta(days=1), count=10) == []


async def test_closing_again_answers_the_one_invoice_whatever_the_request_id(world: World) -> None:
    await world.subscribe()
    made = await world.close(request_id="first")
    world.usage.used["acme"] = UsageTotals({"agent_minutes": 10**9}, 99)
    assert await world.close(request_id="first") == made
    assert await world.close(request_id="second") == made
    assert len((await world.invoices()).invoices) == 1


async def test_a_retry_after_the_periods_end_does_not_close_the_next_one(world: World) -> None:
    await world.subscribe()
    first = await world.close(request_id="first")
    await world.close(request_id="second")
    world.clock.advance(timedelta(days=40))
    assert await world.close(request_id="first") == first
    assert await world.close(request_id="second") == first
    assert (await world.close(request_id="third")).number == "TB-000002"


async def test_the_subscription_stays_in_its_period_after_an_early_close(world: World) -> None:
    before = await world.subscribe()
    await world.close()
    assert await world.subscription() == before


async def test_while_metering_is_down_nothing_is_closed_and_what_was_closed_is_still_answered(world: World) -> None:
    await world.subscribe()
    world.usage.is_down = True
    expected = (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")
    assert await refusal(world.close(request_id="r")) == expected
    assert not (await world.invoices()).invoices
    world.usage.is_down = False
    made = await world.close(request_id="r")
    world.usage.is_down = True
    assert await world.close(request_id="r") == made
    assert await world.invoice(made.invoice_id) == made


async def test_another_organizations_invoice_is_not_found(world: World) -> None:
    made = await world.close()
    expected = (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    assert await refusal(world.invoice(made.invoice_id, GLOBEX)) == expected
    assert await refusal(world.invoice("inv_unknown")) == expected
    assert await refusal(world.subscription(GLOBEX, "acme")) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "ORGANIZATION_MISMATCH",
    )


async def test_pages_of_invoices_hold_every_invoice_once(world: World) -> None:
    await world.subscribe()
    numbers = []
    for _ in range(5):
        numbers.append((await world.close()).number)
        world.clock.advance(timedelta(days=31))
    page = await world.invoices(page_size=2)
    seen = [each.number for each in page.invoices]
    while page.next_page_token:
        page = await world.invoices(page_size=2, page_token=page.next_page_token)
        seen += [each.number for each in page.invoices]
    assert seen == numbers[::-1]
    assert (await world.invoices(page_size=5)).next_page_token == ""


async def test_invoices_are_listed_by_state_and_time(world: World) -> None:
    await world.close()
    await world.subscribe()
    world.clock.advance(timedelta(hours=1))
    made = await world.close()
    later = timestamp_pb2.Timestamp()
    later.FromDatetime(world.clock.now())

    async def numbers(**wanted: Any) -> list[str]:
        request = billing_pb2.ListInvoicesRequest(**wanted)
        return [each.number for each in (await world.billing.ListInvoices(request, metadata=key(ACME))).invoices]

    assert await numbers(states=[billing_pb2.INVOICE_STATE_PAID]) == ["TB-000001"]
    assert await numbers(states=[billing_pb2.INVOICE_STATE_FINALIZED]) == [made.number]
    assert await numbers(start_time=later) == [made.number]
    assert await numbers(end_time=later) == ["TB-000001"]
    with pytest.raises(grpc.aio.AioRpcError, match="not a state"):
        await numbers(states=[billing_pb2.INVOICE_STATE_UNSPECIFIED])


async def test_a_period_that_is_over_is_closed_and_looked_at_again_by_its_start(world: World) -> None:
    sold = await world.subscribe()
    world.usage.events["acme"].append(Used("agent_minutes", 1_100 * MINUTE, NOW))
    world.clock.advance(timedelta(days=40))

    async def close(request_id: str, start: timestamp_pb2.Timestamp) -> billing_pb2.CloseBillingPeriodResponse:
        request = billing_pb2.CloseBillingPeriodRequest(
            request_id=request_id,
            organization_id="acme",
            subscription_id=sold.subscription_id,
            period_start_time=start,
        )
        return await world.billing.CloseBillingPeriod(request, metadata=key(ADMIN))

    made = (await close("first", sold.period_start_time)).invoice
    assert (made.cut, made.subscription_id) == (billing_pb2.INVOICE_CUT_PERIOD, sold.subscription_id)
    assert (made.subtotal, made.tax, made.credits, made.legal_entity_id) == ("103.00", "0.00", "0.00", "default")
    (overage,) = [line for line in made.lines if line.meter]
    assert (overage.amount, overage.charge_id, overage.difference_quantity) == ("5.00", "agent_minutes", 1_100 * MINUTE)
    assert (overage.first_sequence, overage.last_sequence) == (0, 1)
    assert not (await close("second", sold.period_start_time)).HasField("invoice")
    world.usage.events["acme"].append(Used("agent_minutes", 20 * MINUTE, NOW))
    again = (await close("third", sold.period_start_time)).invoice
    assert (again.cut, again.total) == (billing_pb2.INVOICE_CUT_RERATED, "1.00")
    assert again.lines[0].corrects_invoice_id == made.invoice_id
    assert (await close("second", sold.period_start_time)).HasField("invoice") is False
    elsewhere = timestamp_pb2.Timestamp(seconds=sold.period_start_time.seconds + 1)
    assert await refusal(close("fourth", elsewhere)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


@pytest.mark.parametrize(
    ("page_size", "page_token", "reason"),
    [
        (-1, "", "INVALID_FIELD"),
        (101, "", "LIMIT_EXCEEDED"),
        (0, "?", "INVALID_FIELD"),
        (0, "YWJj", "INVALID_FIELD"),
        (0, "ü", "INVALID_FIELD"),
        (0, "OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OmE=", "INVALID_FIELD"),
        (0, base64.b64encode(b"1:inv_\0").decode(), "INVALID_FIELD"),
    ],
)
async def test_a_page_that_cannot_be_is_refused(world: World, page_size: int, page_token: str, reason: str) -> None:
    call = world.invoices(page_size=page_size, page_token=page_token)
    assert await refusal(call) == (grpc.StatusCode.INVALID_ARGUMENT, reason)


# --- the catalog


async def test_plans_are_listed_and_found(world: World) -> None:
    stub = catalog_pb2_grpc.CatalogServiceStub(world.channel)
    listed = (await stub.ListPlans(catalog_pb2.ListPlansRequest(), metadata=key(ACME))).plans
    assert [(each.plan_id, each.version, each.monthly_price) for each in listed] == [
        ("free", 1, "0.00"),
        ("starter", 1, "49.00"),
        ("pro", 1, "149.00"),
    ]
    expected = plan("starter", "49.00")
    expected.version = 1
    found = await stub.GetPlan(catalog_pb2.GetPlanRequest(plan_id="starter"), metadata=key(ACME))
    (in_full,) = found.plan.price_books
    assert (in_full.currency_code, in_full.base_price) == ("USD", "49.00")
    assert [(each.charge_id, each.per_unit.unit_price) for each in in_full.charges] == [("agent_minutes", "0.05")]
    found.plan.ClearField("price_books")
    expected.interval = catalog_pb2.PLAN_INTERVAL_MONTH
    assert found.plan == expected
    unknown = stub.GetPlan(catalog_pb2.GetPlanRequest(plan_id="gold"), metadata=key(ACME))
    assert await refusal(unknown) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


async def test_applying_says_what_changed_and_the_same_again_changes_nothing(world: World) -> None:
    plans = [plan("free", "0.00", overage=""), plan("starter", "59.00"), plan("pro", "149.00")]
    applied = await world.apply(*plans)
    assert list(applied.changed_plan_ids) == ["starter"]
    assert [(each.plan_id, each.version) for each in applied.plans] == [("free", 1), ("starter", 2), ("pro", 1)]
    assert not (await world.apply(*plans)).changed_plan_ids


async def test_a_diff_shows_what_applying_would_change_and_changes_nothing(world: World) -> None:
    stub = catalog_pb2_grpc.CatalogServiceStub(world.channel)
    plans = [plan("free", "0.00", overage=""), plan("starter", "59.00")]
    before = await stub.ListPlans(catalog_pb2.ListPlansRequest(), metadata=key(ACME))
    request = catalog_pb2.DiffCatalogRequest(plans=plans)
    pro, starter = (await stub.DiffCatalog(request, metadata=key(ADMIN))).diffs
    assert (pro.plan_id, pro.kind, list(pro.fields)) == ("pro", catalog_pb2.PLAN_DIFF_KIND_WITHDRAWN, [])
    assert (starter.kind, starter.version_before, starter.version_after) == (catalog_pb2.PLAN_DIFF_KIND_CHANGED, 1, 2)
    assert [(each.field, each.before, each.after) for each in starter.fields] == [
        ("prices.USD.base", "49.00 USD a month", "59.00 USD a month")
    ]
    assert await stub.ListPlans(catalog_pb2.ListPlansRequest(), metadata=key(ACME)) == before
    assert list((await world.apply(*plans)).withdrawn_plan_ids) == ["pro"]
    assert not (await stub.DiffCatalog(request, metadata=key(ADMIN))).diffs


async def test_a_diff_is_for_the_operator_alone_and_refuses_what_applying_refuses(world: World) -> None:
    stub = catalog_pb2_grpc.CatalogServiceStub(world.channel)
    broken = catalog_pb2.DiffCatalogRequest(plans=[plan("free", "1.00", overage="")])
    code, _ = await refusal(stub.DiffCatalog(broken, metadata=key(ACME)))
    assert code == grpc.StatusCode.PERMISSION_DENIED
    refused = await refusal(stub.DiffCatalog(broken, metadata=key(ADMIN)))
    assert refused == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_CATALOG")


async def test_the_short_spelling_that_was_changed_and_sent_back_is_refused_and_not_ignored(world: World) -> None:
    stub = catalog_pb2_grpc.CatalogServiceStub(world.channel)
    plans = list((await stub.ListPlans(catalog_pb2.ListPlansRequest(), metadata=key(ACME))).plans)
    assert not (await world.apply(*plans)).changed_plan_ids
    plans[1].monthly_price = "59.00"
    with pytest.raises(grpc.aio.AioRpcError, match=r"Plan 'starter': monthly_price: .*leave it empty"):
        await world.apply(*plans)
    plans[1].ClearField("price_books")
    assert list((await world.apply(*plans)).changed_plan_ids) == ["starter"]


async def test_the_example_of_all_prices_is_billed_by_each_of_them_and_rounded_to_be_charged(
    unstocked: World,
) -> None:
    ratios = {meter.name: meter.base_units_per_display_unit for meter in METERS.values()}
    await unstocked.apply(*plans_to_pb(read_catalog(EXAMPLE), ratios))
    wanted = billing_pb2.Subscription(organization_id="acme", plan_id="scale", currency_code="KWD")
    wanted.start_time.FromDatetime(NOW - timedelta(days=20))
    request = billing_pb2.CreateSubscriptionRequest(request_id=unstocked.request_id(), subscription=wanted)
    made = (await unstocked.billing.CreateSubscription(request, metadata=key(ADMIN))).subscription
    assert made.anchor_time.ToDatetime(UTC) == NOW - timedelta(days=6)
    quantities = {
        "agent_minutes": 70_000 * MINUTE,
        "api_calls": 100_001,
        "tokens_output": 1_000_001,
        "tokens_cache_read": 4_000_000,
        "provider_cost": 10 * 10**9,
    }
    for meter, quantity in quantities.items():
        # In the trial it costs nothing.
        unstocked.usage.events["acme"].append(Used(meter, quantity, NOW - timedelta(days=10)))
        unstocked.usage.events["acme"].append(Used(meter, quantity, NOW - timedelta(days=1)))
    draft = await unstocked.preview()
    kinds = billing_pb2.InvoiceLineKind
    assert [(kinds.Name(line.kind).removeprefix("INVOICE_LINE_KIND_"), line.amount) for line in draft.lines] == [
        ("BASE_FEE", "3700.000"),
        ("FLAT_FEE", "30.500"),
        ("OVERAGE", "862.000"),
        ("OVERAGE", "24.600"),
        ("OVERAGE", "1.540"),
        ("OVERAGE", "0.308"),
        ("OVERAGE", "3.684"),
        ("ROUNDING", "-0.002"),
    ]
    assert (draft.currency_code, draft.total) == ("KWD", "4622.630")


async def test_a_broken_catalog_is_refused_whole(world: World) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=r"Plan 'pro': monthly_price: .*decimals") as refused:
        await world.apply(plan("free", "0", overage=""), plan("starter", "59.00"), plan("pro", "1.005"))
    assert (refused.value.code(), reason_of(refused.value)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_CATALOG")
    await world.subscribe()
    assert (await world.preview()).total == "49.00"


# --- entitlements


async def test_the_entitlement_in_force_says_plan_period_limits_and_features(world: World) -> None:
    made = await world.subscribe()
    found = await world.entitlements()
    (entitlement,) = found.entitlements
    assert (entitlement.organization_id, entitlement.plan_id, entitlement.version) == ("acme", "starter", 2)
    assert entitlement.status == billing_pb2.SUBSCRIPTION_STATUS_ACTIVE
    assert entitlement.period_end_time == made.period_end_time
    assert list(entitlement.meters) == list(plan("starter", "49.00").meters)
    assert dict(entitlement.features) == {"exports": True}
    assert found.position.sequence == 2


async def test_time_alone_changes_the_period_and_no_version(world: World) -> None:
    before = await world.entitlements()
    world.clock.advance(timedelta(days=31))
    after = await world.entitlements()
    assert after.position == before.position
    assert after.entitlements[0].version == before.entitlements[0].version
    assert after.entitlements[0].period_start_time == before.entitlements[0].period_end_time


async def test_a_follower_gets_what_came_after_its_position(world: World) -> None:
    first = await world.entitlements()
    await world.subscribe()
    await world.close()
    later = await world.entitlements(first.position)
    assert [(each.version, each.plan_id) for each in later.entitlements] == [(2, "starter")]
    assert later.position.sequence == 3
    assert not (await world.entitlements(later.position)).entitlements
    rewound = world.entitlements(feed_pb2.Position(sequence=2, commit_id="another"))
    assert await refusal(rewound) == (grpc.StatusCode.FAILED_PRECONDITION, "LOG_REWOUND")


async def test_a_follower_that_begins_at_the_beginning_finds_free_first(world: World) -> None:
    found = await world.entitlements(feed_pb2.Position())
    assert [(each.version, each.plan_id) for each in found.entitlements] == [(1, "free")]


async def test_heads_are_watched_as_they_move(world: World) -> None:
    stub = entitlements_pb2_grpc.EntitlementFeedServiceStub(world.channel)
    await world.subscription()
    stream = stub.WatchHeads(entitlements_pb2.WatchHeadsRequest(), metadata=key(QUOTA))
    seen = []
    async for answer in stream:
        seen += [(head.organization_id, head.position.sequence) for head in answer.heads]
        if len(seen) == 2:
            break
        await world.subscribe()
    stream.cancel()
    assert seen == [("acme", 1), ("acme", 2)]


async def test_the_feed_is_for_the_services_of_the_suite(world: World) -> None:
    stub = entitlements_pb2_grpc.EntitlementFeedServiceStub(world.channel)
    request = entitlements_pb2.ReadEntitlementsRequest(organization_id="acme")
    for secret in (ACME, ADMIN):
        call = stub.ReadEntitlements(request, metadata=key(secret))
        assert await refusal(call) == (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")


# --- the webhook

PAYLOAD = b'{"id": "evt_1", "type": "invoice.paid", "data": {"object": {"id": "in_1", "customer": "cus_1"}}}'


def signature(payload: bytes = PAYLOAD, secret: str = SECRET, at: datetime = NOW) -> str:
    timestamp = int(at.timestamp())
    digest = hmac.new(secret.encode(), f"{timestamp}.".encode() + payload, hashlib.sha256).hexdigest()
    return f"t={timestamp},v1={digest}"


async def test_a_signed_event_needs_no_key_and_is_stored_once(world: World) -> None:
    for _ in range(3):
        await world.webhook(PAYLOAD, signature())
    claimed = await MemoryStripeInbox(world.books).claim(now=NOW, count=10)
    assert [(due.event_id, due.object_id) for due in claimed] == [("evt_1", "in_1")]


async def test_an_event_with_a_bad_signature_is_not_stored(world: World) -> None:
    expected = (grpc.StatusCode.UNAUTHENTICATED, "SIGNATURE_INVALID")
    bad = ["", signature(secret="whsec_other"), signature(at=NOW - timedelta(seconds=301)), signature(PAYLOAD + b" ")]
    for each in bad:
        assert await refusal(world.webhook(PAYLOAD, each)) == expected
    assert await MemoryStripeInbox(world.books).claim(now=NOW, count=10) == []


async def test_without_a_secret_the_webhook_is_off(world: World) -> None:
    world.webhook_secrets.clear()
    expected = (grpc.StatusCode.FAILED_PRECONDITION, "WEBHOOK_DISABLED")
    assert await refusal(world.webhook(PAYLOAD, signature())) == expected
    assert await refusal(world.webhook(PAYLOAD, signature(secret=""))) == expected


async def test_while_secrets_rotate_both_are_good(world: World) -> None:
    world.webhook_secrets[:] = ["whsec_next", SECRET]
    await world.webhook(PAYLOAD, signature())
    await world.webhook(PAYLOAD, signature(secret="whsec_next"))


# --- the life of a subscription

FAILED = grpc.StatusCode.FAILED_PRECONDITION
PERIOD_END = datetime(2026, 12, 25, 12, tzinfo=UTC)
AT_ONCE, AT_PERIOD_END = billing_pb2.CHANGE_TIME_AT_ONCE, billing_pb2.CHANGE_TIME_AT_PERIOD_END


@dataclass
class Life:
    """The commands to acme's subscription, by acme's key unless the operator's is needed."""

    world: World

    async def change(
        self,
        plan_id: str,
        when: billing_pb2.ChangeTime.ValueType = billing_pb2.CHANGE_TIME_UNSPECIFIED,
        *,
        request_id: str = "",
        terms: catalog_pb2.Plan | None = None,
        secret: str = ACME,
    ) -> billing_pb2.Subscription:
        request = billing_pb2.ChangePlanRequest(
            request_id=request_id or self.world.request_id(),
            organization_id="acme",
            plan_id=plan_id,
            change_time=when,
            custom_terms=terms,
        )
        return (await self.world.billing.ChangePlan(request, metadata=key(secret))).subscription

    async def cancel(
        self,
        when: billing_pb2.ChangeTime.ValueType = billing_pb2.CHANGE_TIME_UNSPECIFIED,
        *,
        request_id: str = "",
        secret: str = ACME,
    ) -> billing_pb2.Subscription:
        request = billing_pb2.CancelSubscriptionRequest(
            request_id=request_id or self.world.request_id(), change_time=when
        )
        if secret != ACME:
            request.organization_id = "acme"
        return (await self.world.billing.CancelSubscription(request, metadata=key(secret))).subscription

    async def pause(self, *, request_id: str = "", secret: str = ADMIN) -> billing_pb2.Subscription:
        request = billing_pb2.PauseSubscriptionRequest(
            request_id=request_id or self.world.request_id(), organization_id="acme"
        )
        return (await self.world.billing.PauseSubscription(request, metadata=key(secret))).subscription

    async def resume(self, *, request_id: str = "") -> billing_pb2.Subscription:
        request = billing_pb2.ResumeSubscriptionRequest(request_id=request_id or self.world.request_id())
        return (await self.world.billing.ResumeSubscription(request, metadata=key(ACME))).subscription

    async def begin(
        self, plan_id: str, *, trial_days: int | None = None, terms: catalog_pb2.Plan | None = None, currency: str = ""
    ) -> billing_pb2.Subscription:
        request = billing_pb2.CreateSubscriptionRequest(
            request_id=self.world.request_id(),
            subscription=billing_pb2.Subscription(organization_id="acme", plan_id=plan_id, currency_code=currency),
            trial_days=trial_days,
            custom_terms=terms,
        )
        return (await self.world.billing.CreateSubscription(request, metadata=key(ADMIN))).subscription

    async def entitled(self) -> tuple[int, str, int]:
        """The version, plan and status that followers read."""
        (found,) = (await self.world.entitlements()).entitlements
        return found.version, found.plan_id, found.status

    async def may(self) -> billing_pb2.ListEntitlementsResponse:
        return await self.world.billing.ListEntitlements(billing_pb2.ListEntitlementsRequest(), metadata=key(ACME))

    def go_to(self, moment: datetime) -> None:
        self.world.clock.advance(moment - self.world.clock.now())


@pytest.fixture
def life(world: World) -> Life:
    return Life(world)


async def test_who_pays_more_gets_more_now_and_who_pays_less_at_the_periods_end(life: Life) -> None:
    await life.world.subscribe("starter")
    up = await life.change("pro")
    assert (up.plan_id, up.HasField("scheduled_change")) == ("pro", False)
    down = await life.change("starter")
    assert (down.plan_id, down.scheduled_change.plan_id) == ("pro", "starter")
    assert down.scheduled_change.start_time.ToDatetime(tzinfo=UTC) == PERIOD_END
    assert down.period_end_time.ToDatetime(tzinfo=UTC) == PERIOD_END


async def test_when_a_change_takes_effect_can_be_said(life: Life) -> None:
    await life.world.subscribe("starter")
    assert (await life.change("pro", AT_PERIOD_END)).scheduled_change.plan_id == "pro"
    at_once = await life.change("pro", AT_ONCE)
    assert (at_once.plan_id, at_once.HasField("scheduled_change")) == ("pro", False)


async def test_a_scheduled_change_is_in_force_from_its_instant_on_whoever_looks_first(life: Life) -> None:
    await life.world.subscribe("pro")
    await life.change("starter")
    assert await life.entitled() == (2, "pro", billing_pb2.SUBSCRIPTION_STATUS_ACTIVE)
    life.go_to(PERIOD_END - timedelta(microseconds=1))
    assert (await life.world.subscription()).plan_id == "pro"
    life.go_to(PERIOD_END)
    assert await life.entitled() == (4, "starter", billing_pb2.SUBSCRIPTION_STATUS_ACTIVE)
    found = await life.world.subscription()
    assert (found.plan_id, found.HasField("scheduled_change")) == ("starter", False)
    assert [phase.plan_id for phase in found.phases] == ["pro", "starter"]
    assert await life.entitled() == (4, "starter", billing_pb2.SUBSCRIPTION_STATUS_ACTIVE)


async def test_naming_the_plan_in_force_takes_a_scheduled_change_back_and_keeps_its_version(life: Life) -> None:
    sold = await life.world.subscribe("pro")
    await life.change("starter")
    await life.world.apply(plan("free", "0", overage=""), plan("starter", "49.00"), plan("pro", "199.00"))
    assert await life.change("pro") == sold
    assert (await life.change("pro", AT_ONCE)).plan_version == 2


async def test_canceling_ends_with_what_is_paid_and_leads_to_free_in_that_instant(life: Life) -> None:
    sold = await life.world.subscribe("starter")
    canceled = await life.cancel()
    assert (canceled.status, canceled.cancel_time.ToDatetime(tzinfo=UTC)) == (
        billing_pb2.SUBSCRIPTION_STATUS_ACTIVE,
        PERIOD_END,
    )
    life.go_to(PERIOD_END + timedelta(days=2))
    free = await life.world.subscription()
    assert (free.plan_id, free.start_time.ToDatetime(tzinfo=UTC)) == ("free", PERIOD_END)
    assert free.subscription_id != sold.subscription_id
    assert await life.entitled() == (4, "free", billing_pb2.SUBSCRIPTION_STATUS_ACTIVE)


async def test_canceling_at_once_leads_to_free_at_once(life: Life) -> None:
    sold = await life.world.subscribe("starter")
    life.world.clock.advance(timedelta(days=1))
    canceled = await life.cancel(AT_ONCE, secret=ADMIN)
    assert (canceled.subscription_id, canceled.status) == (
        sold.subscription_id,
        billing_pb2.SUBSCRIPTION_STATUS_CANCELED,
    )
    assert canceled.cancel_time.ToDatetime(tzinfo=UTC) == NOW + timedelta(days=1)
    assert (await life.world.subscription()).plan_id == "free"


async def test_a_cancellation_can_be_taken_back_until_it_comes(life: Life) -> None:
    sold = await life.world.subscribe("starter")
    await life.cancel()
    assert await life.resume() == sold
    assert await refusal(life.resume()) == (FAILED, "INVALID_STATE")
    await life.cancel()
    life.go_to(PERIOD_END)
    assert await refusal(life.resume()) == (FAILED, "INVALID_STATE")


async def test_a_pause_denies_and_a_resumption_allows_again(life: Life) -> None:
    await life.world.subscribe("starter")
    assert (await life.pause()).status == billing_pb2.SUBSCRIPTION_STATUS_PAUSED
    assert (await life.may()).is_allowed is False
    assert await life.entitled() == (3, "starter", billing_pb2.SUBSCRIPTION_STATUS_PAUSED)
    assert await refusal(life.pause()) == (FAILED, "INVALID_STATE")
    assert (await life.resume()).status == billing_pb2.SUBSCRIPTION_STATUS_ACTIVE
    assert (await life.may()).is_allowed is True


async def test_a_trial_comes_once_in_an_organizations_life_unless_the_operator_says_so(life: Life) -> None:
    trial = plan("starter", "49.00")
    trial.trial_days = 14
    await life.world.apply(plan("free", "0", overage=""), trial)
    sold = await life.begin("starter")
    ends = NOW + timedelta(days=14)
    assert sold.status == billing_pb2.SUBSCRIPTION_STATUS_TRIALING
    assert sold.trial_end_time.ToDatetime(tzinfo=UTC) == sold.anchor_time.ToDatetime(tzinfo=UTC) == ends
    assert sold.period_end_time.ToDatetime(tzinfo=UTC) == ends
    life.go_to(ends)
    billed = await life.world.subscription()
    assert (billed.status, billed.period_start_time) == (billing_pb2.SUBSCRIPTION_STATUS_ACTIVE, sold.trial_end_time)
    await life.cancel(AT_ONCE)
    again = await life.begin("starter")
    assert (again.status, again.HasField("trial_end_time")) == (billing_pb2.SUBSCRIPTION_STATUS_ACTIVE, False)
    await life.cancel(AT_ONCE)
    assert (await life.begin("starter", trial_days=3)).status == billing_pb2.SUBSCRIPTION_STATUS_TRIALING


async def test_no_subscription_starts_within_one_that_was_billed(life: Life) -> None:
    await life.world.subscribe("starter", start=NOW - timedelta(days=3))
    await life.cancel(AT_ONCE)
    life.world.clock.advance(timedelta(days=1))
    within = life.world.subscribe("pro", start=NOW - timedelta(microseconds=1))
    assert await refusal(within) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert (await life.world.subscribe("pro", start=NOW)).plan_id == "pro"


async def test_terms_of_its_own_are_an_organizations_own(life: Life) -> None:
    terms = plan("pro", "99.00")
    terms.features["sso"] = True
    terms.meters[1].limit_quantity = 50
    sold = await life.begin("pro", terms=terms)
    assert sold.has_custom_terms
    may = await life.may()
    assert (may.plan_id, may.features["sso"]) == ("pro", True)
    limits = {each.meter: each.limit_quantity for each in may.limits}
    assert limits == {"agent_minutes": 1_000 * MINUTE, "concurrent_agents": 50}
    (followed,) = (await life.world.entitlements()).entitlements
    assert [each.limit_quantity for each in followed.meters] == [1_000 * MINUTE, 50]
    listed = await catalog_pb2_grpc.CatalogServiceStub(life.world.channel).ListPlans(
        catalog_pb2.ListPlansRequest(), metadata=key(GLOBEX)
    )
    assert {each.display_name: each.monthly_price for each in listed.plans}["Pro"] == "149.00"
    assert not (await life.change("starter", AT_ONCE)).has_custom_terms


async def test_terms_that_break_a_rule_of_plans_or_stand_for_another_plan_are_refused(life: Life) -> None:
    await life.world.subscribe("starter")
    unknown = plan("pro", "99.00")
    unknown.meters[0].meter = "phlogiston"
    for terms, reason in ((unknown, "INVALID_CATALOG"), (plan("starter", "1.00"), "INVALID_FIELD")):
        assert (await refusal(life.change("pro", terms=terms, secret=ADMIN)))[1] == reason


async def test_a_tenant_changes_plans_and_cancels_and_neither_pauses_nor_names_terms(life: Life) -> None:
    await life.world.subscribe("starter")
    denied = (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")
    assert await refusal(life.pause(secret=ACME)) == denied
    assert await refusal(life.change("pro", terms=plan("pro", "0.01"))) == denied
    assert await refusal(life.change("pro", secret=GLOBEX)) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "ORGANIZATION_MISMATCH",
    )
    assert (await life.change("pro")).plan_id == "pro"


async def test_a_plan_in_another_currency_cannot_be_changed_to(life: Life) -> None:
    euros = plan("pro", "139.00")
    euros.currency_code = "EUR"
    await life.world.apply(plan("free", "0", overage=""), plan("starter", "49.00"), euros)
    await life.world.subscribe("starter")
    assert (await refusal(life.change("pro")))[1] == "INVALID_FIELD"
    await life.cancel(AT_ONCE)
    assert (await refusal(life.begin("pro", currency="USD")))[1] == "INVALID_FIELD"
    assert (await life.begin("pro")).currency_code == "EUR"


async def test_on_free_there_is_nothing_to_change_cancel_pause_or_resume(life: Life) -> None:
    for call in (life.change("pro"), life.cancel(), life.pause(), life.resume()):
        assert await refusal(call) == (FAILED, "INVALID_STATE")
    await life.world.subscribe("starter")
    assert (await refusal(life.change("free")))[1] == "INVALID_FIELD"


async def test_the_same_command_again_changes_nothing_and_other_content_is_refused(life: Life) -> None:
    await life.world.subscribe("starter")
    commands: list[Callable[[], Awaitable[billing_pb2.Subscription]]] = [
        partial(life.change, "pro", request_id="change"),
        partial(life.pause, request_id="pause"),
        partial(life.resume, request_id="resume"),
        partial(life.cancel, request_id="cancel"),
    ]
    for command in commands:
        first = await command()
        version = await life.entitled()
        assert await command() == first
        assert await life.entitled() == version
    aborted = (grpc.StatusCode.ABORTED, "REQUEST_ID_REUSED")
    assert await refusal(life.change("starter", request_id="change")) == aborted
    assert await refusal(life.cancel(AT_ONCE, request_id="cancel")) == aborted


async def test_the_same_command_from_many_places_at_once_is_done_once(life: Life) -> None:
    await life.world.subscribe("starter")
    made = await asyncio.gather(*(life.change("pro", request_id="r") for _ in range(5)))
    assert len({each.SerializeToString(deterministic=True) for each in made}) == 1
    assert (await life.entitled())[0] == 3


async def test_a_retry_after_the_subscription_ended_answers_the_one_it_changed(life: Life) -> None:
    sold = await life.world.subscribe("starter")
    await life.change("pro", request_id="r")
    await life.cancel(AT_ONCE)
    assert (await life.change("pro", request_id="r")).subscription_id == sold.subscription_id


async def test_entitlements_are_shown_as_they_are_followed(life: Life) -> None:
    await life.world.subscribe("starter")
    may, (followed,) = await life.may(), (await life.world.entitlements()).entitlements
    assert (may.plan_id, may.status, may.period_end_time) == (
        followed.plan_id,
        followed.status,
        followed.period_end_time,
    )
    assert dict(may.features) == dict(followed.features)
    assert [(each.meter, each.limit_quantity, each.grace_percent) for each in may.limits] == [
        (each.meter, each.limit_quantity, each.grace_percent) for each in followed.meters
    ]


# --- usage by period


async def usage(life: Life, *, period_count: int = 0) -> billing_pb2.GetSubscriptionUsageResponse:
    request = billing_pb2.GetSubscriptionUsageRequest(period_count=period_count)
    return await life.world.billing.GetSubscriptionUsage(request, metadata=key(ACME))


def use(life: Life, minutes: int) -> None:
    life.world.usage.events["acme"].append(Used("agent_minutes", minutes * MINUTE, life.world.clock.now()))


def usage_lines(invoice: billing_pb2.Invoice) -> list[str]:
    return [line.amount for line in invoice.lines if line.meter]


async def test_usage_of_the_current_period_costs_what_its_preview_says(life: Life) -> None:
    await life.world.subscribe("starter")
    use(life, 1_100)
    found = await usage(life)
    (period,) = found.periods
    (minutes,) = period.meters
    assert (minutes.meter, minutes.used_quantity, minutes.limit_quantity) == (
        "agent_minutes",
        1_100 * MINUTE,
        1_000 * MINUTE,
    )
    assert (minutes.included_quantity, minutes.overage_quantity) == (1_000 * MINUTE, 100 * MINUTE)
    assert minutes.cost == period.cost == "5.00"
    assert usage_lines(await life.world.preview()) == ["5.00"]
    assert (period.plan_id, period.currency_code, found.as_of_sequence) == ("starter", "USD", 1)
    assert period.end_time.ToDatetime(tzinfo=UTC) == PERIOD_END


async def test_usage_across_a_change_of_plan_is_one_period_of_the_meter(life: Life) -> None:
    await life.world.apply(
        plan("free", "0", overage=""), plan("starter", "49.00"), plan("pro", "149.00", overage="0.03")
    )
    await life.world.subscribe("starter")
    use(life, 1_100)
    life.world.clock.advance(timedelta(days=1))
    await life.change("pro")
    life.world.clock.advance(timedelta(days=1))
    use(life, 100)
    ((minutes,),) = [period.meters for period in (await usage(life)).periods]
    assert (minutes.used_quantity, minutes.overage_quantity, minutes.cost) == (1_200 * MINUTE, 200 * MINUTE, "8.00")
    assert usage_lines(await life.world.preview()) == ["5.00", "3.00"]


async def test_past_periods_are_told_over_all_subscriptions_the_latest_first(life: Life) -> None:
    use(life, 7)
    life.world.clock.advance(timedelta(hours=1))
    await life.world.subscribe("starter")
    use(life, 1_200)
    life.world.clock.advance(timedelta(days=40))
    use(life, 1_002)
    await life.cancel(AT_ONCE)
    life.world.clock.advance(timedelta(hours=1))
    use(life, 3)
    periods = (await usage(life, period_count=12)).periods
    told = [(each.plan_id, each.meters[0].used_quantity // MINUTE, each.cost) for each in periods]
    # What is used in the instant of the end is of what begins there.
    assert told == [("free", 1_005, "0.00"), ("starter", 0, "0.00"), ("starter", 1_200, "10.00"), ("free", 7, "0.00")]
    assert [(each.start_time, each.end_time) for each in periods[1:2]] == [(periods[2].end_time, periods[0].start_time)]
    assert len((await usage(life, period_count=2)).periods) == 2


async def test_a_trial_and_free_cost_nothing_whatever_is_used(life: Life) -> None:
    use(life, 5_000)
    (period,) = (await usage(life)).periods
    assert (period.plan_id, period.cost, period.meters[0].overage_quantity) == ("free", "0.00", 0)
    life.world.clock.advance(timedelta(hours=1))
    await life.begin("starter", trial_days=7)
    use(life, 5_000)
    (period,) = (await usage(life)).periods
    assert (period.cost, period.meters[0].used_quantity) == ("0.00", 5_000 * MINUTE)


async def test_no_more_periods_are_told_at_once_than_may_be(life: Life) -> None:
    assert (await refusal(usage(life, period_count=13)))[1] == "LIMIT_EXCEEDED"
    assert (await refusal(usage(life, period_count=-1)))[1] == "INVALID_FIELD"


# --- settlements, checkout, portal


def payments(world: World) -> payments_pb2_grpc.PaymentServiceAsyncStub:
    return payments_pb2_grpc.PaymentServiceStub(world.channel)


async def closed(world: World) -> billing_pb2.Invoice:
    await world.subscribe()
    return await world.close()


async def test_an_operator_voids_an_invoice_and_a_retry_is_answered_alike(world: World) -> None:
    invoice = await closed(world)
    request = payments_pb2.VoidInvoiceRequest(request_id="void", organization_id="acme", invoice_id=invoice.invoice_id)
    voided = (await payments(world).VoidInvoice(request, metadata=key(ADMIN))).invoice
    assert voided.state == billing_pb2.INVOICE_STATE_VOID
    assert (await payments(world).VoidInvoice(request, metadata=key(ADMIN))).invoice == voided
    again = payments_pb2.MarkInvoicePaidRequest(
        request_id="paid", organization_id="acme", invoice_id=invoice.invoice_id
    )
    assert (await refusal(payments(world).MarkInvoicePaid(again, metadata=key(ADMIN))))[1] == "INVALID_STATE"


async def test_an_invoice_is_given_up_and_paid_after_all(world: World) -> None:
    invoice = await closed(world)
    names = {"organization_id": "acme", "invoice_id": invoice.invoice_id}
    given_up = payments_pb2.MarkInvoiceUncollectibleRequest(request_id="u", **names)
    answer = await payments(world).MarkInvoiceUncollectible(given_up, metadata=key(ADMIN))
    assert answer.invoice.state == billing_pb2.INVOICE_STATE_UNCOLLECTIBLE
    paid = payments_pb2.MarkInvoicePaidRequest(request_id="p", **names)
    assert (await payments(world).MarkInvoicePaid(paid, metadata=key(ADMIN))).invoice.state == (
        billing_pb2.INVOICE_STATE_PAID
    )
    seen = payments_pb2.GetInvoicePaymentsRequest(invoice_id=invoice.invoice_id)
    assert not (await payments(world).GetInvoicePayments(seen, metadata=key(ACME))).HasField("dunning")


async def test_what_became_of_credits_that_were_bought_is_told_with_the_invoices_payments(world: World) -> None:
    buy = BuyCredits(world.books, world.clock, valid_days=0)
    invoice = await buy("acme", Money(100_00, "USD"), request_id="b", actor="tests")
    seen = payments_pb2.GetInvoicePaymentsRequest(invoice_id=invoice.invoice_id)
    purchase = (await payments(world).GetInvoicePayments(seen, metadata=key(ACME))).credit_purchase
    assert (purchase.amount, purchase.granted) == ("100.00", "0.00")
    paid = payments_pb2.MarkInvoicePaidRequest(request_id="p", organization_id="acme", invoice_id=invoice.invoice_id)
    await payments(world).MarkInvoicePaid(paid, metadata=key(ADMIN))
    purchase = (await payments(world).GetInvoicePayments(seen, metadata=key(ACME))).credit_purchase
    assert (purchase.granted, purchase.taken_back, purchase.revoked, purchase.missing) == (
        "100.00",
        "0.00",
        "0.00",
        "0.00",
    )
    other = payments_pb2.GetInvoicePaymentsRequest(invoice_id=(await closed(world)).invoice_id)
    assert not (await payments(world).GetInvoicePayments(other, metadata=key(ACME))).HasField("credit_purchase")


async def test_a_tenants_key_settles_nothing_and_sees_only_its_own(world: World) -> None:
    invoice = await closed(world)
    void = payments_pb2.VoidInvoiceRequest(request_id="v", organization_id="acme", invoice_id=invoice.invoice_id)
    assert (await refusal(payments(world).VoidInvoice(void, metadata=key(ACME))))[1] == "SCOPE_MISSING"
    seen = payments_pb2.GetInvoicePaymentsRequest(invoice_id=invoice.invoice_id)
    assert (await refusal(payments(world).GetInvoicePayments(seen, metadata=key(GLOBEX))))[1] == "NOT_FOUND"


def checkout(**fields: str) -> billing_pb2.CreateCheckoutSessionRequest:
    given = {
        "request_id": "c",
        "plan_id": "pro",
        "success_url": "https://app.example.com/done",
        "cancel_url": "https://app.example.com/plans?from=checkout",
    }
    return billing_pb2.CreateCheckoutSessionRequest(**(given | fields))


async def test_a_checkout_is_one_page_per_request(world: World) -> None:
    pages = [await world.billing.CreateCheckoutSession(checkout(), metadata=key(ACME)) for _ in range(2)]
    assert pages[0] == pages[1]
    other = await world.billing.CreateCheckoutSession(checkout(request_id="d"), metadata=key(ACME))
    assert other.stripe_checkout_id != pages[0].stripe_checkout_id


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"success_url": "https://evil.example/done"}, "INVALID_FIELD"),
        ({"cancel_url": "http://app.example.com/"}, "INVALID_FIELD"),
        ({"success_url": "https://app.example.com@evil.example/"}, "INVALID_FIELD"),
        ({"success_url": ""}, "INVALID_FIELD"),
        ({"plan_id": "free"}, "INVALID_FIELD"),
        ({"plan_id": "nope"}, "NOT_FOUND"),
        ({"request_id": ""}, "INVALID_FIELD"),
    ],
)
async def test_a_checkout_that_makes_no_sense_is_refused(world: World, fields: dict[str, str], reason: str) -> None:
    assert (await refusal(world.billing.CreateCheckoutSession(checkout(**fields), metadata=key(ACME))))[1] == reason


async def test_a_plan_in_force_is_not_sold_again(world: World) -> None:
    await world.subscribe("pro")
    assert (await refusal(world.billing.CreateCheckoutSession(checkout(), metadata=key(ACME))))[1] == "INVALID_STATE"


async def test_a_portal_comes_back_to_allowed_hosts_only(world: World) -> None:
    request = billing_pb2.CreatePortalSessionRequest(return_url="https://app.example.com/billing")
    assert (await world.billing.CreatePortalSession(request, metadata=key(ACME))).url
    elsewhere = billing_pb2.CreatePortalSessionRequest(return_url="https://evil.example/billing")
    assert (await refusal(world.billing.CreatePortalSession(elsewhere, metadata=key(ACME))))[1] == "INVALID_FIELD"
