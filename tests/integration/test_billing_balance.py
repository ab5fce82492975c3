"""M2: for every invoice of random lives, total = sum of lines = ledger = what Stripe was told to charge.

Lives with coupons, taxes, credits, three currencies, late usage, other plans and an end go through the real books, the
real cuts and the real collector, to the Stripe stand-in.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from kit.ids import new_id
from kit.money import Money
from kit.postgres.embedded import EmbeddedPostgres
from kit.testing.clock import FakeClock
from services.billing.adapters.postgres_books.books import PostgresBooks
from services.billing.adapters.postgres_catalog import PostgresPlans
from services.billing.adapters.postgres_close_list import PostgresCloseList
from services.billing.adapters.postgres_coupons import PostgresCoupons
from services.billing.adapters.postgres_lists import PostgresCollectionList
from services.billing.adapters.postgres_money_lists import PostgresExpiryList
from services.billing.adapters.stripe.client import StripeApi
from services.billing.adapters.stripe.customers import StripeCustomers
from services.billing.adapters.stripe.invoices import StripeInvoices
from services.billing.application.collect_invoices import CollectInvoices
from services.billing.application.create_coupon import CreateCoupon
from services.billing.application.expire_credits import ExpireCredits
from services.billing.application.follow_payment import FollowPayment
from services.billing.application.grant_credits import GrantCredits
from services.billing.application.make_cut import Order
from services.billing.application.redeem_coupon import RedeemCoupon
from services.billing.application.set_tax_rates import SetTaxRates
from services.billing.domain.closing import Cut, CutKind
from services.billing.domain.coupons import Coupon, CouponDuration, DiscountCategory
from services.billing.domain.credits import CreditAccount, CreditMove
from services.billing.domain.dues import DueKey
from services.billing.domain.invoices import Invoice, InvoiceState, Line, LineKind
from services.billing.domain.tax import TaxRate
from tests.integration.billing_database import BillingDatabase, billing_database
from tests.integration.stripe_stand_in import API_KEY, StandIn, running_stand_in
from tests.properties.billing_lives import RATIOS, Life, life
from tests.properties.billing_oracle import OracleCharge, OraclePlan, owed
from tests.properties.kept_lives import Kept, Stores

# Stripe's library passes its body to httpx in a way that httpx has come to discourage; ours to read, not to fix.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

LIVES = 15
SOAK_LIVES = 1_000
CURRENCIES = ("USD", "JPY", "KWD")
"""With two, no and three decimals."""
KEPT_TABLES = ("closes", "invoices", "invoice_lines", "invoice_numbers", "credit_grants", "credit_entries")


@dataclass
class World:
    """Billing's stores, and Stripe."""

    database: BillingDatabase
    stores: Stores
    coupons: PostgresCoupons
    stripe: StandIn
    api: StripeApi

    def collect(self, clock: FakeClock) -> CollectInvoices:
        return CollectInvoices(
            due=PostgresCollectionList(self.database.fleet),
            books=self.stores.books,
            collector=StripeInvoices(self.api, clock),
            customers=StripeCustomers(self.api),
            follow_payment=FollowPayment(clock),
            clock=clock,
        )

    async def expire(self, clock: FakeClock) -> None:
        expire = ExpireCredits(PostgresExpiryList(self.database.fleet), self.stores.books, clock)
        while due := await expire.due():
            for organization_id in due:
                await expire(organization_id)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database.owner_url) as owner:
            return owner.execute(query.encode()).fetchall()

    def kept(self) -> dict[str, list[str]]:
        """Everything that money hangs on, as text."""
        return {
            table: [row for (row,) in self.rows(f"SELECT t::text FROM billing.{table} AS t ORDER BY 1")]  # noqa: S608 - names from above
            for table in KEPT_TABLES
        }

    def remember_nothing_as_done(self) -> None:
        """Every subscription is due for closing again, and every invoice for collection, as if nobody ever had."""
        with psycopg.connect(self.database.owner_url) as owner:
            owner.execute(
                "INSERT INTO billing.due_closes (organization_id, subscription_id, next_attempt_time)"
                " SELECT DISTINCT organization_id, subscription_id, close_time FROM billing.closes"
                " WHERE (organization_id, subscription_id, close_time) IN (SELECT organization_id, subscription_id,"
                " max(close_time) FROM billing.closes GROUP BY 1, 2)"
            )
            owner.execute(
                "INSERT INTO billing.due_invoices (organization_id, invoice_id, next_attempt_time)"
                " SELECT organization_id, invoice_id, finalize_time FROM billing.invoices WHERE total_minor > 0"
            )

    async def charged(self) -> dict[str, Any]:
        """Every invoice at Stripe, by its number."""
        found: list[Any] = []
        page: dict[str, Any] = {"has_more": True}
        while page["has_more"]:
            after = {"starting_after": found[-1]["id"]} if found else {}
            page = await self.stripe.get("/v1/invoices", limit=100, **after)
            found += page["data"]
        numbers = {each["number"]: each for each in found}
        assert len(numbers) == len(found)
        return numbers


@asynccontextmanager
async def world(owner_url: str, folder: Path) -> AsyncIterator[World]:
    async with billing_database(owner_url) as database, running_stand_in(folder) as stripe:
        api = StripeApi(API_KEY, "http://stripe.example")
        await api.close()
        # From here on Stripe's library talks to the stand-in in this process.
        api._http._client_async = stripe._http
        stores = Stores(
            PostgresBooks(database.tenant),
            PostgresPlans(database.tenant, database.fleet),
            PostgresCloseList(database.fleet),
        )
        yield World(database, stores, PostgresCoupons(database.tenant, database.fleet), stripe, api)


class PaidLife(Kept):
    """A life whose customer has taxes, credits and a coupon, and whose invoices are collected."""

    def __init__(self, one: Life, world: World) -> None:
        super().__init__(one, world.stores)
        self.world = world
        self.dice = random.Random(f"money {one.seed}")
        self.has_coupon = False
        self._collect = world.collect(self.clock)

    async def at(self, moment: datetime) -> None:
        event = self.dice.random()
        if event < 0.06:
            await self._grant(moment)
        elif event < 0.10:
            await self._tax()
        elif event < 0.30 and not self.has_coupon and self.one.seed % 2:
            await self._redeem()
        await super().at(moment)
        await self.world.expire(self.clock)
        await self._collect()

    async def _grant(self, moment: datetime) -> None:
        currency_code = self.dice.choice([self.one.case.currency_code] * 3 + ["EUR"])
        await GrantCredits(self.stores.books, self.clock)(
            self.name,
            Money(self.dice.choice([1, 999, self.dice.randrange(1, 10**6), 10**8]), currency_code),
            priority=self.dice.choice([None, 0, 5]),
            expire_time=self.dice.choice([None, moment + timedelta(days=self.dice.randint(1, 90))]),
            description="",
            request_id=new_id("req"),
            actor="tests",
        )

    async def _tax(self) -> None:
        percents = [Decimal(each) for each in self.dice.sample(["7", "8.875", "19", "0.001"], self.dice.randint(0, 2))]
        rates = [
            TaxRate(display_name=f"VAT{place}", percent=percent, jurisdiction="DE")
            for place, percent in enumerate(percents)
        ]
        change = SetTaxRates(self.stores.books, self.clock)
        await change(self.name, rates, start_time=None, request_id=new_id("req"), actor="tests")

    async def _redeem(self) -> None:
        self.has_coupon = True
        duration = self.dice.choice(list(CouponDuration))
        is_percent = self.dice.random() < 0.6
        coupon = Coupon(
            coupon_id=f"C{self.one.seed}",
            display_name="Coupon",
            duration=duration,
            month_count=2 if duration is CouponDuration.MONTHS else 0,
            percent=Decimal(self.dice.choice(["50", "100", "33.333"])) if is_percent else None,
            amounts=() if is_percent else (Money(self.dice.choice([10, 12_340, 10**7]), self.one.case.currency_code),),
            categories=frozenset(DiscountCategory) if is_percent else frozenset({DiscountCategory.USAGE}),
        )
        await CreateCoupon(self.world.coupons)(coupon, request_id=new_id("req"), actor="tests")
        redeem = RedeemCoupon(self.stores.books, self.world.coupons, self.clock)
        await redeem(self.name, coupon.coupon_id, request_id=new_id("req"), actor="tests")


def chargeable(one: Life) -> Life:
    """The same life at prices of which Stripe takes every invoice, in up to eight digits; in each currency in turn."""

    def price(text: str) -> str:
        return text if Decimal(text) <= 1 else f"{Decimal(text) / 10_000:f}"

    def charge(each: OracleCharge) -> OracleCharge:
        numbers = (price(each.numbers[0]), *each.numbers[1:]) if each.numbers else ()
        if each.kind == "package":
            numbers = (numbers[0], str(int(numbers[1]) * RATIOS[each.meter]))
        steps = tuple((up_to, price(unit), price(flat)) for up_to, unit, flat in each.steps)
        return replace(each, numbers=numbers, steps=steps)

    plans: dict[str, OraclePlan] = {
        phase.plan.name: replace(phase.plan, charges=tuple(charge(each) for each in phase.plan.charges))
        for phase in one.case.phases
    }
    phases = tuple(replace(phase, plan=plans[phase.plan.name]) for phase in one.case.phases)
    # A coupon is redeemed on the way, by billing itself.
    currency_code = CURRENCIES[one.seed % len(CURRENCIES)]
    return replace(one, case=replace(one.case, currency_code=currency_code, phases=phases, discount=None))


def require_sums(invoices: Iterable[Invoice]) -> None:
    """Each total is the sum of its lines, and what has to be collected is at Stripe."""
    for invoice in invoices:
        assert invoice.total.minor == sum(line.amount.minor for line in invoice.lines) >= 0, invoice.number
        assert {line.amount.currency_code for line in invoice.lines} <= {invoice.total.currency_code}, invoice.number
        assert bool(invoice.stripe_invoice_id) == (invoice.total.minor > 0), invoice.number
        assert invoice.state is (InvoiceState.FINALIZED if invoice.total.minor else InvoiceState.PAID), invoice.number


def require_usage_of_ledger(kept: PaidLife, invoices: Iterable[Invoice]) -> None:
    """What the lines of each charge and segment of a period count is what the ledger had, up to the last event that
    they cite. What came after is on no line because it is worth nothing: see require_nothing_left.
    """
    lines: dict[tuple[str, DueKey], list[Line]] = {}
    for invoice in invoices:
        for line in invoice.lines:
            if line.meter and line.key is not None:
                lines.setdefault((invoice.subscription_id, line.key), []).append(line)
    for (_, key), of_key in lines.items():
        last, counted = of_key[-1], sum(line.difference_quantity for line in of_key)
        seen = kept.usage.events[kept.name][: last.last_sequence]
        used = sum(
            event.quantity
            for event in seen
            if event.meter == last.meter and last.period.start <= event.at < last.period.end
        )
        assert counted == used, (kept.one.seed, key)


async def require_nothing_left(kept: PaidLife) -> None:
    """A look at all periods again, with everything that the ledger has, finds nothing to invoice; making the same cuts
    again answers what was made.
    """
    subscription_id = f"sub-{kept.name}"
    timeline = kept.timeline(kept.clock.now())
    for period in timeline.periods(kept.one.case.end):
        draft = await kept.make_cut.draft(kept.name, subscription_id, Cut(CutKind.RERATED, period.start, 10_000))
        assert draft.lines == (), (kept.one.seed, period)
    async with kept.stores.books.read(kept.name) as reader:
        closes = await reader.closes.of(subscription_id)
    assert closes
    for close in closes:
        assert await kept.make_cut(kept.name, subscription_id, close.cut, Order(actor="tests")) == close


async def require_balanced_credits(kept: PaidLife, invoices: Iterable[Invoice]) -> None:
    """The journal's accounts sum to zero, none is overdrawn, and it has the same credits as the invoices."""
    async with kept.stores.books.read(kept.name) as reader:
        balances = await reader.credits.balances()
        journal = await reader.credits.journal(before=None, count=10_000)
    assert sorted(entry.number for entry in journal) == list(range(1, len(journal) + 1))
    for accounts in balances.values():
        assert sum(balance.minor for balance in accounts.values()) == 0
        assert all(balance.minor >= 0 for name, balance in accounts.items() if name is not CreditAccount.GRANTED)
    for invoice in invoices:
        applied = sum(
            entry.amount.minor
            for entry in journal
            if entry.invoice_id == invoice.invoice_id and entry.move is CreditMove.APPLY
        )
        assert applied == invoice.credits.minor, invoice.number
    granted = kept.world.rows(
        "SELECT source_id, amount_minor FROM billing.credit_grants"  # noqa: S608 - a name from above
        f" WHERE organization_id = '{kept.name}' AND source = 'INVOICE' ORDER BY 1"
    )
    put = [
        (each.invoice_id, sum(line.amount.minor for line in each.lines if line.kind is LineKind.TO_CREDIT))
        for each in sorted(invoices, key=lambda each: each.invoice_id)
    ]
    assert [(source_id, int(minor)) for source_id, minor in granted] == [each for each in put if each[1]]


async def require_charged(world: World, invoices: Mapping[str, Invoice]) -> None:
    """Stripe has every invoice over something, and no other: number, currency, total and the sum of its lines."""
    charged = await world.charged()
    assert charged.keys() == {number for number, invoice in invoices.items() if invoice.total.minor > 0}
    for number, theirs in charged.items():
        ours = invoices[number]
        listed = await world.stripe.get(f"/v1/invoices/{theirs['id']}/lines", limit=100)
        assert not listed["has_more"], number
        told = sum(line["amount"] for line in listed["data"])
        assert theirs["id"] == ours.stripe_invoice_id, number
        assert theirs["currency"].upper() == ours.total.currency_code, number
        assert theirs["total"] == theirs["subtotal"] == told == ours.total.minor, number
        assert theirs["status"] in ("open", "paid"), number


async def require_balance(world: World, seeds: Iterable[int]) -> list[Invoice]:
    """Lives of these seeds, one after the other; afterwards all books agree. Answers all invoices."""
    everything: dict[str, Invoice] = {}
    for seed in seeds:
        kept = PaidLife(chargeable(life(seed)), world)
        await kept.live()
        async with world.stores.books.read(kept.name) as reader:
            newest_first = await reader.invoices.newest_first(before=None, count=10_000)
        # Those of one instant in the order of their numbers, which is the one they were made in.
        invoices = sorted(newest_first, key=lambda each: int(each.number.rpartition("-")[2]))
        everything |= {invoice.number: invoice for invoice in invoices}
        require_sums(invoices)
        require_usage_of_ledger(kept, invoices)
        await require_balanced_credits(kept, invoices)
        await require_nothing_left(kept)
        if not kept.has_coupon:
            assert sum(invoice.subtotal.minor for invoice in invoices) == owed(kept.one.case), seed
    assert sorted(everything) == [f"TB-{number:06}" for number in range(1, len(everything) + 1)]
    assert world.rows("SELECT organization_id FROM billing.due_closes") == []
    assert world.rows("SELECT organization_id, parked_reason, last_error FROM billing.due_invoices") == []
    await require_charged(world, everything)
    await require_again_changes_nothing(world)
    return list(everything.values())


async def require_again_changes_nothing(world: World) -> None:
    """All of the workers run again, after all of these lives, as if nobody had noted what they did."""
    clock = FakeClock(datetime(2040, 1, 1, tzinfo=UTC))
    hand = Kept(life(0), world.stores)
    hand.clock.advance(clock.now() - hand.clock.now())
    await world.expire(clock)
    before, charged = world.kept(), await world.charged()
    world.remember_nothing_as_done()
    for work in (hand.close_due, world.collect(clock)):
        while await work():
            pass
    await world.expire(clock)
    assert world.rows("SELECT organization_id FROM billing.due_closes") == []
    assert world.rows("SELECT organization_id, parked_reason, last_error FROM billing.due_invoices") == []
    assert world.kept() == before
    assert await world.charged() == charged


async def test_m2_every_invoice_is_the_sum_of_its_lines_the_ledgers_usage_and_what_stripe_charges(
    postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    async with world(postgres.url, tmp_path) as assembled:
        invoices = await require_balance(assembled, range(LIVES))
        # The lives have everything in them that could put a sum wrong.
        assert {invoice.total.currency_code for invoice in invoices} == set(CURRENCIES)
        kinds = {line.kind for invoice in invoices for line in invoice.lines}
        assert kinds >= set(LineKind) - {LineKind.CREDIT_PURCHASE}


@pytest.mark.soak
async def test_m2_a_thousand_random_lives_balance(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    first = secrets.randbelow(2**48)
    print(f"seeds from {first} to {first + SOAK_LIVES - 1}")  # noqa: T201 - whoever runs it needs them
    async with world(postgres.url, tmp_path) as assembled:
        await require_balance(assembled, range(first, first + SOAK_LIVES))
