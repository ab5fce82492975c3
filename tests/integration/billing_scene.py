"""Billing's workers over a database of their own and the Stripe stand-in as a process of its own."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg

from kit.clock import SystemClock
from kit.ids import new_id
from kit.money import Money
from kit.process import ChildProcess
from kit.testing.clock import FakeClock
from kit.testing.stores import free_port
from services.billing.adapters.memory.organizations import MemoryOrganizations
from services.billing.adapters.memory.usage import MemoryUsage
from services.billing.adapters.postgres_books.books import PostgresBooks
from services.billing.adapters.postgres_catalog import PostgresPlans
from services.billing.adapters.postgres_dunning_list import PostgresDunningList
from services.billing.adapters.postgres_lists import PostgresCollectionList, PostgresStripeInbox
from services.billing.adapters.postgres_money_lists import PostgresCreditNoteList
from services.billing.adapters.stripe.checkout import StripeCheckouts
from services.billing.adapters.stripe.client import StripeApi
from services.billing.adapters.stripe.credit_notes import StripeCreditNotes
from services.billing.adapters.stripe.customers import StripeCustomers
from services.billing.adapters.stripe.invoices import StripeInvoices
from services.billing.adapters.stripe.payments import StripePayments
from services.billing.adapters.stripe.subscriptions import StripeSubscriptions
from services.billing.application.act_on_subscription import ActOnSubscription
from services.billing.application.cancel_subscription import CancelSubscription
from services.billing.application.change_plan import ChangePlan
from services.billing.application.collect_invoices import CollectInvoices
from services.billing.application.create_subscription import CreateSubscription
from services.billing.application.dun_invoices import DunInvoices
from services.billing.application.find_wanted_plan import FindWantedPlan
from services.billing.application.follow_payment import FollowPayment
from services.billing.application.hand_over_credit_notes import HandOverCreditNotes
from services.billing.application.handle_stripe_events import HandleStripeEvents
from services.billing.application.put_on_plan import PutOnPlan
from services.billing.application.settle_invoice import SettleInvoice
from services.billing.application.store_stripe_event import StoreStripeEvent
from services.billing.application.stripe_events.checkout import FinishCheckout
from services.billing.application.stripe_events.customers import LookAtCustomer, UseFirstPaymentMethod
from services.billing.application.stripe_events.disputes import KeepDispute, KeepRefunds
from services.billing.application.stripe_events.drafts import HoldDraft
from services.billing.application.stripe_events.payments import FollowInvoice
from services.billing.application.stripe_events.subscriptions import FollowSubscription
from services.billing.application.stripe_events.table import handlers
from services.billing.application.subscription_in_force import SubscriptionInForce
from services.billing.domain.dunning import DunningPolicy
from services.billing.domain.invoices import Invoice, InvoiceState, Line, LineKind, total_of
from services.billing.domain.periods import period_at
from services.billing.domain.profile import BillingProfile, BillingTerms, CollectionMethod, Party
from services.billing.domain.subscriptions import Subscription
from tests.integration.billing_database import BillingDatabase, billing_database
from tests.unit.billing.plans import METERS, MINUTE, PLANS, STARTER
from tests.unit.billing.rated import rate
from tests.unit.billing.timelines import begun, by_tests

API_KEY, SECRET = "sk_test_billing", "whsec_billing"
ACME = "acme"


@dataclass
class Simulator:
    """The simulator, and plain calls to it."""

    url: str

    def call(self, method: str, path: str, **options: Any) -> Any:
        headers = {"Authorization": f"Bearer {API_KEY}"} | options.pop("headers", {})
        answer = httpx.request(method, f"{self.url}{path}", headers=headers, trust_env=False, **options)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def form(self, path: str, **fields: str) -> Any:
        """A POST of a form; `__` stands for a nested name, such as `metadata__key`."""
        return self.call("POST", path, data={_nested(name): value for name, value in fields.items()})

    def try_form(self, path: str, **fields: str) -> int:
        """The same, and the status of the answer, good or not."""
        headers = {"Authorization": f"Bearer {API_KEY}"}
        return httpx.post(f"{self.url}{path}", headers=headers, data=fields, trust_env=False).status_code

    def advance(self, seconds: float) -> None:
        """Lets time pass at Stripe; what falls due in it is done."""
        self.call("POST", "/_simulator/clock", json={"advance_seconds": int(seconds)})

    def invoices(self) -> list[Any]:
        return list(self.call("GET", "/v1/invoices?limit=100")["data"])

    def events(self) -> list[Any]:
        """Oldest first."""
        return list(self.call("GET", "/v1/events?limit=100")["data"])[::-1]

    def inject(self, *calls: dict[str, Any]) -> None:
        self.call("POST", "/_simulator/faults", json={"calls": calls})


def _nested(name: str) -> str:
    first, *others = name.split("__")
    return first + "".join(f"[{other}]" for other in others)


@asynccontextmanager
async def running_simulator(tmp_path: Path) -> AsyncIterator[Simulator]:
    """The stand-in on a free port, until the block ends."""
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "STRIPE_SIMULATOR_ADDRESS": f"127.0.0.1:{port}",
        "STRIPE_SIMULATOR_STATE": str(tmp_path / "stripe"),
        "STRIPE_SIMULATOR_API_KEY": API_KEY,
    }
    command = [sys.executable, "-m", "tools.stripe_simulator"]
    process = ChildProcess(command, environment=environment, log_path=tmp_path / "stripe.log")
    await process.start()
    try:
        transport = httpx.AsyncHTTPTransport(retries=8)
        async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
            # Refused connections are tried again with growing pauses, some thirty seconds in all.
            assert (await client.get(f"http://127.0.0.1:{port}/healthz")).status_code == 200
        yield Simulator(f"http://127.0.0.1:{port}")
    finally:
        await process.stop(signal.SIGTERM, 5)


@dataclass
class Scene:
    """Billing's workers over a database of their own."""

    database: BillingDatabase
    books: PostgresBooks
    collector: StripeInvoices
    customers: StripeCustomers
    checkouts: StripeCheckouts
    clock: FakeClock
    collect: CollectInvoices
    hand_over_credit_notes: HandOverCreditNotes
    dun: DunInvoices
    due: PostgresCollectionList
    settle: SettleInvoice
    store: StoreStripeEvent
    handle: HandleStripeEvents
    in_force: SubscriptionInForce
    find_wanted_plan: FindWantedPlan
    sold: Subscription

    async def finalize(
        self,
        *,
        months: int = 0,
        minutes: int = 1_100,
        copies: int = 1,
        total: Money | None = None,
        term_days: int | None = None,
        before_commit: Callable[[], Awaitable[None]] | None = None,
    ) -> Invoice:
        """An invoice of 49.00, and 5 cents for every minute beyond a thousand; so often. Or of one line, of this total.
        term_days: how long the customer has to pay it; None: it is charged.
        before_commit: done when it is written, and nobody else can see it yet.
        """
        period = period_at(self.sold.anchor, self.sold.anchor + timedelta(days=31 * months))
        lines = rate(STARTER, period, {"agent_minutes": minutes * MINUTE}, METERS) * copies
        if total is not None:
            lines = (Line(kind=LineKind.BASE_FEE, description="Starter", amount=total, period=period),)
        invoice = Invoice(
            organization_id=ACME,
            subscription_id=self.sold.subscription_id,
            plan_id="starter",
            plan_version=1,
            state=InvoiceState.FINALIZED,
            total=total_of(lines, total.currency_code if total else "USD"),
            lines=lines,
            period=period,
            closed_through_sequence=1,
            invoice_id=new_id("inv"),
            finalize_time=self.clock.now(),
            due_time=None if term_days is None else self.clock.now() + timedelta(days=term_days),
        )
        async with self.books.open(ACME) as book:
            if term_days is not None:
                terms = BillingTerms(collection_method=CollectionMethod.SEND_INVOICE, term_days=term_days)
                payer = BillingProfile(update_time=self.clock.now(), party=Party(mail="pay@acme.example"), terms=terms)
                await book.profile.set(payer, actor="tests", request_id="terms")
            made = await book.invoices.finalize(invoice, actor="tests", request_id="r")
            if before_commit is not None:
                await before_commit()
            return made

    def collect_through(self, api: StripeApi) -> CollectInvoices:
        """The same worker, with another way to Stripe."""
        due = PostgresCollectionList(self.database.fleet)
        return CollectInvoices(
            due=due,
            books=self.books,
            collector=StripeInvoices(api, self.clock),
            customers=StripeCustomers(api),
            follow_payment=FollowPayment(self.clock),
            clock=self.clock,
        )

    async def customer_with(self, simulator: Simulator, payment_method: str) -> str:
        """The organization's customer at Stripe, who is charged by this."""
        customer_id = await self.customers.ensure(ACME, since=self.clock.now(), attempt_count=1)
        attached = simulator.form(f"/v1/payment_methods/{payment_method}/attach", customer=customer_id)
        await self.customers.keep_payment_method(customer_id, attached["id"])
        async with self.books.open(ACME) as book:
            await book.customer.set_stripe_id(customer_id)
        return customer_id

    async def deliver_all(self, simulator: Simulator) -> None:
        """Every event of Stripe's, told again, and handled."""
        for event in simulator.events():
            await self.deliver(event)
        await self.handle_all()

    async def pass_time(self, simulator: Simulator, **time: float) -> None:
        """Lets time pass here and at Stripe."""
        self.clock.advance(timedelta(**time))
        simulator.advance(timedelta(**time).total_seconds())

    async def status(self) -> str:
        """Of the subscription in force."""
        async with self.books.read(ACME) as book:
            current = await book.subscriptions.in_force()
        assert current is not None
        return current.status.value

    async def read(self, invoice: Invoice) -> Invoice:
        async with self.books.read(ACME) as book:
            return await book.invoices.get(invoice.invoice_id)

    async def work_until_idle(self) -> int:
        """Collects, moving the clock past every pause; answers how many attempts it took."""
        attempts = 0
        for _ in range(12):
            attempts += await self.collect()
            if not self.rows("SELECT 1 FROM billing.due_invoices WHERE parked_reason = ''"):
                return attempts
            self.clock.advance(timedelta(hours=1))
        raise AssertionError(self.rows("SELECT * FROM billing.due_invoices"))

    async def deliver(self, event: Any, *, secret: str = SECRET) -> None:
        payload = json.dumps(event).encode()
        timestamp = int(self.clock.now().timestamp())
        digest = hmac.new(secret.encode(), f"{timestamp}.".encode() + payload, hashlib.sha256).hexdigest()
        await self.store(payload, f"t={timestamp},v1={digest}")

    async def handle_all(self) -> None:
        while await self.handle():
            pass

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database.owner_url) as owner:
            return owner.execute(query.encode()).fetchall()


@asynccontextmanager
async def billing_scene(owner_url: str, simulator: Simulator) -> AsyncIterator[Scene]:
    """A scene on a fresh database: the organization is on starter, and nothing is invoiced."""
    clock = FakeClock(SystemClock().now())
    async with billing_database(owner_url) as database:
        books, plans = PostgresBooks(database.tenant), PostgresPlans(database.tenant, database.fleet)
        await plans.apply(PLANS, request_id="r", digest=b"", actor="tests")
        async with books.open(ACME) as book:
            timeline = begun("starter", start=datetime(2026, 1, 31, tzinfo=UTC))
            sold = await book.subscriptions.begin(timeline, by_tests(clock.now()))
        api = StripeApi(API_KEY, simulator.url, timeout_seconds=5)
        yield assemble(database, api, clock, sold)
        await api.close()


def assemble(database: BillingDatabase, api: StripeApi, clock: FakeClock, sold: Subscription) -> Scene:
    """Billing's workers, as the composition root puts them together."""
    books, plans = PostgresBooks(database.tenant), PostgresPlans(database.tenant, database.fleet)
    collector, customers = StripeInvoices(api, clock), StripeCustomers(api)
    payments, checkouts = StripePayments(api), StripeCheckouts(api)
    due, inbox = PostgresCollectionList(database.fleet), PostgresStripeInbox(database.fleet)
    follow_payment = FollowPayment(clock)
    in_force = SubscriptionInForce(books, plans, MemoryOrganizations({ACME: clock.now() - timedelta(days=400)}), clock)
    find_wanted_plan = FindWantedPlan(plans, MemoryUsage(*METERS.values()))
    act = ActOnSubscription(books, plans, in_force, clock)
    put_on_plan = PutOnPlan(
        in_force,
        CreateSubscription(books, find_wanted_plan, in_force, clock),
        ChangePlan(find_wanted_plan, act),
        CancelSubscription(act),
    )
    table = handlers(
        follow_invoice=FollowInvoice(collector, follow_payment),
        hold_draft=HoldDraft(collector, customers),
        keep_refunds=KeepRefunds(payments, collector, clock),
        keep_dispute=KeepDispute(payments, collector, clock),
        look_at_customer=LookAtCustomer(customers),
        use_first_payment_method=UseFirstPaymentMethod(customers),
        follow_subscription=FollowSubscription(StripeSubscriptions(api), customers, put_on_plan),
        finish_checkout=FinishCheckout(checkouts, customers, books, put_on_plan),
    )
    return Scene(
        database=database,
        books=books,
        collector=collector,
        customers=customers,
        checkouts=checkouts,
        clock=clock,
        collect=CollectInvoices(
            due=due, books=books, collector=collector, customers=customers, follow_payment=follow_payment, clock=clock
        ),
        hand_over_credit_notes=HandOverCreditNotes(
            PostgresCreditNoteList(database.fleet), books, StripeCreditNotes(api), clock
        ),
        dun=DunInvoices(
            due=PostgresDunningList(database.fleet),
            books=books,
            collector=collector,
            policy=DunningPolicy(),
            follow_payment=follow_payment,
            clock=clock,
        ),
        due=due,
        settle=SettleInvoice(books, due, collector, follow_payment, clock),
        store=StoreStripeEvent(inbox, [SECRET], clock),
        handle=HandleStripeEvents(inbox, books, table, clock),
        in_force=in_force,
        find_wanted_plan=find_wanted_plan,
        sold=sold,
    )
