"""Billing profiles, taxes, coupons, credits and credit notes over gRPC, on the shipped fakes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest

from kit.grpc.access import TENANT_SCOPES
from kit.grpc.call import CallerKind, Principal
from kit.grpc.convert import moment_to_pb
from kit.grpc.errors import reason_of
from kit.grpc.identity import Authenticator
from kit.grpc.server import Application
from kit.ids import new_id
from kit.money import Money
from kit.testing.clock import FakeClock
from kit.testing.servers import KnownKeys, serving
from services.billing.adapters.memory.books import MemoryBooks
from services.billing.adapters.memory.operators import MemoryCoupons, MemoryExpiryList, MemoryLegalEntities
from services.billing.adapters.memory.usage import MemoryUsage
from services.billing.adapters.typst_papers.renderer import TypstPapers
from services.billing.application.buy_credits import BuyCredits
from services.billing.application.expire_credits import ExpireCredits
from services.billing.application.ports.subscriptions import Act
from services.billing.application.print_papers import PrintPapers
from services.billing.domain.credits import apply_credits
from services.billing.domain.invoices import Invoice, InvoiceState, Line, LineKind, total_of
from services.billing.domain.periods import Period, nth_start
from services.billing.domain.subscriptions import Subscription
from services.billing.domain.timeline import Phase, PlanRef, Timeline
from services.billing.rpc.coupon_servicer import CouponServicer
from services.billing.rpc.credit_note_servicer import CreditNoteServicer
from services.billing.rpc.credit_servicer import CreditServicer
from services.billing.rpc.legal_entity_servicer import LegalEntityServicer
from services.billing.rpc.profile_servicer import BillingProfileServicer
from tests.papers import text_of_pdf
from tollbook.billing.v1 import (
    billing_pb2,
    coupons_pb2,
    coupons_pb2_grpc,
    credit_notes_pb2,
    credit_notes_pb2_grpc,
    credits_pb2,
    credits_pb2_grpc,
    profile_pb2,
    profile_pb2_grpc,
)

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
DAY = timedelta(days=1)
KEYS = {
    "tb_live_acme": Principal(CallerKind.TENANT, "key-1", "acme", TENANT_SCOPES),
    "tb_live_globex": Principal(CallerKind.TENANT, "key-2", "globex", TENANT_SCOPES),
    "tb_admin_1": Principal(CallerKind.ADMIN, "admin"),
}
ADMIN, ACME, GLOBEX = "tb_admin_1", "tb_live_acme", "tb_live_globex"
STUBS = {
    "profile": profile_pb2_grpc.BillingProfileServiceStub,
    "entities": profile_pb2_grpc.LegalEntityServiceStub,
    "credits": credits_pb2_grpc.CreditServiceStub,
    "coupons": coupons_pb2_grpc.CouponServiceStub,
    "notes": credit_notes_pb2_grpc.CreditNoteServiceStub,
}
MESSAGES = {
    "profile": profile_pb2,
    "entities": profile_pb2,
    "credits": credits_pb2,
    "coupons": coupons_pb2,
    "notes": credit_notes_pb2,
}


@dataclass
class World:
    """What a test moves, and the channel to billing."""

    channel: grpc.aio.Channel
    clock: FakeClock
    books: MemoryBooks
    ids: int = field(default=0)

    def call(self, service: str, method: str, secret: str = ACME, **fields: Any) -> Awaitable[Any]:
        """Calls a method; whatever takes a request_id gets one of its own unless it is given."""
        kind = getattr(MESSAGES[service], f"{method}Request")
        if "request_id" in kind.DESCRIPTOR.fields_by_name and "request_id" not in fields:
            self.ids += 1
            fields["request_id"] = f"request-{self.ids}"
        stub = STUBS[service](self.channel)
        answer: Awaitable[Any] = getattr(stub, method)(
            kind(**fields), metadata=(("authorization", f"Bearer {secret}"),)
        )
        return answer

    async def grant(self, amount: str, **more: Any) -> credits_pb2.CreditGrant:
        fields = {"currency_code": "USD", **more}
        wanted = credits_pb2.CreditGrant(amount=amount, **fields)
        answer = await self.call("credits", "GrantCredits", ADMIN, organization_id="acme", grant=wanted)
        grant: credits_pb2.CreditGrant = answer.grant
        return grant

    async def coupon(self, coupon_id: str = "LAUNCH50", **more: Any) -> coupons_pb2.Coupon:
        fields = {"duration": coupons_pb2.COUPON_DURATION_MONTHS, "month_count": 3, "percent": "50", **more}
        wanted = coupons_pb2.Coupon(coupon_id=coupon_id, display_name="Launch offer", **fields)
        coupon: coupons_pb2.Coupon = (await self.call("coupons", "CreateCoupon", ADMIN, coupon=wanted)).coupon
        return coupon

    async def redeem(self, coupon_id: str = "LAUNCH50", **more: Any) -> coupons_pb2.Redemption:
        answer = await self.call("coupons", "RedeemCoupon", coupon_id=coupon_id, **more)
        redemption: coupons_pb2.Redemption = answer.redemption
        return redemption

    async def subscribe(self, *, start: datetime, anchor: datetime | None = None) -> Subscription:
        sold = Timeline(
            subscription_id=new_id("sub"),
            currency_code="USD",
            start=start,
            anchor=anchor or start,
            end=None,
            phases=(Phase(start=start, plan=PlanRef("starter", 1), is_trial=anchor is not None),),
            opening=start,
        )
        act = Act(action="create_subscription", actor="tests", request_id="r", now=self.clock.now())
        async with self.books.open("acme") as book:
            return await book.subscriptions.begin(sold, act)

    async def invoice(self, sold: Subscription, *cents: int, credits_used: int = 0, is_paid: bool = False) -> Invoice:
        """An invoice with a line of each amount, and what prepaid credits pay of it."""
        period = Period(sold.anchor, nth_start(sold.anchor, 1))
        kinds = [LineKind.BASE_FEE, *[LineKind.OVERAGE] * (len(cents) - 1)]
        lines = [
            Line(kind=kind, description=kind.value, amount=Money(minor, "USD"), period=period)
            for kind, minor in zip(kinds, cents, strict=True)
        ]
        total = total_of(lines, "USD")
        draft = Invoice(
            organization_id="acme",
            subscription_id=sold.subscription_id,
            plan_id="starter",
            plan_version=1,
            state=InvoiceState.FINALIZED,
            total=Money(total.minor - credits_used, "USD"),
            lines=tuple(lines),
            period=period,
            closed_through_sequence=0,
            invoice_id=new_id("inv"),
            finalize_time=self.clock.now(),
        )
        async with self.books.open("acme") as book:
            uses = apply_credits(await book.credits.standings(), Money(credits_used, "USD"), self.clock.now())
            await book.credits.apply(uses, invoice_id=draft.invoice_id, at=self.clock.now())
            final = await book.invoices.finalize(draft, actor="tests", request_id="r")
            if is_paid:
                await book.invoices.set_paid(final.invoice_id, "in_1")
            return final

    async def note(self, invoice: Invoice, **more: Any) -> credit_notes_pb2.CreditNote:
        fields = {"reason": credit_notes_pb2.CREDIT_NOTE_REASON_BILLING_ERROR, **more}
        answer = await self.call(
            "notes", "CreateCreditNote", ADMIN, organization_id="acme", invoice_id=invoice.invoice_id, **fields
        )
        note: credit_notes_pb2.CreditNote = answer.credit_note
        return note

    async def balance(self) -> dict[str, str]:
        (found,) = (await self.call("credits", "ListCredits")).balances
        return {name: getattr(found, name) for name in ("granted", "available", "applied", "expired", "revoked")}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    clock, books = FakeClock(NOW), MemoryBooks()

    async def exists(organization_id: str) -> bool:
        return organization_id in ("acme", "globex")

    async def prepare() -> None:
        return None

    async def no_preview(organization_id: str) -> Invoice:
        raise NotImplementedError(organization_id)

    entities = MemoryLegalEntities(books)
    print_papers = PrintPapers(
        books=books,
        entities=entities,
        usage=MemoryUsage(),
        preview_invoice=no_preview,
        papers=TypstPapers(),
        clock=clock,
    )
    application = Application(
        authenticator=Authenticator(KnownKeys(KEYS), {}),
        servicers=[
            BillingProfileServicer(books=books, clock=clock, exists=exists),
            LegalEntityServicer(entities=entities),
            CreditServicer(
                books=books, buy_credits=BuyCredits(books, clock, valid_days=365), clock=clock, exists=exists
            ),
            CouponServicer(books=books, coupons=MemoryCoupons(books), clock=clock, exists=exists),
            CreditNoteServicer(books=books, print_papers=print_papers, clock=clock, exists=exists),
        ],
        prepare=prepare,
    )
    async with serving(application) as channel:
        yield World(channel, clock, books)


async def refusal(call: Awaitable[object]) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return reason_of(caught.value)


# --- Profiles, taxes, legal entities


async def test_a_customer_says_who_it_is_and_the_operator_on_which_terms(world: World) -> None:
    before = (await world.call("profile", "GetBillingProfile")).profile
    assert (before.version, before.locale, before.terms.currency_code) == (0, "en", "")
    party = profile_pb2.Party(legal_name="Acme GmbH", address_lines=["Am Tor 1"], country_code="DE", mail="a@acme.dev")
    await world.call("profile", "UpdateBillingProfile", party=party, locale="de-DE")
    terms = profile_pb2.BillingTerms(
        currency_code="EUR", collection_method=profile_pb2.COLLECTION_METHOD_SEND_INVOICE, term_days=0
    )
    await world.call("profile", "SetBillingTerms", ADMIN, organization_id="acme", terms=terms)
    found = (await world.call("profile", "GetBillingProfile")).profile
    assert (found.version, found.locale, found.party) == (2, "de-DE", party)
    assert (found.terms.currency_code, found.terms.term_days, found.terms.legal_entity_id) == ("EUR", 0, "default")
    other = (await world.call("profile", "GetBillingProfile", GLOBEX)).profile
    assert other.version == 0


async def test_a_repeated_change_of_the_profile_is_no_further_version(world: World) -> None:
    party = profile_pb2.Party(legal_name="Acme")
    for _ in range(2):
        answer = await world.call("profile", "UpdateBillingProfile", party=party, request_id="once")
        assert answer.profile.version == 1
    changed = world.call("profile", "UpdateBillingProfile", party=profile_pb2.Party(), request_id="once")
    assert await refusal(changed) == "REQUEST_ID_REUSED"


@pytest.mark.parametrize(
    "party",
    [
        profile_pb2.Party(country_code="Germany"),
        profile_pb2.Party(mail="acme"),
        profile_pb2.Party(mail="a@b.c,d@e.f"),
        profile_pb2.Party(legal_name="two\nlines"),
        profile_pb2.Party(address_lines=[""]),
        profile_pb2.Party(tax_id="x" * 201),
    ],
    ids=str,
)
async def test_a_profile_that_cannot_be_printed_or_written_to_is_refused(
    world: World, party: profile_pb2.Party
) -> None:
    assert await refusal(world.call("profile", "UpdateBillingProfile", party=party)) == "INVALID_FIELD"


@pytest.mark.parametrize(
    ("terms", "reason"),
    [
        (profile_pb2.BillingTerms(currency_code="XXX"), "INVALID_FIELD"),
        (profile_pb2.BillingTerms(term_days=121), "INVALID_FIELD"),
        (profile_pb2.BillingTerms(legal_entity_id="nobody"), "NOT_FOUND"),
        (profile_pb2.BillingTerms(collection_method=9), "INVALID_FIELD"),  # type: ignore[arg-type]
    ],
    ids=str,
)
async def test_terms_that_nobody_can_bill_on_are_refused(
    world: World, terms: profile_pb2.BillingTerms, reason: str
) -> None:
    call = world.call("profile", "SetBillingTerms", ADMIN, organization_id="acme", terms=terms)
    assert await refusal(call) == reason


async def test_taxes_begin_when_they_are_said_to_and_never_in_the_past(world: World) -> None:
    def set_to(percent: str, **more: Any) -> Awaitable[Any]:
        rate = profile_pb2.TaxRate(display_name="VAT", percent=percent, jurisdiction="DE")
        return world.call("profile", "SetTaxRates", ADMIN, organization_id="acme", rates=[rate], **more)

    await set_to("19", request_id="now")
    await set_to("16", start_time=NOW + DAY)
    assert (await set_to("19", request_id="now")).taxes.version == 1
    assert await refusal(set_to("7", start_time=NOW - DAY)) == "INVALID_FIELD"
    assert await refusal(set_to("seven")) == "INVALID_FIELD"
    listed = await world.call("profile", "ListTaxRates")
    assert [rate.percent for rate in listed.current] == ["19"]
    assert [taxes.version for taxes in listed.history] == [1, 2]
    world.clock.advance(DAY)
    assert [rate.percent for rate in (await world.call("profile", "ListTaxRates")).current] == ["16"]


def entity(legal_entity_id: str, prefix: str) -> profile_pb2.LegalEntity:
    return profile_pb2.LegalEntity(
        legal_entity_id=legal_entity_id,
        party=profile_pb2.Party(legal_name=f"{prefix} Inc."),
        invoice_prefix=prefix,
        credit_note_prefix=f"{prefix}C",
    )


async def test_the_operator_applies_legal_entities_and_those_left_out_stay(world: World) -> None:
    both = [entity("default", "US"), entity("gmbh", "DE")]
    applied = await world.call("entities", "ApplyLegalEntities", ADMIN, entities=both)
    assert [(each.legal_entity_id, each.version) for each in applied.entities] == [("default", 2), ("gmbh", 1)]
    await world.call("entities", "ApplyLegalEntities", ADMIN, entities=both[:1])
    listed = await world.call("entities", "ListLegalEntities", ADMIN)
    assert [each.invoice_prefix for each in listed.entities] == ["US", "DE"]


@pytest.mark.parametrize(
    "entities",
    [
        [entity("gmbh", "DE")],
        [entity("default", "US"), entity("default", "DE")],
        [entity("default", "US"), entity("gmbh", "US")],
        [entity("default", "us")],
        [entity("default", "")],
        [profile_pb2.LegalEntity(legal_entity_id="default", invoice_prefix="A", credit_note_prefix="B")],
    ],
    ids=str,
)
async def test_unsound_legal_entities_are_refused_as_a_whole(
    world: World, entities: list[profile_pb2.LegalEntity]
) -> None:
    assert await refusal(world.call("entities", "ApplyLegalEntities", ADMIN, entities=entities)) == "INVALID_FIELD"
    listed = await world.call("entities", "ListLegalEntities", ADMIN)
    assert [each.version for each in listed.entities] == [1]


# --- Credits


async def test_credits_are_listed_in_the_order_of_their_use_with_their_balance(world: World) -> None:
    await world.grant("10.00", description="Never ends")
    await world.grant("5.00", expire_time=NOW + DAY)
    await world.grant("1.50", priority=0)
    listed = await world.call("credits", "ListCredits")
    assert [each.amount for each in listed.grants] == ["1.50", "5.00", "10.00"]
    assert {each.available for each in listed.grants} == {"1.50", "5.00", "10.00"}
    assert [each.priority for each in listed.grants] == [0, 50, 50]
    assert await world.balance() == {
        "granted": "16.50",
        "available": "16.50",
        "applied": "0.00",
        "expired": "0.00",
        "revoked": "0.00",
    }


async def test_each_currency_has_a_balance_of_its_own(world: World) -> None:
    await world.grant("10", currency_code="JPY")
    await world.grant("1.234", currency_code="KWD")
    listed = await world.call("credits", "ListCredits")
    assert [(each.currency_code, each.available) for each in listed.balances] == [("JPY", "10"), ("KWD", "1.234")]


async def test_a_repeated_grant_is_one_grant(world: World) -> None:
    def give(amount: str) -> Awaitable[Any]:
        wanted = credits_pb2.CreditGrant(amount=amount, currency_code="USD")
        return world.call("credits", "GrantCredits", ADMIN, organization_id="acme", grant=wanted, request_id="once")

    answers = await asyncio.gather(*(give("10.00") for _ in range(5)))
    assert len({answer.grant.grant_id for answer in answers}) == 1
    assert (await world.balance())["granted"] == "10.00"
    assert await refusal(give("11.00")) == "REQUEST_ID_REUSED"


@pytest.mark.parametrize(
    "wanted",
    [
        credits_pb2.CreditGrant(amount="0", currency_code="USD"),
        credits_pb2.CreditGrant(amount="-1", currency_code="USD"),
        credits_pb2.CreditGrant(amount="1.001", currency_code="USD"),
        credits_pb2.CreditGrant(amount="1", currency_code="XXX"),
        credits_pb2.CreditGrant(amount="", currency_code="USD"),
        credits_pb2.CreditGrant(amount="1", currency_code="USD", priority=101),
        credits_pb2.CreditGrant(amount="1", currency_code="USD", expire_time=moment_to_pb(NOW)),
    ],
    ids=str,
)
async def test_an_unsound_grant_is_refused_and_nothing_is_given(world: World, wanted: credits_pb2.CreditGrant) -> None:
    call = world.call("credits", "GrantCredits", ADMIN, organization_id="acme", grant=wanted)
    assert await refusal(call) == "INVALID_FIELD"
    assert not (await world.call("credits", "ListCredits")).balances


async def test_what_is_revoked_or_expired_is_gone_and_the_journal_tells_all_of_it(world: World) -> None:
    revoked = await world.grant("10.00")
    await world.grant("5.00", expire_time=NOW + DAY)
    fields = {"organization_id": "acme", "grant_id": revoked.grant_id, "request_id": "once"}
    for _ in range(2):
        assert (await world.call("credits", "RevokeCredits", ADMIN, **fields)).grant.available == "0.00"
    world.clock.advance(DAY)
    expire = ExpireCredits(MemoryExpiryList(world.books), world.books, world.clock)
    assert await expire.due() == ["acme"]
    for _ in range(2):
        await expire("acme")
    assert await expire.due() == []
    found = await world.balance()
    assert (found["available"], found["revoked"], found["expired"]) == ("0.00", "10.00", "5.00")
    first = await world.call("credits", "ListCreditEntries", page_size=3)
    second = await world.call("credits", "ListCreditEntries", page_size=3, page_token=first.next_page_token)
    assert [entry.number for entry in (*first.entries, *second.entries)] == [4, 3, 2, 1]
    assert [credits_pb2.CreditMove.Name(entry.move) for entry in first.entries] == [
        "CREDIT_MOVE_EXPIRE",
        "CREDIT_MOVE_REVOKE",
        "CREDIT_MOVE_GRANT",
    ]
    assert not second.next_page_token


@pytest.mark.parametrize("token", ["x", "!", "LTE=", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5"])
async def test_a_page_token_that_nobody_gave_is_refused(world: World, token: str) -> None:
    assert await refusal(world.call("credits", "ListCreditEntries", page_token=token)) == "INVALID_FIELD"
    assert await refusal(world.call("notes", "ListCreditNotes", page_token=token)) == "INVALID_FIELD"


async def test_another_organizations_grant_cannot_be_revoked(world: World) -> None:
    given = await world.grant("10.00")
    call = world.call("credits", "RevokeCredits", ADMIN, organization_id="globex", grant_id=given.grant_id)
    assert await refusal(call) == "NOT_FOUND"


async def test_a_customer_buys_credits_and_reads_on_the_invoice_what_and_for_how_long(world: World) -> None:
    rate = profile_pb2.TaxRate(display_name="VAT", percent="19", jurisdiction="DE")
    await world.call("profile", "SetTaxRates", ADMIN, organization_id="acme", rates=[rate])
    order = {"amount": "100.00", "currency_code": "USD", "request_id": "once"}
    invoice = (await world.call("credits", "BuyCredits", **order)).invoice
    assert (await world.call("credits", "BuyCredits", **order)).invoice == invoice
    assert (invoice.number, invoice.subtotal, invoice.total) == ("TB-000001", "100.00", "119.00")
    assert (invoice.cut, invoice.state) == (billing_pb2.INVOICE_CUT_PURCHASE, billing_pb2.INVOICE_STATE_FINALIZED)
    assert (invoice.subscription_id, invoice.plan_id) == ("", "")
    line, _ = invoice.lines
    assert line.kind == billing_pb2.INVOICE_LINE_KIND_CREDIT_PURCHASE
    assert line.description == "Prepaid credits of 100.00 USD, for 365 days from payment"
    other = world.call("credits", "BuyCredits", amount="1.00", currency_code="USD", request_id="once")
    assert await refusal(other) == "REQUEST_ID_REUSED"
    # Nothing is granted before it is paid.
    assert list((await world.call("credits", "ListCredits")).balances) == []


@pytest.mark.parametrize(
    ("amount", "currency_code"), [("0", "USD"), ("-5", "USD"), ("500000.01", "USD"), ("1", "XXX"), ("", "USD")]
)
async def test_what_cannot_be_charged_cannot_be_bought(world: World, amount: str, currency_code: str) -> None:
    call = world.call("credits", "BuyCredits", amount=amount, currency_code=currency_code)
    assert await refusal(call) == "INVALID_FIELD"
    assert await refusal(world.call("credits", "BuyCredits", amount="1", currency_code="USD", request_id=""))


# --- Coupons


async def test_a_coupon_reads_back_as_it_was_made(world: World) -> None:
    made = await world.coupon(plan_ids=["pro"], redemptions_max=5, redeem_by_time=NOW + DAY)
    assert list(made.categories) == [coupons_pb2.DISCOUNT_CATEGORY_BASE, coupons_pb2.DISCOUNT_CATEGORY_USAGE]
    amounts = [coupons_pb2.CouponAmount(amount="10", currency_code="USD")]
    once = coupons_pb2.COUPON_DURATION_ONCE
    ten = await world.coupon("TEN", duration=once, month_count=0, percent="", amounts=amounts)
    assert (list(ten.categories), ten.amounts[0].amount) == ([coupons_pb2.DISCOUNT_CATEGORY_BASE], "10.00")
    first = await world.call("coupons", "ListCoupons", ADMIN, page_size=1)
    second = await world.call("coupons", "ListCoupons", ADMIN, page_size=1, page_token=first.next_page_token)
    assert [*first.coupons, *second.coupons] == [made, ten]
    assert (await world.call("coupons", "GetCoupon", ADMIN, coupon_id="TEN")).coupon == ten


@pytest.mark.parametrize(
    "changes",
    [
        {"percent": ""},
        {"percent": "half"},
        {"percent": "101"},
        {"duration": 0},
        {"month_count": 0},
        {"categories": [9]},
        {"plan_ids": ["a b"]},
        {"amounts": [coupons_pb2.CouponAmount(amount="1", currency_code="USD")]},
        {"percent": "", "amounts": [coupons_pb2.CouponAmount(amount="1", currency_code="XXX")]},
    ],
    ids=str,
)
async def test_an_unsound_coupon_is_refused(world: World, changes: dict[str, Any]) -> None:
    assert await refusal(world.coupon(**changes)) == "INVALID_FIELD"


async def test_a_coupon_counts_from_the_price_on_that_was_not_invoiced_yet(world: World) -> None:
    await world.coupon()
    await world.coupon("SECOND")
    sold = await world.subscribe(start=NOW - 3 * DAY)
    before = await world.redeem()
    assert before.start_time.ToDatetime(tzinfo=UTC) == sold.anchor
    assert before.stop_time.ToDatetime(tzinfo=UTC) == nth_start(sold.anchor, 3)
    await world.invoice(sold, 4900)
    after = await world.redeem("SECOND")
    assert after.start_time.ToDatetime(tzinfo=UTC) == nth_start(sold.anchor, 1)
    listed = (await world.call("coupons", "ListRedemptions")).redemptions
    assert [each.coupon_id for each in listed] == ["LAUNCH50", "SECOND"]


async def test_a_coupon_redeemed_before_anything_is_sold_counts_from_then_on(world: World) -> None:
    await world.coupon()
    assert (await world.redeem()).start_time.ToDatetime(tzinfo=UTC) == NOW


async def test_the_months_of_a_coupon_that_is_redeemed_in_a_trial_are_counted_from_its_end(world: World) -> None:
    await world.coupon()
    await world.subscribe(start=NOW - DAY, anchor=NOW + 40 * DAY)
    redemption = await world.redeem()
    assert redemption.start_time.ToDatetime(tzinfo=UTC) == NOW + 40 * DAY
    assert redemption.stop_time.ToDatetime(tzinfo=UTC) == nth_start(NOW + 40 * DAY, 3)


async def test_a_repeated_redemption_is_one_and_another_one_is_refused(world: World) -> None:
    await world.coupon(redemptions_max=1)
    found = {(await world.redeem(request_id="once")).redemption_id for _ in range(3)}
    assert len(found) == 1
    assert await refusal(world.redeem()) == "ALREADY_EXISTS"
    assert await refusal(world.call("coupons", "RedeemCoupon", GLOBEX, coupon_id="LAUNCH50")) == "INVALID_STATE"
    assert await refusal(world.redeem("nothing")) == "NOT_FOUND"


async def test_a_coupon_is_redeemed_until_before_its_time_and_not_after_it_was_withdrawn(world: World) -> None:
    await world.coupon("LATE", redeem_by_time=NOW)
    assert await refusal(world.redeem("LATE")) == "INVALID_STATE"
    await world.coupon()
    for _ in range(2):
        answer = await world.call("coupons", "WithdrawCoupon", ADMIN, coupon_id="LAUNCH50", request_id="once")
        assert answer.coupon.is_withdrawn
    assert await refusal(world.redeem()) == "INVALID_STATE"


async def test_the_operator_ends_a_redemption(world: World) -> None:
    await world.coupon()
    redemption = await world.redeem()
    world.clock.advance(DAY)
    fields = {"organization_id": "acme", "redemption_id": redemption.redemption_id, "request_id": "once"}
    for _ in range(2):
        ended = (await world.call("coupons", "EndRedemption", ADMIN, **fields)).redemption
        assert ended.stop_time.ToDatetime(tzinfo=UTC) == NOW + DAY
        world.clock.advance(DAY)


# --- Credit notes


async def test_a_credit_note_on_an_open_invoice_reduces_what_is_due(world: World) -> None:
    invoice = await world.invoice(await world.subscribe(start=NOW), 4900, 499)
    note = await world.note(invoice, lines=[credit_notes_pb2.CitedLine(line_number=2)])
    assert (note.number, note.invoice_number) == ("CN-000001", invoice.number)
    assert (note.total, note.reduced, note.credited, note.refunded) == ("4.99", "4.99", "0.00", "0.00")
    assert [(line.line_number, line.amount, line.is_tax) for line in note.lines] == [(2, "4.99", False)]
    rest = await world.note(invoice)
    assert (rest.number, rest.total, rest.reduced) == ("CN-000002", "49.00", "49.00")
    assert await refusal(world.note(invoice)) == "INVALID_STATE"
    listed = (await world.call("notes", "ListCreditNotes")).credit_notes
    assert {each.number for each in listed} == {"CN-000001", "CN-000002"}
    assert (await world.call("notes", "GetCreditNote", credit_note_id=note.credit_note_id)).credit_note == note
    assert (
        await refusal(world.call("notes", "GetCreditNote", GLOBEX, credit_note_id=note.credit_note_id)) == "NOT_FOUND"
    )


async def test_what_was_paid_goes_to_credit_or_back_as_far_as_it_was_money(world: World) -> None:
    await world.grant("20.00")
    invoice = await world.invoice(await world.subscribe(start=NOW), 4900, credits_used=2000, is_paid=True)
    to_credit = await world.note(invoice, lines=[credit_notes_pb2.CitedLine(line_number=1, amount="10.00")])
    assert (to_credit.credited, to_credit.refunded) == ("10.00", "0.00")
    assert (await world.balance())["available"] == "10.00"
    refund = await world.note(invoice, destination=credit_notes_pb2.CREDIT_DESTINATION_REFUND)
    assert (refund.total, refund.reduced, refund.refunded, refund.credited) == ("39.00", "0.00", "29.00", "10.00")
    assert await world.balance() == {
        "granted": "40.00",
        "available": "20.00",
        "applied": "20.00",
        "expired": "0.00",
        "revoked": "0.00",
    }


async def test_credit_notes_that_race_never_take_back_more_than_the_line_and_their_numbers_have_no_gap(
    world: World,
) -> None:
    invoice = await world.invoice(await world.subscribe(start=NOW), 4900)
    lines = [credit_notes_pb2.CitedLine(line_number=1, amount="10.00")]
    outcomes = await asyncio.gather(*(world.note(invoice, lines=lines) for _ in range(9)), return_exceptions=True)
    notes = [each for each in outcomes if isinstance(each, credit_notes_pb2.CreditNote)]
    assert sorted(note.number for note in notes) == [f"CN-{number:06d}" for number in range(1, 5)]


async def test_a_repeated_credit_note_is_one(world: World) -> None:
    invoice = await world.invoice(await world.subscribe(start=NOW), 4900, is_paid=True)
    found = [await world.note(invoice, request_id="once") for _ in range(3)]
    assert len({each.credit_note_id for each in found}) == 1
    assert (await world.balance())["granted"] == "49.00"
    assert await refusal(world.note(invoice, request_id="once", memo="other")) == "REQUEST_ID_REUSED"


async def test_a_credit_note_on_paper_says_what_it_takes_back_and_why(world: World) -> None:
    invoice = await world.invoice(await world.subscribe(start=NOW), 4900, 499)
    note = await world.note(invoice, memo="Outage on 3 November")
    request = {"organization_id": "acme", "credit_note_id": note.credit_note_id}
    said = text_of_pdf((await world.call("notes", "GetCreditNotePdf", ADMIN, **request)).data)
    for each in ("Credit note", note.number, invoice.number, f"\u2212{note.total}", "Outage on 3 November"):
        assert each in said


async def test_credit_notes_page_newest_first(world: World) -> None:
    invoice = await world.invoice(await world.subscribe(start=NOW), 4900)
    numbers = []
    for _ in range(3):
        lines = [credit_notes_pb2.CitedLine(line_number=1, amount="1.00")]
        numbers.append((await world.note(invoice, lines=lines)).number)
        world.clock.advance(DAY)
    first = await world.call("notes", "ListCreditNotes", page_size=2)
    second = await world.call("notes", "ListCreditNotes", page_size=2, page_token=first.next_page_token)
    assert [each.number for each in (*first.credit_notes, *second.credit_notes)] == numbers[::-1]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"reason": credit_notes_pb2.CREDIT_NOTE_REASON_UNSPECIFIED}, "INVALID_FIELD"),
        ({"reason": credit_notes_pb2.CREDIT_NOTE_REASON_OTHER}, "INVALID_FIELD"),
        ({"lines": [credit_notes_pb2.CitedLine(line_number=1, amount="49.01")]}, "INVALID_STATE"),
        ({"lines": [credit_notes_pb2.CitedLine(line_number=1, amount="0.001")]}, "INVALID_FIELD"),
        ({"lines": [credit_notes_pb2.CitedLine(line_number=9)]}, "INVALID_FIELD"),
        ({"lines": [credit_notes_pb2.CitedLine(line_number=1)] * 201}, "LIMIT_EXCEEDED"),
        ({"destination": 9}, "INVALID_FIELD"),
    ],
    ids=str,
)
async def test_an_unsound_credit_note_is_refused_and_none_is_written(
    world: World, changes: dict[str, Any], reason: str
) -> None:
    invoice = await world.invoice(await world.subscribe(start=NOW), 4900)
    assert await refusal(world.note(invoice, **changes)) == reason
    assert not (await world.call("notes", "ListCreditNotes")).credit_notes


# --- Who may


@pytest.mark.parametrize(
    ("service", "method"),
    [
        ("profile", "SetBillingTerms"),
        ("profile", "SetTaxRates"),
        ("entities", "ListLegalEntities"),
        ("entities", "ApplyLegalEntities"),
        ("credits", "GrantCredits"),
        ("credits", "RevokeCredits"),
        ("coupons", "CreateCoupon"),
        ("coupons", "GetCoupon"),
        ("coupons", "ListCoupons"),
        ("coupons", "WithdrawCoupon"),
        ("coupons", "EndRedemption"),
        ("notes", "CreateCreditNote"),
    ],
)
async def test_what_is_the_operators_no_customer_may(world: World, service: str, method: str) -> None:
    assert await refusal(world.call(service, method, ACME)) == "SCOPE_MISSING"


@pytest.mark.parametrize(
    ("service", "method"),
    [
        ("profile", "GetBillingProfile"),
        ("profile", "UpdateBillingProfile"),
        ("profile", "ListTaxRates"),
        ("credits", "ListCredits"),
        ("credits", "ListCreditEntries"),
        ("credits", "BuyCredits"),
        ("coupons", "RedeemCoupon"),
        ("coupons", "ListRedemptions"),
        ("notes", "GetCreditNote"),
        ("notes", "ListCreditNotes"),
    ],
)
async def test_a_customer_reaches_no_other_organization(world: World, service: str, method: str) -> None:
    assert await refusal(world.call(service, method, ACME, organization_id="globex")) == "ORGANIZATION_MISMATCH"
