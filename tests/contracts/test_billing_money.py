"""The promises of billing's ports of money that is there already, on memory and on Postgres."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from kit.errors import AlreadyExists, InvalidField, InvalidState, NotFound, Refused, RequestIdReused
from kit.feed import START
from kit.ids import new_id
from kit.money import Money
from kit.postgres.embedded import EmbeddedPostgres
from services.billing.adapters.memory.books import MemoryBooks
from services.billing.adapters.memory.operators import MemoryCoupons, MemoryExpiryList, MemoryLegalEntities
from services.billing.adapters.postgres_books.books import PostgresBooks
from services.billing.adapters.postgres_coupons import PostgresCoupons
from services.billing.adapters.postgres_legal_entities import PostgresLegalEntities
from services.billing.adapters.postgres_money_lists import PostgresExpiryList
from services.billing.application.ports.books import Books
from services.billing.application.ports.coupons import Coupons
from services.billing.application.ports.credits import ExpiryList
from services.billing.application.ports.profile import LegalEntities
from services.billing.domain.coupons import Coupon, CouponDuration, DiscountCategory, Redemption
from services.billing.domain.credits import (
    CreditAccount,
    CreditGrant,
    CreditMove,
    CreditSource,
    CreditUse,
    apply_credits,
)
from services.billing.domain.profile import BillingProfile, BillingTerms, CollectionMethod, LegalEntity, Party
from services.billing.domain.tax import TaxRate, TaxTreatment
from tests.integration.billing_database import billing_database

NOW = datetime(2026, 11, 25, 12, 30, 15, 123_456, tzinfo=UTC)
DAY = timedelta(days=1)
ACME, GLOBEX = "acme", "globex"
DIGEST, OTHER_DIGEST = b"\x01" * 32, b"\x02" * 32
HALF = Coupon(
    coupon_id="LAUNCH50",
    display_name="Launch offer",
    duration=CouponDuration.MONTHS,
    month_count=3,
    percent=Decimal("12.5"),
    plan_ids=frozenset({"pro"}),
    redemptions_max=5,
    redeem_by=NOW + DAY,
)
TEN = Coupon(
    coupon_id="TEN",
    display_name="Ten off",
    duration=CouponDuration.ONCE,
    amounts=(Money(900, "EUR"), Money(1000, "USD")),
    categories=frozenset({DiscountCategory.BASE}),
)


@dataclass
class Store:
    """The ports over one store of their own."""

    books: Books
    coupons: Coupons
    entities: LegalEntities
    expiries: ExpiryList


@pytest.fixture(params=["memory", "postgres"])
async def store(request: pytest.FixtureRequest, postgres: EmbeddedPostgres) -> AsyncIterator[Store]:
    if request.param == "memory":
        memory = MemoryBooks()
        yield Store(memory, MemoryCoupons(memory), MemoryLegalEntities(memory), MemoryExpiryList(memory))
        return
    async with billing_database(postgres.url) as database:
        yield Store(
            PostgresBooks(database.tenant),
            PostgresCoupons(database.tenant, database.fleet),
            PostgresLegalEntities(database.tenant, database.fleet),
            PostgresExpiryList(database.fleet),
        )


def grant(
    cents: int = 1000,
    *,
    currency_code: str = "USD",
    expires: datetime | None = None,
    source: CreditSource = CreditSource.OPERATOR,
    source_id: str = "",
) -> CreditGrant:
    return CreditGrant(
        grant_id=new_id("crg"),
        amount=Money(cents, currency_code),
        priority=50,
        grant_time=NOW,
        expire_time=expires,
        source=source,
        source_id=source_id,
        description="For patience",
    )


async def give(store: Store, what: CreditGrant, organization_id: str = ACME) -> CreditGrant:
    async with store.books.open(organization_id) as book:
        await book.credits.grant(what, actor="tests", request_id="r")
    return what


async def balance(store: Store, account: CreditAccount, organization_id: str = ACME) -> int:
    async with store.books.read(organization_id) as book:
        found = await book.credits.balances()
    assert sum(each.minor for each in found["USD"].values()) == 0
    return found["USD"][account].minor


async def pay(store: Store, cents: int, invoice_id: str, at: datetime = NOW) -> int:
    """Pays an invoice as a close does: chooses and applies within one opening of the books."""
    async with store.books.open(ACME) as book:
        uses = apply_credits(await book.credits.standings(), Money(cents, "USD"), at)
        await book.credits.apply(uses, invoice_id=invoice_id, at=at)
    return sum(use.amount.minor for use in uses)


# --- Credits


async def test_a_grant_reads_back_as_it_was_given_with_all_of_it_available(store: Store) -> None:
    given = await give(store, grant(1234, currency_code="KWD", expires=NOW + DAY))
    async with store.books.read(ACME) as book:
        assert (await book.credits.get(given.grant_id)).grant == given
        assert [each.available for each in await book.credits.standings()] == [Money(1234, "KWD")]
        assert await book.credits.balances() == {
            "KWD": {
                **dict.fromkeys(CreditAccount, Money(0, "KWD")),
                CreditAccount.GRANTED: Money(-1234, "KWD"),
                CreditAccount.AVAILABLE: Money(1234, "KWD"),
            }
        }


async def test_the_journal_is_numbered_without_a_gap_and_pages_newest_first(store: Store) -> None:
    first = await give(store, replace(grant(1000), grant_time=NOW - DAY))
    await give(store, grant(500))
    assert await pay(store, 1200, "inv_1") == 1200
    async with store.books.read(ACME) as book:
        entries = await book.credits.journal(before=None, count=10)
        assert [entry.number for entry in entries] == [4, 3, 2, 1]
        assert [entry.move for entry in entries] == [CreditMove.APPLY] * 2 + [CreditMove.GRANT] * 2
        assert {entry.invoice_id for entry in entries} == {"inv_1", ""}
        assert [entry.number for entry in await book.credits.journal(before=3, count=1)] == [2]
        assert (await book.credits.get(first.grant_id)).available == Money(0, "USD")


async def test_an_invoice_that_is_voided_gives_its_credits_back_once(store: Store) -> None:
    given = await give(store, grant(1000))
    await pay(store, 300, "inv_1")
    await pay(store, 200, "inv_2")
    for expected in ((CreditUse(given.grant_id, Money(300, "USD")),), ()):
        async with store.books.open(ACME) as book:
            assert tuple(await book.credits.give_back("inv_1", at=NOW)) == expected
    assert await balance(store, CreditAccount.AVAILABLE) == 800
    assert await balance(store, CreditAccount.APPLIED) == 200


async def test_what_comes_back_after_its_time_expires_then(store: Store) -> None:
    await give(store, grant(1000, expires=NOW + DAY))
    await pay(store, 300, "inv_1")
    async with store.books.open(ACME) as book:
        assert len(await book.credits.expire(at=NOW + DAY)) == 1
    assert await store.expiries.due(now=NOW + 9 * DAY, count=5) == []
    async with store.books.open(ACME) as book:
        await book.credits.give_back("inv_1", at=NOW + 2 * DAY)
    assert await store.expiries.due(now=NOW + 2 * DAY, count=5) == [ACME]
    async with store.books.open(ACME) as book:
        await book.credits.expire(at=NOW + 2 * DAY)
    assert await balance(store, CreditAccount.EXPIRED) == 1000


async def test_credits_expire_at_the_instant_of_their_end_and_once(store: Store) -> None:
    over = await give(store, grant(700, expires=NOW + DAY))
    await give(store, grant(50))
    await give(store, grant(9, expires=NOW + 2 * DAY), GLOBEX)
    assert await store.expiries.due(now=NOW + DAY - timedelta(microseconds=1), count=5) == []
    assert await store.expiries.due(now=NOW + DAY, count=5) == [ACME]
    assert await store.expiries.due(now=NOW + 3 * DAY, count=5) == [ACME, GLOBEX]
    assert await store.expiries.due(now=NOW + 3 * DAY, count=1) == [ACME]
    async with store.books.open(ACME) as book:
        assert tuple(await book.credits.expire(at=NOW + DAY)) == (CreditUse(over.grant_id, Money(700, "USD")),)
        assert tuple(await book.credits.expire(at=NOW + DAY)) == ()
    assert await store.expiries.due(now=NOW + DAY, count=5) == []
    assert await balance(store, CreditAccount.EXPIRED) == 700
    assert await balance(store, CreditAccount.AVAILABLE) == 50


async def test_a_revoked_grant_keeps_what_it_paid_and_has_nothing_left(store: Store) -> None:
    given = await give(store, grant(1000))
    await pay(store, 300, "inv_1")
    for _ in range(2):
        async with store.books.open(ACME) as book:
            standing = await book.credits.revoke(given.grant_id, at=NOW, actor="tests", request_id="r")
        assert standing.available == Money(0, "USD")
    assert await balance(store, CreditAccount.REVOKED) == 700
    assert await balance(store, CreditAccount.APPLIED) == 300


async def test_more_than_is_there_is_never_applied_and_nothing_of_the_transaction_is_kept(store: Store) -> None:
    given = await give(store, grant(100))

    async def overdraw() -> None:
        async with store.books.open(ACME) as book:
            await book.credits.grant(grant(5), actor="tests", request_id="r")
            uses = [CreditUse(given.grant_id, Money(101, "USD"))]
            await book.credits.apply(uses, invoice_id="inv_1", at=NOW)

    with pytest.raises(Exception, match="credits that are not there"):
        await overdraw()
    assert await balance(store, CreditAccount.AVAILABLE) == 100


async def test_f30_b37_the_last_credit_pays_one_of_the_invoices_that_want_it_at_once(store: Store) -> None:
    await give(store, grant(1000))
    paid = await asyncio.gather(*(pay(store, 600, f"inv_{number}") for number in range(8)))
    assert sorted(paid) == [0] * 6 + [400, 600]
    assert await balance(store, CreditAccount.AVAILABLE) == 0
    assert await balance(store, CreditAccount.APPLIED) == 1000


async def test_an_invoice_or_credit_note_leads_to_one_grant(store: Store) -> None:
    bought = await give(store, grant(source=CreditSource.PURCHASE, source_id="inv_1"))
    await give(store, grant(source=CreditSource.CREDIT_NOTE, source_id="inv_1"))
    with pytest.raises(Exception, match=r"led to a grant before|credit_grants_once"):
        await give(store, grant(source=CreditSource.PURCHASE, source_id="inv_1"))
    async with store.books.read(ACME) as book:
        assert await book.credits.granted_for(CreditSource.PURCHASE, "inv_1") == bought
        assert await book.credits.granted_for(CreditSource.PURCHASE, "inv_2") is None


async def test_another_organizations_credits_are_not_found(store: Store) -> None:
    given = await give(store, grant())
    async with store.books.open(GLOBEX) as book:
        assert await book.credits.standings() == []
        assert await book.credits.journal(before=None, count=9) == []
        for grant_id in (given.grant_id, "", "a\0b"):
            with pytest.raises(NotFound):
                await book.credits.get(grant_id)
            with pytest.raises(NotFound):
                await book.credits.revoke(grant_id, at=NOW, actor="tests", request_id="r")


async def test_every_move_of_credits_is_in_the_change_log_and_what_moves_nothing_is_not(store: Store) -> None:
    await give(store, grant(100, expires=NOW + DAY))
    await pay(store, 40, "inv_1")
    await pay(store, 0, "inv_2")
    async with store.books.open(ACME) as book:
        await book.credits.give_back("inv_1", at=NOW)
        await book.credits.give_back("inv_1", at=NOW)
        await book.credits.expire(at=NOW + DAY)
        await book.credits.expire(at=NOW + DAY)
    async with store.books.read(ACME) as book:
        assert (await book.entitlements.after(START)).position.sequence == 4


# --- Coupons


async def create(store: Store, coupon: Coupon) -> None:
    await store.coupons.create(coupon, request_id=f"create {coupon.coupon_id}", digest=DIGEST, actor="tests")


async def redeem(store: Store, coupon: Coupon, organization_id: str = ACME) -> Redemption:
    redemption = Redemption(redemption_id=new_id("red"), coupon=coupon, start_time=NOW, redeem_time=NOW + DAY)
    async with store.books.open(organization_id) as book:
        await book.coupons.redeem(redemption, actor="tests", request_id="r")
    return redemption


@pytest.mark.parametrize("coupon", [HALF, TEN])
async def test_a_coupon_reads_back_as_it_was_made(store: Store, coupon: Coupon) -> None:
    await create(store, coupon)
    standing = await store.coupons.get(coupon.coupon_id)
    assert standing.coupon == coupon
    assert (standing.redemption_count, standing.is_withdrawn) == (0, False)
    redemption = await redeem(store, coupon)
    async with store.books.read(ACME) as book:
        assert await book.coupons.redemptions() == [redemption]
    assert (await store.coupons.get(coupon.coupon_id)).redemption_count == 1


async def test_coupons_are_listed_by_id_in_pages(store: Store) -> None:
    for coupon_id in ("b", "A", "a", "Z"):
        await create(store, replace(TEN, coupon_id=coupon_id))
    ids = [each.coupon.coupon_id for each in await store.coupons.by_id(after="", count=3)]
    assert ids == ["A", "Z", "a"]
    assert [each.coupon.coupon_id for each in await store.coupons.by_id(after="a", count=3)] == ["b"]


async def test_the_same_request_makes_a_coupon_once_and_another_one_of_that_id_is_refused(store: Store) -> None:
    await create(store, HALF)
    await create(store, HALF)
    with pytest.raises(AlreadyExists):
        await store.coupons.create(HALF, request_id="another", digest=DIGEST, actor="tests")
    with pytest.raises(RequestIdReused):
        await store.coupons.create(HALF, request_id="create LAUNCH50", digest=OTHER_DIGEST, actor="tests")
    for coupon_id in ("none", "", "a\0b"):
        with pytest.raises(NotFound):
            await store.coupons.get(coupon_id)
        with pytest.raises(NotFound):
            await store.coupons.withdraw(coupon_id, request_id="w", digest=DIGEST, actor="tests")


async def test_a_withdrawn_coupon_is_redeemed_no_more_and_who_has_it_keeps_it(store: Store) -> None:
    await create(store, HALF)
    await redeem(store, HALF)
    for request_id in ("w", "w", "w again"):
        standing = await store.coupons.withdraw("LAUNCH50", request_id=request_id, digest=DIGEST, actor="tests")
        assert standing.is_withdrawn
    with pytest.raises(InvalidState):
        await redeem(store, HALF, GLOBEX)
    async with store.books.read(ACME) as book:
        assert len(await book.coupons.redemptions()) == 1
    async with store.books.read(GLOBEX) as book:
        assert await book.coupons.redemptions() == []


async def test_an_organization_redeems_a_coupon_once_and_its_second_try_takes_nobodys_place(store: Store) -> None:
    await create(store, HALF)
    await redeem(store, HALF)
    with pytest.raises(AlreadyExists):
        await redeem(store, HALF)
    assert (await store.coupons.get("LAUNCH50")).redemption_count == 1


async def test_b15_a_cap_is_kept_however_many_redeem_at_once(store: Store) -> None:
    await create(store, HALF)

    async def attempt(number: int) -> str:
        try:
            await redeem(store, HALF, f"org-{number}")
        except Refused as refusal:
            return refusal.reason
        return "redeemed"

    outcomes = await asyncio.gather(*(attempt(number) for number in range(32)))
    assert Counter(outcomes) == {"redeemed": 5, "INVALID_STATE": 27}
    assert (await store.coupons.get("LAUNCH50")).redemption_count == 5
    kept = 0
    for number in range(32):
        async with store.books.read(f"org-{number}") as book:
            kept += len(await book.coupons.redemptions())
    assert kept == 5


async def test_a_redemption_is_ended_once(store: Store) -> None:
    await create(store, HALF)
    redemption = await redeem(store, HALF)
    for at in (NOW, NOW + DAY):
        async with store.books.open(ACME) as book:
            ended = await book.coupons.end(redemption.redemption_id, at=at, actor="tests", request_id="r")
        assert ended == replace(redemption, end_time=NOW)
    for organization_id, redemption_id in ((GLOBEX, redemption.redemption_id), (ACME, "a\0b")):
        with pytest.raises(NotFound):
            async with store.books.open(organization_id) as book:
                await book.coupons.end(redemption_id, at=NOW, actor="tests", request_id="r")


# --- Profiles, taxes, legal entities

ACME_PARTY = Party(
    legal_name="Acme GmbH",
    address_lines=("Hauptstr. 1", "10115 Berlin"),
    country_code="DE",
    tax_id="DE123456789",
    mail="billing@acme.example",
)
VAT = TaxRate(display_name="VAT", percent=Decimal("19.25"), jurisdiction="DE")
REVERSE = TaxRate(
    display_name="VAT",
    percent=Decimal(0),
    jurisdiction="FR",
    treatment=TaxTreatment.REVERSE_CHARGE,
    note="Reverse charge",
)


async def test_a_profile_is_kept_as_versions_and_an_invoice_finds_the_one_of_its_time(store: Store) -> None:
    terms = BillingTerms(currency_code="EUR", collection_method=CollectionMethod.SEND_INVOICE, term_days=30)
    versions = [
        BillingProfile(version=0, update_time=NOW, party=ACME_PARTY, locale="de-DE", terms=terms),
        BillingProfile(version=0, update_time=NOW + DAY, party=replace(ACME_PARTY, tax_id="")),
    ]
    async with store.books.read(ACME) as book:
        assert await book.profile.current() == BillingProfile()
    async with store.books.open(ACME) as book:
        kept = [await book.profile.set(each, actor="tests", request_id="r") for each in versions]
    assert kept == [replace(versions[0], version=1), replace(versions[1], version=2)]
    async with store.books.read(ACME) as book:
        assert await book.profile.current() == kept[1]
        assert await book.profile.at(NOW + DAY) == kept[1]
        assert await book.profile.at(NOW + DAY - timedelta(microseconds=1)) == kept[0]
        assert await book.profile.at(NOW - DAY) == BillingProfile()
        assert (await book.entitlements.after(START)).position.sequence == 2
    async with store.books.read(GLOBEX) as book:
        assert await book.profile.current() == BillingProfile()


async def test_a_profile_names_a_legal_entity_that_there_is(store: Store) -> None:
    profile = BillingProfile(update_time=NOW, terms=BillingTerms(legal_entity_id="nobody"))
    with pytest.raises(NotFound):
        async with store.books.open(ACME) as book:
            await book.profile.set(profile, actor="tests", request_id="r")


async def test_taxes_are_kept_as_versions_with_their_start(store: Store) -> None:
    async with store.books.open(ACME) as book:
        first = await book.profile.set_taxes([VAT, REVERSE], start_time=NOW, actor="tests", request_id="r")
        second = await book.profile.set_taxes([], start_time=NOW + DAY, actor="tests", request_id="r")
    assert (first.version, first.rates) == (1, (VAT, REVERSE))
    async with store.books.read(ACME) as book:
        assert await book.profile.tax_history() == [first, second]
    async with store.books.read(GLOBEX) as book:
        assert await book.profile.tax_history() == []


GMBH = LegalEntity(
    legal_entity_id="gmbh",
    party=Party(legal_name="Tollbook GmbH", address_lines=("Am Tor 1",), country_code="DE", tax_id="DE1"),
    invoice_prefix="DE",
    credit_note_prefix="DEC",
    bank_details=("IBAN DE00",),
)


async def test_a_legal_entity_is_kept_as_versions_and_only_when_it_differs(store: Store) -> None:
    (default,) = await store.entities.current()
    moved = replace(GMBH, party=replace(GMBH.party, address_lines=("Am Markt 2",)))
    for entity, version in ((GMBH, 1), (GMBH, 1), (moved, 2), (moved, 2)):
        applied = await store.entities.apply([entity], request_id=new_id("req"), digest=DIGEST, actor="tests")
        assert [each.legal_entity_id for each in applied] == ["default", "gmbh"]
        assert applied[0] == default
        assert applied[1] == replace(entity, version=version, update_time=applied[1].update_time)
    assert [each.version for each in await store.entities.current()] == [1, 2]
    assert await store.entities.at("gmbh", NOW.replace(year=2000)) == replace(
        GMBH, version=1, update_time=(await store.entities.at("gmbh", NOW.replace(year=2000))).update_time
    )
    assert (await store.entities.at("gmbh", NOW.replace(year=2999))).version == 2
    with pytest.raises(NotFound):
        await store.entities.at("nobody", NOW)


async def test_a_request_applies_legal_entities_once(store: Store) -> None:
    await store.entities.apply([GMBH], request_id="a", digest=DIGEST, actor="tests")
    moved = replace(GMBH, bank_details=())
    await store.entities.apply([moved], request_id="b", digest=DIGEST, actor="tests")
    applied = await store.entities.apply([GMBH], request_id="a", digest=DIGEST, actor="tests")
    assert applied[1].bank_details == ()
    with pytest.raises(RequestIdReused):
        await store.entities.apply([GMBH], request_id="a", digest=OTHER_DIGEST, actor="tests")


async def test_no_two_legal_entities_ever_have_the_same_prefix(store: Store) -> None:
    await store.entities.apply([GMBH], request_id="a", digest=DIGEST, actor="tests")
    renamed = replace(GMBH, invoice_prefix="GMBH")
    await store.entities.apply([renamed], request_id="b", digest=DIGEST, actor="tests")
    for prefix in ("TB", "CN", "DE", "DEC", "GMBH"):
        other = replace(GMBH, legal_entity_id="inc", invoice_prefix="INC", credit_note_prefix=prefix)
        with pytest.raises(InvalidField, match="prefix"):
            await store.entities.apply([other], request_id=prefix, digest=DIGEST, actor="tests")
