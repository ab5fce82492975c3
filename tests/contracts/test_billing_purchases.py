"""Credits follow the money that they were bought for, on memory and on Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from kit.errors import InvalidField, InvalidState, LimitExceeded, RequestIdReused
from kit.ids import new_id
from kit.money import Money
from kit.postgres.embedded import EmbeddedPostgres
from kit.testing.clock import FakeClock
from services.billing.adapters.memory.books import MemoryBooks
from services.billing.adapters.postgres_books.books import PostgresBooks
from services.billing.application.buy_credits import BuyCredits
from services.billing.application.create_credit_note import CreateCreditNote
from services.billing.application.follow_payment import FollowPayment
from services.billing.application.give_back_credits import give_back_credits
from services.billing.application.ports.books import Books
from services.billing.application.set_tax_rates import SetTaxRates
from services.billing.application.settle_purchase import purchase_standing, settle_purchase
from services.billing.domain import limits
from services.billing.domain.closing import CutKind
from services.billing.domain.credit_notes import CitedLine, CreditDestination, CreditNoteReason
from services.billing.domain.credits import CreditAccount, CreditUse
from services.billing.domain.invoices import Invoice, InvoiceState, LineKind
from services.billing.domain.purchases import CreditPurchase, PurchaseStanding
from services.billing.domain.stripe_objects import StripeDispute, StripeInvoice, StripeInvoiceStatus, StripeRefund
from services.billing.domain.tax import TaxRate
from tests.integration.billing_database import billing_database

NOW = datetime(2026, 11, 25, 12, 30, tzinfo=UTC)
ACME, GLOBEX = "acme", "globex"
HUNDRED = Money(100_00, "USD")
VALID_DAYS = 365
VAT = TaxRate(display_name="VAT", percent=Decimal(19), jurisdiction="DE")


@dataclass
class World:
    """Billing's use cases over one store."""

    books: Books
    clock: FakeClock

    async def buy(self, amount: Money = HUNDRED, *, request_id: str = "", organization_id: str = ACME) -> Invoice:
        buy = BuyCredits(self.books, self.clock, valid_days=VALID_DAYS)
        return await buy(organization_id, amount, request_id=request_id or new_id("req"), actor="tests")

    async def tell(self, invoice: Invoice, status: StripeInvoiceStatus, *, has_failed: bool = False) -> str:
        """What Stripe says of it, as an event's handler hears it."""
        theirs = StripeInvoice(
            stripe_invoice_id="in_1",
            status=status,
            stripe_customer_id="cus_1",
            organization_id=ACME,
            invoice_id=invoice.invoice_id,
            number=invoice.number,
            total_minor=invoice.total.minor,
            currency_code=invoice.total.currency_code,
            has_failed=has_failed,
        )
        async with self.books.open(ACME) as book:
            current = await book.invoices.get(invoice.invoice_id)
            return await FollowPayment(self.clock)(book, current, theirs, actor="tests")

    async def pay(self, invoice: Invoice) -> None:
        await self.tell(invoice, StripeInvoiceStatus.PAID)

    async def bought(self) -> Invoice:
        invoice = await self.buy()
        await self.pay(invoice)
        return invoice

    async def use(self, minor: int, *, invoice_id: str = "inv_used") -> None:
        """Pays something with the oldest credits."""
        async with self.books.open(ACME) as book:
            (standing, *_) = await book.credits.standings()
            uses = [CreditUse(standing.grant.grant_id, Money(minor, "USD"))]
            await book.credits.apply(uses, invoice_id=invoice_id, at=self.clock.now())

    async def take_back(
        self, invoice: Invoice, minor: int | None = None, destination: CreditDestination = CreditDestination.REFUND
    ) -> None:
        cited = [] if minor is None else [CitedLine(line_number=1, amount=Money(minor, "USD"))]
        await CreateCreditNote(self.books, self.clock)(
            ACME,
            invoice.invoice_id,
            cited,
            reason=CreditNoteReason.ORDER_CHANGE,
            memo="",
            destination=destination,
            request_id=new_id("req"),
            actor="tests",
        )

    async def refund_at_stripe(self, invoice: Invoice, minor: int, status: str = "succeeded") -> None:
        refund = StripeRefund(stripe_refund_id="re_1", amount_minor=minor, currency_code="USD", status=status)
        async with self.books.open(ACME) as book:
            await book.payments.keep_refund(invoice.invoice_id, refund)
            await settle_purchase(book, invoice.invoice_id, at=self.clock.now(), actor="tests")

    async def balance(self) -> tuple[int, int, int]:
        """What was granted, is available, and was revoked."""
        async with self.books.read(ACME) as book:
            found = (await book.credits.balances()).get("USD", {})
        accounts = (CreditAccount.GRANTED, CreditAccount.AVAILABLE, CreditAccount.REVOKED)
        granted, available, revoked = (found[each].minor if each in found else 0 for each in accounts)
        return -granted, available, revoked

    async def standing(self, invoice: Invoice) -> PurchaseStanding:
        async with self.books.read(ACME) as book:
            found = await purchase_standing(book, invoice)
        assert found is not None
        return found

    async def tax(self) -> None:
        await SetTaxRates(self.books, self.clock)(ACME, [VAT], start_time=None, request_id=new_id("req"), actor="tests")


@pytest.fixture(params=["memory", "postgres"])
async def world(request: pytest.FixtureRequest, postgres: EmbeddedPostgres) -> AsyncIterator[World]:
    if request.param == "memory":
        yield World(MemoryBooks(), FakeClock(NOW))
        return
    async with billing_database(postgres.url) as database:
        yield World(PostgresBooks(database.tenant), FakeClock(NOW))


# --- the invoice


async def test_an_order_is_an_invoice_of_one_line_and_its_taxes_about_no_subscription(world: World) -> None:
    await world.tax()
    invoice = await world.buy()
    assert [(line.kind, line.amount.minor) for line in invoice.lines] == [
        (LineKind.CREDIT_PURCHASE, 100_00),
        (LineKind.TAX, 19_00),
    ]
    assert invoice.lines[0].description == "Prepaid credits of 100.00 USD, for 365 days from payment"
    assert (invoice.number, invoice.state, invoice.total) == ("TB-000001", InvoiceState.FINALIZED, Money(119_00, "USD"))
    assert (invoice.cut, invoice.subscription_id, invoice.plan_id) == (CutKind.PURCHASE, "", "")
    async with world.books.read(ACME) as book:
        assert await book.invoices.get(invoice.invoice_id) == invoice
        expected = CreditPurchase(invoice_id=invoice.invoice_id, amount=HUNDRED, valid_days=VALID_DAYS)
        assert await book.purchases.get(invoice.invoice_id) == expected
        assert await book.purchases.get("inv_other") is None
    async with world.books.read(GLOBEX) as book:
        assert await book.purchases.get(invoice.invoice_id) is None


async def test_credits_do_not_pay_for_credits(world: World) -> None:
    await world.bought()
    assert (await world.buy(Money(40_00, "USD"))).total == Money(40_00, "USD")
    assert await world.balance() == (100_00, 100_00, 0)


async def test_an_order_that_comes_twice_at_once_is_one_invoice(world: World) -> None:
    invoices = await asyncio.gather(*(world.buy(request_id="once") for _ in range(5)))
    assert len({each.invoice_id for each in invoices}) == 1
    with pytest.raises(RequestIdReused):
        await world.buy(Money(1, "USD"), request_id="once")
    assert (await world.buy()).number == "TB-000002"


@pytest.mark.parametrize(
    "amount", [Money(0, "USD"), Money(-1, "USD"), Money(limits.PURCHASE_MINOR_MAX + 1, "USD"), Money(1_001, "KWD")]
)
async def test_what_cannot_be_charged_cannot_be_bought(world: World, amount: Money) -> None:
    with pytest.raises(InvalidField):
        await world.buy(amount)


async def test_so_many_orders_may_be_unpaid_and_one_more_after_one_is_settled(world: World) -> None:
    first, *_ = [await world.buy() for _ in range(limits.UNPAID_PURCHASES_MAX)]
    with pytest.raises(LimitExceeded):
        await world.buy()
    await world.buy(organization_id=GLOBEX)
    await world.tell(first, StripeInvoiceStatus.VOID)
    await world.buy()


# --- what a payment does


async def test_a_payment_grants_the_price_before_tax_once_however_often_it_is_told(world: World) -> None:
    await world.tax()
    invoice = await world.buy()
    assert await world.balance() == (0, 0, 0)
    world.clock.advance(timedelta(days=3))
    for _ in range(3):
        await world.pay(invoice)
        world.clock.advance(timedelta(days=1))
    assert await world.balance() == (100_00, 100_00, 0)
    async with world.books.read(ACME) as book:
        (standing,) = await book.credits.standings()
    # From the payment on: who pays late has them as long.
    assert standing.grant.expire_time == NOW + timedelta(days=3 + VALID_DAYS)
    assert standing.grant.source_id == invoice.invoice_id


@pytest.mark.parametrize("status", [StripeInvoiceStatus.VOID, StripeInvoiceStatus.UNCOLLECTIBLE])
async def test_what_is_never_paid_grants_nothing_and_suspends_nobody(world: World, status: StripeInvoiceStatus) -> None:
    invoice = await world.buy()
    await world.tell(invoice, StripeInvoiceStatus.OPEN, has_failed=True)
    await world.tell(invoice, status)
    assert await world.balance() == (0, 0, 0)
    async with world.books.read(ACME) as book:
        assert await book.dunning.open_ones() == []


async def test_a_card_that_is_good_after_one_that_was_declined_buys_them(world: World) -> None:
    invoice = await world.buy()
    await world.tell(invoice, StripeInvoiceStatus.OPEN, has_failed=True)
    assert await world.balance() == (0, 0, 0)
    await world.pay(invoice)
    assert await world.balance() == (100_00, 100_00, 0)


# --- what goes back


async def test_what_is_taken_off_before_it_is_paid_is_not_granted(world: World) -> None:
    await world.tax()
    invoice = await world.buy()
    await world.take_back(invoice, 30_00, CreditDestination.CREDIT)
    await world.pay(invoice)
    assert await world.balance() == (70_00, 70_00, 0)
    assert (await world.standing(invoice)).missing.minor == 0


async def test_a_credit_note_revokes_as_much_of_the_credits_before_tax(world: World) -> None:
    await world.tax()
    invoice = await world.bought()
    await world.take_back(invoice, 30_00)
    assert await world.balance() == (100_00, 70_00, 30_00)
    await world.take_back(invoice)
    assert await world.balance() == (100_00, 0, 100_00)


async def test_what_was_used_is_never_revoked_and_what_is_missing_is_shown(world: World) -> None:
    invoice = await world.bought()
    await world.use(80_00)
    await world.take_back(invoice)
    assert await world.balance() == (100_00, 0, 20_00)
    standing = await world.standing(invoice)
    assert (standing.taken_back.minor, standing.revoked.minor, standing.missing.minor) == (100_00, 20_00, 80_00)


async def test_what_comes_back_from_a_voided_invoice_is_taken_if_its_money_went_back(world: World) -> None:
    invoice = await world.bought()
    await world.use(80_00)
    await world.take_back(invoice)
    async with world.books.open(ACME) as book:
        await give_back_credits(book, "inv_used", at=NOW)
    assert await world.balance() == (100_00, 0, 100_00)
    assert (await world.standing(invoice)).missing.minor == 0


async def test_a_refund_at_stripe_takes_the_part_of_the_credits_that_it_is_of_the_total_once(world: World) -> None:
    await world.tax()
    invoice = await world.bought()
    await world.refund_at_stripe(invoice, 59_50, status="pending")
    assert await world.balance() == (100_00, 100_00, 0)
    for _ in range(3):
        await world.refund_at_stripe(invoice, 59_50)
    assert await world.balance() == (100_00, 50_00, 50_00)


async def test_a_refund_that_pays_a_credit_note_out_takes_nothing_a_second_time(world: World) -> None:
    invoice = await world.bought()
    await world.take_back(invoice, 30_00)
    async with world.books.open(ACME) as book:
        refund = StripeRefund(
            stripe_refund_id="re_1",
            amount_minor=30_00,
            currency_code="USD",
            status="succeeded",
            credit_note_id="crn_1",
        )
        await book.payments.keep_refund(invoice.invoice_id, refund)
        await settle_purchase(book, invoice.invoice_id, at=NOW, actor="tests")
    assert await world.balance() == (100_00, 70_00, 30_00)


async def test_a_dispute_takes_the_credits_when_it_is_lost_and_not_before(world: World) -> None:
    invoice = await world.bought()
    dispute = StripeDispute(
        stripe_dispute_id="dp_1",
        stripe_charge_id="ch_1",
        amount_minor=100_00,
        currency_code="USD",
        status="needs_response",
        reason="fraudulent",
    )
    left = {}
    for status in ("needs_response", "won", "lost"):
        async with world.books.open(ACME) as book:
            await book.payments.keep_dispute(invoice.invoice_id, replace(dispute, status=status))
            await settle_purchase(book, invoice.invoice_id, at=NOW, actor="tests")
        left[status] = (await world.balance())[1]
    assert left == {"needs_response": 100_00, "won": 100_00, "lost": 0}


async def test_bought_credits_are_not_turned_into_credits_that_never_expire(world: World) -> None:
    invoice = await world.bought()
    with pytest.raises(InvalidState):
        await world.take_back(invoice, destination=CreditDestination.CREDIT)
    assert await world.balance() == (100_00, 100_00, 0)


async def test_of_a_grant_a_part_can_be_revoked_and_at_most_what_is_left(world: World) -> None:
    await world.bought()
    async with world.books.open(ACME) as book:
        (standing,) = await book.credits.standings()
        for minor, left in ((30_00, 70_00), (0, 70_00), (90_00, 0), (1, 0)):
            after = await book.credits.revoke(
                standing.grant.grant_id, at=NOW, actor="tests", request_id="", amount=Money(minor, "USD")
            )
            assert after.available.minor == left
        assert await book.credits.revoked(standing.grant.grant_id) == HUNDRED
