"""Every request that billing sends to Stripe is one that Stripe's own OpenAPI document allows."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kit.money import Money
from kit.testing.clock import FakeClock
from services.billing.adapters.stripe.checkout import StripeCheckouts
from services.billing.adapters.stripe.client import StripeApi
from services.billing.adapters.stripe.credit_notes import StripeCreditNotes
from services.billing.adapters.stripe.customers import StripeCustomers
from services.billing.adapters.stripe.invoices import StripeInvoices
from services.billing.adapters.stripe.payments import StripePayments
from services.billing.adapters.stripe.records import StripeRecords
from services.billing.adapters.stripe.subscriptions import StripeSubscriptions
from services.billing.application.ports.stripe import CheckoutOrder
from services.billing.domain.credit_notes import CreditNote, CreditNoteReason, CreditSplit
from services.billing.domain.errors import CollectionRefused
from services.billing.domain.invoices import Invoice, InvoiceState, Line, LineKind
from services.billing.domain.payments import Settlement
from services.billing.domain.periods import Period
from services.billing.domain.profile import BY_CARD, BillingProfile, BillingTerms, CollectionMethod, Party

# Stripe's library passes its body to httpx in a way that httpx has come to discourage; ours to read, not to fix.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
PERIOD = Period(NOW, NOW + timedelta(days=30))


def usd(minor: int) -> Money:
    return Money(minor, "USD")


INVOICE = Invoice(
    organization_id="acme",
    subscription_id="sub_1",
    plan_id="starter",
    plan_version=1,
    state=InvoiceState.FINALIZED,
    total=usd(4400),
    lines=(
        Line(kind=LineKind.BASE_FEE, description="Starter", amount=usd(4900), period=PERIOD),
        Line(kind=LineKind.BASE_FEE, description="less", amount=usd(-500), period=PERIOD),
    ),
    period=PERIOD,
    closed_through_sequence=1,
    invoice_id="inv_1",
    number="TB-000001",
    finalize_time=NOW,
)
NOTE = CreditNote(
    credit_note_id="cn_1",
    number="CN-000001",
    organization_id="acme",
    invoice_id="inv_1",
    invoice_number="TB-000001",
    legal_entity_id="default",
    lines=(),
    total=usd(900),
    split=CreditSplit(reduced=usd(400), credited=usd(0), refunded=usd(500)),
    reason=CreditNoteReason.GOODWILL,
    memo="sorry",
    create_time=NOW,
)
BY_TRANSFER = BillingTerms(collection_method=CollectionMethod.SEND_INVOICE, term_days=30)
PROFILE = BillingProfile(
    version=1,
    party=Party(
        legal_name="Acme GmbH",
        address_lines=("Haus 1", "Ring 2", "10115 Berlin"),
        country_code="DE",
        mail="a@acme.de",
        tax_id="DE123456789",
    ),
)
ORDER = CheckoutOrder(
    order_id="o",
    organization_id="acme",
    plan_id="pro",
    stripe_customer_id="cus_1",
    currency_code="USD",
    success_url="https://app.example.com/done",
    cancel_url="https://app.example.com/plans",
    message="Pro: USD 149.00 per month, and usage as priced.",
)


@dataclass
class Adapters:
    """All that talks to Stripe."""

    invoices: StripeInvoices
    customers: StripeCustomers
    subscriptions: StripeSubscriptions
    payments: StripePayments
    credit_notes: StripeCreditNotes
    checkouts: StripeCheckouts
    records: StripeRecords


@pytest.fixture
async def adapters(stripe_mock: str) -> AsyncIterator[Adapters]:
    api = StripeApi("sk_test_mock", stripe_mock)
    yield Adapters(
        StripeInvoices(api, FakeClock(NOW)),
        StripeCustomers(api),
        StripeSubscriptions(api),
        StripePayments(api),
        StripeCreditNotes(api),
        StripeCheckouts(api),
        StripeRecords(api, FakeClock(NOW)),
    )
    await api.close()


async def unless_it_differs(call: Awaitable[object]) -> None:
    """stripe-mock remembers nothing: what it answers is not what was asked, so the comparison at the end fails."""
    with pytest.raises(CollectionRefused, match=r"ours is|no such invoice|carries another|at Stripe"):
        await call


CALLS: dict[str, Callable[[Adapters], Awaitable[object]]] = {
    "invoices.collect": lambda to: unless_it_differs(to.invoices.collect(INVOICE, "cus_1", attempt_count=1)),
    "invoices.adopt": lambda to: unless_it_differs(
        to.invoices.adopt(INVOICE, "in_1", terms=BY_TRANSFER, attempt_count=1)
    ),
    "invoices.hold": lambda to: to.invoices.hold("in_1"),
    "invoices.look_up": lambda to: to.invoices.look_up("in_1"),
    "invoices.find": lambda to: to.invoices.find(INVOICE, "cus_1"),
    "invoices.settle": lambda to: to.invoices.settle("in_1", Settlement.UNCOLLECTIBLE),
    "customers.ensure": lambda to: to.customers.ensure("acme", since=NOW, attempt_count=2),
    "customers.describe": lambda to: to.customers.describe("cus_1", PROFILE),
    "customers.look_up": lambda to: to.customers.look_up("cus_1"),
    "customers.payment_method_owner": lambda to: to.customers.payment_method_owner("pm_1"),
    "customers.keep_payment_method": lambda to: to.customers.keep_payment_method("cus_1", "pm_1"),
    "subscriptions.of_customer": lambda to: to.subscriptions.of_customer("cus_1"),
    "subscriptions.look_up": lambda to: to.subscriptions.look_up("sub_1"),
    "payments.charge": lambda to: to.payments.charge("ch_1"),
    "payments.charge_of_refund": lambda to: to.payments.charge_of_refund("re_1"),
    "payments.dispute": lambda to: to.payments.dispute("dp_1"),
    "credit_notes.take_back": lambda to: to.credit_notes.take_back(NOTE, "in_1", attempt_count=2),
    "checkouts.begin": lambda to: to.checkouts.begin(ORDER),
    "checkouts.look_up": lambda to: to.checkouts.look_up("cs_1"),
    "records.customers": lambda to: to.records.customers(since=NOW),
    "records.read": lambda to: to.records.read(["cus_2"], kept="cus_1", invoices=["in_1"], since=NOW),
    "records.disown": lambda to: to.records.disown("in_1"),
    "records.refund": lambda to: to.records.refund("ch_1", 100),
    "checkouts.open_portal": lambda to: to.checkouts.open_portal("cus_1", "https://app.example.com/"),
}


def test_every_method_that_calls_stripe_is_among_the_calls_below() -> None:
    kinds = inspect.get_annotations(Adapters, eval_str=True)
    methods = {
        f"{name}.{method}"
        for name, kind in kinds.items()
        for method, _ in inspect.getmembers(kind, inspect.iscoroutinefunction)
        if not method.startswith("_")
    }
    assert methods == set(CALLS)


@pytest.mark.parametrize("call", CALLS)
async def test_stripes_own_document_allows_what_is_sent(adapters: Adapters, call: str) -> None:
    await CALLS[call](adapters)


@pytest.mark.parametrize("settlement", list(Settlement))
async def test_stripes_own_document_allows_every_settlement(adapters: Adapters, settlement: Settlement) -> None:
    await adapters.invoices.settle("in_1", settlement)


async def test_what_is_inside_of_a_collection_is_allowed_call_by_call(adapters: Adapters) -> None:
    invoices = adapters.invoices
    for terms in (BY_CARD, BY_TRANSFER):
        await invoices._create(INVOICE, "cus_1", terms, 1)
    await invoices._add_lines(INVOICE, "in_1", 1)
    await invoices._take_lines_off(INVOICE, "in_1", 1)
    draft = await invoices.look_up("in_1")
    assert draft is not None
    equal = replace(INVOICE, number=draft.number, total=Money(draft.total_minor, draft.currency_code))
    await unless_it_differs(invoices.adopt(equal, "in_1", attempt_count=2))


async def test_stripe_mock_refuses_what_the_document_does_not_know(adapters: Adapters) -> None:
    api = adapters.customers._api
    with pytest.raises(CollectionRefused, match="additional properties"):
        await api(api.v1.customers.create_async, {"nonsense": "1"})  # type: ignore[arg-type]


def test_b43_no_usage_is_reported_to_stripe() -> None:
    sources = [path.read_text(encoding="utf-8") for path in Path("services/billing").rglob("*.py")]
    assert not any("meter_events" in source or "usage_records" in source for source in sources)
