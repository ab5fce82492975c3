"""What coupons, taxes and credits make of invoices, on a real database and over months."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import psycopg
import pytest

from kit.errors import InvalidState
from kit.ids import new_id
from kit.money import Money
from kit.postgres.database import Database
from kit.postgres.embedded import EmbeddedPostgres
from kit.testing.clock import FakeClock
from services.billing.adapters.memory.organizations import MemoryOrganizations
from services.billing.adapters.memory.usage import MemoryUsage, Used
from services.billing.adapters.postgres_books.books import PostgresBooks
from services.billing.adapters.postgres_catalog import PostgresPlans
from services.billing.adapters.postgres_close_list import PostgresCloseList
from services.billing.adapters.postgres_coupons import PostgresCoupons
from services.billing.application.close_due_subscriptions import CloseDueSubscriptions
from services.billing.application.create_coupon import CreateCoupon
from services.billing.application.create_credit_note import CreateCreditNote
from services.billing.application.create_subscription import CreateSubscription
from services.billing.application.find_plan import FindPlan
from services.billing.application.find_wanted_plan import FindWantedPlan
from services.billing.application.grant_credits import GrantCredits
from services.billing.application.make_cut import MakeCut
from services.billing.application.redeem_coupon import RedeemCoupon
from services.billing.application.set_billing_terms import SetBillingTerms
from services.billing.application.set_tax_rates import SetTaxRates
from services.billing.application.subscription_in_force import SubscriptionInForce
from services.billing.domain.coupons import Coupon, CouponDuration, Redemption
from services.billing.domain.credit_notes import CreditDestination, CreditNoteReason
from services.billing.domain.credits import CreditAccount
from services.billing.domain.errors import CurrencyNotOffered
from services.billing.domain.invoices import Invoice, LineKind
from services.billing.domain.profile import BillingTerms
from services.billing.domain.tax import TaxRate
from tests.integration.billing_database import BillingDatabase, billing_database
from tests.unit.billing.plans import METERS, MINUTE, PLANS, STARTER, book, minutes_charge

# The 31st: the days on which months begin differ.
NOW = datetime(2026, 12, 31, 12, tzinfo=UTC)
DAY = timedelta(days=1)
IN_YEN = book(Money(7000, "JPY"), minutes_charge(included=1_000))
BOTH = replace(STARTER, plan_id="both", price_books=(*STARTER.price_books, IN_YEN))
CUSTOMERS = [f"org-{number}" for number in range(8)]
HALF_FOR_THREE = Coupon(
    coupon_id="LAUNCH50",
    display_name="Half price",
    duration=CouponDuration.MONTHS,
    month_count=3,
    percent=Decimal(50),
    redemptions_max=5,
)


@dataclass
class Scene:
    """Billing's use cases over a database, and the time."""

    database: BillingDatabase
    books: PostgresBooks
    clock: FakeClock
    usage: MemoryUsage
    coupons: PostgresCoupons
    create: CreateSubscription
    close_due: CloseDueSubscriptions

    async def sell(self, organization_id: str, plan_id: str = "starter") -> None:
        await self.create(organization_id, plan_id, start_time=None, request_id=new_id("req"), actor="tests")

    async def pass_days(self, count: int) -> None:
        """Lets time pass day by day, and what is due by itself happen."""
        for _ in range(count):
            self.clock.advance(DAY)
            while await self.close_due():
                pass

    async def invoices(self, organization_id: str) -> Sequence[Invoice]:
        """Oldest first."""
        async with self.books.read(organization_id) as reader:
            return list(reversed(await reader.invoices.newest_first(before=None, count=100)))

    async def available(self, organization_id: str) -> Money:
        async with self.books.read(organization_id) as reader:
            return (await reader.credits.balances())["USD"][CreditAccount.AVAILABLE]


@pytest.fixture
async def scene(postgres: EmbeddedPostgres) -> AsyncIterator[Scene]:
    clock, usage = FakeClock(NOW), MemoryUsage(*METERS.values())
    organizations = MemoryOrganizations(dict.fromkeys(CUSTOMERS, NOW - 60 * DAY))
    async with billing_database(postgres.url) as database:
        books, plans = PostgresBooks(database.tenant), PostgresPlans(database.tenant, database.fleet)
        await plans.apply([*PLANS, BOTH], request_id="stock", digest=b"", actor="tests")
        in_force = SubscriptionInForce(books, plans, organizations, clock)
        make_cut = MakeCut(books, FindPlan(books, plans), usage, clock)
        yield Scene(
            database=database,
            books=books,
            clock=clock,
            usage=usage,
            coupons=PostgresCoupons(database.tenant, database.fleet),
            create=CreateSubscription(books, FindWantedPlan(plans, usage), in_force, clock),
            close_due=CloseDueSubscriptions(PostgresCloseList(database.fleet), books, make_cut, clock),
        )


def sums(invoices: Sequence[Invoice], *kinds: LineKind) -> list[int]:
    """What the lines of these kinds come to on each invoice, in cents."""
    return [sum(line.amount.minor for line in each.lines if line.kind in kinds) for each in invoices]


async def test_half_price_for_three_months_for_the_first_five_customers(scene: Scene) -> None:
    await CreateCoupon(scene.coupons)(HALF_FOR_THREE, request_id="coupon", actor="tests")
    for customer in CUSTOMERS:
        await scene.sell(customer)

    async def redeem(customer: str) -> Redemption | None:
        pool = Database(scene.database.tenant_url)
        try:
            verb = RedeemCoupon(PostgresBooks(pool), scene.coupons, scene.clock)
            return await verb(customer, "LAUNCH50", request_id="redeem", actor="tests")
        except InvalidState:
            return None
        finally:
            await pool.close()

    redeemed = await asyncio.gather(*map(redeem, CUSTOMERS))
    lucky = [customer for customer, redemption in zip(CUSTOMERS, redeemed, strict=True) if redemption]
    assert len(lucky) == 5
    for customer in CUSTOMERS:
        # 100 minutes beyond what is included, in each of the first five months.
        for number in range(5):
            at = NOW + timedelta(days=31 * number + 1)
            scene.usage.events[customer].append(Used("agent_minutes", 1_100 * MINUTE, at))
    await scene.pass_days(5 * 31)
    for customer in CUSTOMERS:
        invoices = await scene.invoices(customer)
        base = sums(invoices, LineKind.BASE_FEE)
        assert base == [4900] * len(base)
        overage = sums(invoices, LineKind.OVERAGE)
        assert overage == [0] + [500] * (len(overage) - 1)
        # The opening has the first month's price; each later invoice a month's price and the usage of the one before.
        expected = [-2450, -2450 - 250, -2450 - 250, -250] if customer in lucky else [0] * 4
        assert sums(invoices, LineKind.DISCOUNT)[:4] == expected
        assert set(sums(invoices, LineKind.DISCOUNT)[4:]) == {0}
        assert [each.total.minor for each in invoices] == [
            sum(line.amount.minor for line in each.lines) for each in invoices
        ]


async def test_tax_is_charged_on_what_discounts_leave_and_credits_pay_the_last(scene: Scene) -> None:
    await CreateCoupon(scene.coupons)(HALF_FOR_THREE, request_id="coupon", actor="tests")
    await scene.sell("org-0")
    await RedeemCoupon(scene.books, scene.coupons, scene.clock)("org-0", "LAUNCH50", request_id="r1", actor="tests")
    vat = TaxRate(display_name="VAT", percent=Decimal(19), jurisdiction="DE")
    await SetTaxRates(scene.books, scene.clock)("org-0", [vat], start_time=None, request_id="r2", actor="tests")
    await GrantCredits(scene.books, scene.clock)(
        "org-0",
        Money(4000, "USD"),
        priority=None,
        expire_time=None,
        description="",
        request_id="r3",
        actor="tests",
    )
    await scene.pass_days(32)
    opening, second = await scene.invoices("org-0")
    # 24.50 and 19 % of it, 29.16, are paid by credits whole; of the next the 10.84 that are left of them.
    assert [line.kind.value for line in opening.lines] == ["BASE_FEE", "DISCOUNT", "TAX", "CREDIT"]
    assert [line.amount.minor for line in opening.lines] == [4900, -2450, 466, -2916]
    assert opening.total == Money(0, "USD")
    assert sums([second], LineKind.TAX, LineKind.CREDIT) == [466 - 1084]
    assert second.total == Money(2916 - 1084, "USD")
    assert await scene.available("org-0") == Money(0, "USD")


async def test_a_new_tax_is_charged_from_its_first_instant_on(scene: Scene) -> None:
    await scene.sell("org-0")
    vat = TaxRate(display_name="VAT", percent=Decimal(20), jurisdiction="GB")
    verb = SetTaxRates(scene.books, scene.clock)
    await verb("org-0", [vat], start_time=NOW + 40 * DAY, request_id="r", actor="tests")
    await scene.pass_days(70)
    assert sums(await scene.invoices("org-0"), LineKind.TAX) == [0, 0, 980]


async def test_what_was_agreed_is_the_currency_of_a_subscription_that_names_none(scene: Scene) -> None:
    for customer, currency_code in (("org-0", "JPY"), ("org-1", ""), ("org-2", "EUR")):
        terms = BillingTerms(currency_code=currency_code)
        verb = SetBillingTerms(scene.books, scene.clock)
        await verb(customer, terms, request_id="terms", actor="tests")
    await scene.sell("org-0", "both")
    await scene.sell("org-1", "both")
    await scene.pass_days(1)
    totals = [(await scene.invoices(customer))[0].total for customer in ("org-0", "org-1")]
    assert [total.currency_code for total in totals] == ["JPY", "USD"]
    with pytest.raises(CurrencyNotOffered):
        await scene.sell("org-2")


async def test_a_credit_note_takes_back_tax_and_what_credits_paid_and_the_next_invoice_is_paid_by_it(
    scene: Scene,
) -> None:
    await scene.sell("org-0")
    vat = TaxRate(display_name="VAT", percent=Decimal(10), jurisdiction="AU")
    await SetTaxRates(scene.books, scene.clock)("org-0", [vat], start_time=None, request_id="r", actor="tests")
    await scene.pass_days(1)
    (opening,) = await scene.invoices("org-0")
    async with scene.books.open("org-0") as opened:
        await opened.invoices.set_paid(opening.invoice_id, "in_1")
    note = await CreateCreditNote(scene.books, scene.clock)(
        "org-0",
        opening.invoice_id,
        [],
        reason=CreditNoteReason.GOODWILL,
        memo="",
        destination=CreditDestination.CREDIT,
        request_id="note",
        actor="tests",
    )
    assert [line.amount.minor for line in note.lines] == [4900, 490]
    assert await scene.available("org-0") == Money(5390, "USD")
    await scene.pass_days(31)
    second = (await scene.invoices("org-0"))[-1]
    assert second.total == Money(0, "USD")
    assert await scene.available("org-0") == Money(0, "USD")
    with psycopg.connect(scene.database.owner_url) as owner:
        rows = owner.execute(
            "SELECT sum(amount_minor) FILTER (WHERE move = 'GRANT'), sum(amount_minor) FILTER (WHERE move = 'APPLY')"
            " FROM billing.credit_entries"
        ).fetchall()
    assert rows == [(Decimal(5390), Decimal(5390))]
