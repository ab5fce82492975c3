"""Whole subscriptions through billing's use cases: what is on which invoice, and that nothing is there twice."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest

from kit.errors import InvalidField, NotFound
from kit.money import Money
from services.billing.domain import limits
from services.billing.domain.catalog import Interval
from services.billing.domain.closing import CutKind
from services.billing.domain.coupons import Coupon, CouponDuration, CouponStanding, Redemption
from services.billing.domain.credits import CreditAccount, CreditGrant, CreditSource
from services.billing.domain.invoices import Invoice, InvoiceState, LineKind, total_of
from services.billing.domain.lifecycle import ChangeTime
from services.billing.domain.periods import nth_start
from services.billing.domain.profile import BillingProfile, BillingTerms, CollectionMethod
from services.billing.domain.tax import TaxRate
from tests.unit.billing.closing_house import ACME, START, House, memory_house
from tests.unit.billing.plans import ENTERPRISE, FREE, PLANS, STARTER

TICK, HOUR, DAY = timedelta(microseconds=1), timedelta(hours=1), timedelta(days=1)
WAIT = limits.CLOSE_AFTER
YEARLY = replace(STARTER, plan_id="yearly", interval=Interval.YEAR)


def month(number: int) -> datetime:
    return nth_start(START, number)


def told(invoice: Invoice) -> list[tuple[LineKind, str]]:
    return [(line.kind, str(line.amount)) for line in invoice.lines]


@pytest.fixture
async def house() -> House:
    return await memory_house()


async def test_a_subscription_pays_its_price_in_advance_and_its_usage_in_arrears(house: House) -> None:
    await house.sell()
    house.usage.use(1_100, START + DAY)
    await house.pass_to(month(2) + DAY)
    opening, first, second = await house.invoices()
    assert [each.cut for each in (opening, first, second)] == [CutKind.OPENING, CutKind.PERIOD, CutKind.PERIOD]
    assert told(opening) == [(LineKind.BASE_FEE, "49.00")]
    assert told(first) == [(LineKind.BASE_FEE, "49.00"), (LineKind.OVERAGE, "5.00")]
    assert told(second) == [(LineKind.BASE_FEE, "49.00"), (LineKind.OVERAGE, "0.00")]
    overage = first.lines[1]
    assert (overage.first_sequence, overage.last_sequence, overage.difference_quantity) == (0, 1, 1_100 * 60_000)
    assert (first.lines[0].period.start, first.lines[0].period.end) == (month(1), month(2))
    assert [each.number for each in (opening, first, second)] == ["TB-000001", "TB-000002", "TB-000003"]


async def test_an_early_close_right_after_the_sale_is_the_price_and_the_usage(house: House) -> None:
    await house.sell()
    house.usage.use(1_099.8, START)
    made = await house.close()
    assert made is not None
    assert told(made) == [(LineKind.BASE_FEE, "49.00"), (LineKind.OVERAGE, "4.99")]
    await house.pass_to(month(1) + DAY)
    assert [each.cut for each in await house.invoices()] == [CutKind.EARLY, CutKind.PERIOD]
    assert told((await house.invoices())[1]) == [(LineKind.BASE_FEE, "49.00")]


async def test_an_early_close_after_the_opening_holds_the_price_of_what_comes_next(house: House) -> None:
    await house.sell()
    await house.pass_to(START + DAY)
    house.usage.use(1_100, START + HOUR)
    preview, made = await house.hands.preview(ACME), await house.close()
    assert made is not None
    assert told(made) == [(LineKind.BASE_FEE, "49.00"), (LineKind.OVERAGE, "5.00")] == told(preview)
    assert made.lines[0].period.start == month(1)
    await house.pass_to(month(2) + DAY)
    assert await house.charged() == 3 * 4900 + 500
    assert told((await house.invoices())[2]) == [(LineKind.BASE_FEE, "49.00"), (LineKind.OVERAGE, "0.00")]


async def test_after_an_early_close_the_preview_is_what_the_periods_end_adds(house: House) -> None:
    await house.sell()
    await house.close()
    house.usage.use(1_100, START + HOUR)
    preview = await house.hands.preview(ACME)
    assert told(preview) == [(LineKind.BASE_FEE, "49.00"), (LineKind.ADJUSTMENT, "5.00")]


async def test_free_is_never_closed_by_itself(house: House) -> None:
    assert str((await house.hands.preview(ACME)).total) == "0.00"
    await house.pass_to(START + 70 * DAY)
    assert await house.invoices() == []


async def test_a_trial_costs_nothing_and_its_end_charges_the_first_month(house: House) -> None:
    await house.sell(trial_days=14)
    house.usage.use(9_000, START + DAY)
    await house.pass_to(START + 16 * DAY)
    (only,) = await house.invoices()
    assert (only.cut, told(only)) == (CutKind.PERIOD, [(LineKind.BASE_FEE, "49.00")])
    assert only.lines[0].period.start == START + 14 * DAY


async def test_a_yearly_plan_pays_once_a_year_and_its_usage_every_month() -> None:
    house = await memory_house(*PLANS, YEARLY)
    await house.sell("yearly")
    house.usage.use(1_100, month(3))
    await house.pass_to(month(12) + DAY)
    invoices = await house.invoices()
    assert len(invoices) == 13
    fees = [line for invoice in invoices for line in invoice.lines if line.kind is LineKind.BASE_FEE]
    assert [(line.period.start, line.period.end) for line in fees] == [(month(0), month(12)), (month(12), month(24))]
    assert await house.charged() == 2 * 4900 + 500


async def test_b26_f31_every_instant_of_a_subscription_is_charged_once_for_any_anchor() -> None:
    """From 29, 30 and 31 January and 29 February, over a leap year, with an upgrade in between."""
    for start in (datetime(2027, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), START, datetime(2028, 2, 29, tzinfo=UTC)):
        house = await memory_house()
        house.clock.advance(start - house.clock.now())
        await house.sell()
        await house.pass_to(start + 100 * DAY)
        await house.change("enterprise", ChangeTime.AT_ONCE)
        await house.pass_to(start + 430 * DAY)
        net: dict[tuple[datetime, datetime], int] = {}
        for invoice in await house.invoices():
            for line in invoice.lines:
                if line.kind in (LineKind.BASE_FEE, LineKind.PRORATION):
                    net[line.period.start, line.period.end] = line.amount.minor
        spans = sorted(net)
        # The month of the upgrade was charged whole at first: its line reaches over the two segments.
        charged_whole = [span for span in spans if any(span[0] < other[0] < span[1] for other in spans)]
        tiles = [span for span in spans if span not in charged_whole]
        assert len(charged_whole) == 1
        assert tiles[0][0] == start
        assert all(before[1] == after[0] for before, after in pairwise(tiles))


async def test_b27_b28_usage_counts_in_the_period_of_its_instant_to_the_microsecond(house: House) -> None:
    """The period ends in the night in which clocks move in Europe: here they do not."""
    house.clock.advance(datetime(2026, 2, 28, 1, tzinfo=UTC) - house.clock.now())
    await house.sell()
    end = datetime(2026, 3, 28, 1, tzinfo=UTC)
    house.usage.use(1_001, end - TICK)
    house.usage.use(1_002, end)
    house.usage.use(1_003, datetime(2026, 3, 29, 1, 30, tzinfo=UTC))
    await house.pass_to(datetime(2026, 4, 28, 2, tzinfo=UTC))
    usage = [line for invoice in await house.invoices() for line in invoice.lines if line.meter]
    assert [line.used_quantity // 60_000 for line in usage] == [1_001, 2_005]


async def test_b29_late_usage_is_an_adjustment_on_the_next_invoice_naming_what_it_corrects(house: House) -> None:
    await house.sell()
    await house.pass_to(month(1) + DAY)
    house.usage.use(1_100, month(1) - TICK)
    await house.pass_to(month(2) + DAY)
    _, first, second = await house.invoices()
    late = second.lines[-1]
    assert (late.kind, str(late.amount), late.corrects_invoice_id) == (LineKind.ADJUSTMENT, "5.00", first.invoice_id)
    assert late.description == "Correction of TB-000002: Agent minutes beyond 1 000 included: 100 at $0.05 per minute"
    assert (late.first_sequence, late.last_sequence) == (0, 1)
    assert (late.period.start, late.period.end) == (month(0), month(1))


async def test_b29_usage_that_comes_as_late_as_it_may_is_invoiced_by_a_later_cut(house: House) -> None:
    """After the cut that follows, and before the next one: 35 days."""
    await house.sell()
    await house.pass_to(month(1) + limits.START_BACK)
    house.usage.use(1_100, month(1) - TICK)
    await house.pass_to(month(4))
    assert await house.charged() == 4 * 4900 + 500


async def test_b29_a_reversal_after_the_close_is_given_back(house: House) -> None:
    await house.sell()
    house.usage.use(1_100, START + DAY)
    await house.pass_to(month(1) + DAY)
    house.usage.use(-50, START + DAY)
    await house.pass_to(month(2) + DAY)
    assert told((await house.invoices())[-1])[-1] == (LineKind.ADJUSTMENT, "-2.50")


async def test_b29_usage_of_the_last_day_and_usage_that_comes_after_the_end_are_billed(house: House) -> None:
    subscription_id = await house.sell()
    await house.pass_to(START + DAY)
    await house.cancel()
    house.usage.use(1_100, month(1) - TICK)
    await house.pass_to(month(1) + DAY)
    house.usage.use(20, month(1) - HOUR)
    house.usage.use(5_000, month(1))
    await house.pass_to(month(3))
    opening, final, later = await house.invoices()
    assert [each.cut for each in (opening, final, later)] == [CutKind.OPENING, CutKind.FINAL, CutKind.FINAL]
    assert told(final) == [(LineKind.OVERAGE, "5.00")]
    assert told(later) == [(LineKind.ADJUSTMENT, "1.00")]
    async with house.books.read(ACME) as book:
        closes = await book.closes.of(subscription_id)
    assert len(closes) == 3
    assert await house.due.claim(now=month(99), count=10) == []


async def test_b29_it_makes_no_difference_how_late_the_worker_is(house: House) -> None:
    punctual, late = await memory_house(), house
    for each in (punctual, late):
        await each.sell()
        each.usage.use(1_100, START + DAY)
        each.usage.use(1_300, month(1) + DAY)
    await punctual.pass_to(month(3) + DAY)
    late.clock.advance(month(3) + DAY - late.clock.now())
    await late.work()
    assert [told(each) for each in await punctual.invoices()] == [told(each) for each in await late.invoices()]
    assert [each.period for each in await punctual.invoices()] == [each.period for each in await late.invoices()]


async def test_b30_a_period_without_usage_changes_nothing_of_the_next_one(house: House) -> None:
    await house.sell()
    house.usage.use(1_100, START + DAY)
    house.usage.use(1_200, month(2) + DAY)
    await house.pass_to(month(3) + DAY)
    usage = [str(line.amount) for invoice in await house.invoices() for line in invoice.lines if line.meter]
    assert usage == ["5.00", "0.00", "10.00"]


async def test_b30_f31_an_upgrade_taken_back_on_the_same_day_costs_the_hours_that_it_was_in_force(house: House) -> None:
    await house.sell()
    await house.pass_to(START + DAY)
    await house.change("enterprise", ChangeTime.AT_ONCE)
    house.clock.advance(6 * HOUR)
    await house.change("starter", ChangeTime.AT_ONCE)
    await house.pass_to(month(1) + DAY)
    hours = Decimal(28 * 24)
    # Each segment is rounded once: a day of 49.00, six hours of 499.00, and the rest of 49.00.
    expected = [
        round(Decimal(49) * 24 / hours, 2),
        round(Decimal(499) * 6 / hours, 2),
        round(Decimal(49) * 642 / hours, 2),
    ]
    prices = [
        line
        for invoice in await house.invoices()
        for line in invoice.lines
        if line.kind in (LineKind.BASE_FEE, LineKind.PRORATION) and line.period.start < month(1)
    ]
    assert Money(sum(line.amount.minor for line in prices), "USD") == Money.parse(str(sum(expected)), "USD")


async def test_f31_an_upgrade_within_a_period_gives_the_allowance_once_and_prices_each_unit_by_its_terms() -> None:
    """A thousand minutes are free as long as starter is in force; what comes after it is enterprise's, all of it."""
    house = await memory_house()
    await house.sell()
    house.usage.use(900, START + HOUR)
    await house.pass_to(START + 10 * DAY)
    await house.change("enterprise", ChangeTime.AT_ONCE)
    house.usage.use(300, START + 11 * DAY)
    await house.pass_to(month(1) + DAY)
    usage = [line for invoice in await house.invoices() for line in invoice.lines if line.meter]
    assert [(line.used_quantity // 60_000, str(line.amount)) for line in usage] == [(900, "0.00"), (300, "15.00")]


async def test_f31_a_change_at_the_boundary_instant_prorates_nothing(house: House) -> None:
    await house.sell("enterprise")
    await house.pass_to(START + DAY)
    await house.change("starter")
    await house.pass_to(month(2) + DAY)
    prices = [line for invoice in await house.invoices() for line in invoice.lines if not line.meter]
    assert [(line.kind, str(line.amount)) for line in prices] == [
        (LineKind.BASE_FEE, "499.00"),
        (LineKind.BASE_FEE, "49.00"),
        (LineKind.BASE_FEE, "49.00"),
    ]


async def test_a_cancellation_at_once_gives_the_unused_time_back_to_the_customers_credit(house: House) -> None:
    await house.sell("enterprise")
    await house.pass_to(START + 14 * DAY)
    await house.cancel(ChangeTime.AT_ONCE)
    await house.pass_to(START + 15 * DAY)
    last = (await house.invoices())[-1]
    assert told(last) == [
        (LineKind.OVERAGE, "0.00"),
        (LineKind.PRORATION, "-249.50"),
        (LineKind.TO_CREDIT, "249.50"),
    ]
    assert (last.state, str(last.total), str(last.subtotal)) == (InvoiceState.PAID, "0.00", "-249.50")
    async with house.books.read(ACME) as book:
        balances = await book.credits.balances()
        (granted,) = await book.credits.standings()
    assert str(balances["USD"][CreditAccount.AVAILABLE]) == "249.50"
    assert (granted.grant.source, granted.grant.source_id) == (CreditSource.INVOICE, last.invoice_id)


async def test_an_invoice_is_due_at_the_end_of_the_term_agreed_when_it_was_finalized_and_one_over_nothing_never(
    house: House,
) -> None:
    await house.sell(trial_days=14)
    for days in (30, 7):
        terms = BillingTerms(collection_method=CollectionMethod.SEND_INVOICE, term_days=days)
        async with house.books.open(ACME) as book:
            profile = BillingProfile(update_time=house.clock.now(), terms=terms)
            await book.profile.set(profile, actor="tests", request_id=f"terms-{days}")
        await house.pass_to(house.clock.now() + 50 * DAY)
    collectable = [each for each in await house.invoices() if each.is_collectable]
    finalized = [each.finalize_time or pytest.fail("not final") for each in collectable]
    assert [each.due_time for each in collectable] == [
        time + days * DAY for time, days in zip(finalized, (30, 30, 7), strict=True)
    ]
    assert all(each.due_time is None for each in await house.invoices() if not each.is_collectable)


async def test_b32_the_total_is_the_sum_of_the_lines_with_taxes_and_credits(house: House) -> None:
    await house.sell()
    async with house.books.open(ACME) as book:
        vat = TaxRate(display_name="VAT", percent=Decimal(19), jurisdiction="DE")
        await book.profile.set_taxes([vat], start_time=START, actor="tests", request_id="tax")
        grant = CreditGrant(
            grant_id="g", amount=Money(6_000, "USD"), priority=0, grant_time=START, expire_time=None,
            source=CreditSource.OPERATOR,
        )  # fmt: skip
        await book.credits.grant(grant, actor="tests", request_id="grant")
    house.usage.use(1_100, START + DAY)
    await house.pass_to(month(1) + DAY)
    opening, first = await house.invoices()
    assert told(opening) == [(LineKind.BASE_FEE, "49.00"), (LineKind.TAX, "9.31"), (LineKind.CREDIT, "-58.31")]
    assert (opening.state, str(opening.total)) == (InvoiceState.PAID, "0.00")
    assert told(first)[2:] == [(LineKind.TAX, "10.26"), (LineKind.CREDIT, "-1.69")]
    assert (str(first.subtotal), str(first.tax), str(first.credits)) == ("54.00", "10.26", "1.69")
    assert first.state is InvoiceState.FINALIZED
    for invoice in (opening, first):
        assert total_of(invoice.lines, "USD") == invoice.total


async def test_b33_a_discount_is_given_once_whatever_changes_and_however_often_it_is_closed(house: House) -> None:
    await house.sell()
    coupon = Coupon(coupon_id="ten", display_name="Ten off", duration=CouponDuration.FOREVER, percent=Decimal(10))
    await put_coupon(house, CouponStanding(coupon=coupon, redemption_count=0, is_withdrawn=False))
    async with house.books.open(ACME) as book:
        redemption = Redemption(redemption_id="r", coupon=coupon, start_time=START, redeem_time=START)
        await book.coupons.redeem(redemption, actor="tests", request_id="coupon")
    await house.close()
    house.usage.use(1_100, START + HOUR)
    await house.pass_to(START + 10 * DAY)
    await house.change("enterprise", ChangeTime.AT_ONCE)
    await house.change("starter", ChangeTime.AT_ONCE)
    await house.pass_to(month(1) + DAY)
    for _ in range(3):
        assert await house.close(period_start=START) is None
    lines = [line for invoice in await house.invoices() for line in invoice.lines]
    discounts = sum(line.amount.minor for line in lines if line.kind is LineKind.DISCOUNT)
    rest = sum(line.amount.minor for line in lines if line.kind is not LineKind.DISCOUNT)
    assert (rest, discounts) == (2 * 4900 + 500, -1030)


async def put_coupon(house: House, standing: CouponStanding) -> None:
    async with house.books.everything() as world:  # type: ignore[attr-defined] # memory's own
        world.coupons[standing.coupon.coupon_id] = standing


async def test_closing_a_past_period_again_invoices_what_differs_and_nothing_when_nothing_does(house: House) -> None:
    await house.sell()
    await house.pass_to(month(6) + DAY)
    assert await house.close(period_start=month(1)) is None
    house.usage.use(1_100, month(1) + DAY)
    made = await house.close(period_start=month(1))
    assert made is not None
    assert (made.cut, told(made)) == (CutKind.RERATED, [(LineKind.ADJUSTMENT, "5.00")])
    assert await house.close(period_start=month(1)) is None


async def test_closing_by_hand_names_a_period_of_the_subscription(house: House) -> None:
    await house.sell()
    house.clock.advance(DAY)
    with pytest.raises(InvalidField, match="begins"):
        await house.close(period_start=START + TICK)
    with pytest.raises(InvalidField, match="until now"):
        await house.close(period_start=month(1))
    with pytest.raises(NotFound):
        await house.close(subscription_id="sub_unknown")


async def test_a_subscription_that_ended_can_be_looked_at_again(house: House) -> None:
    subscription_id = await house.sell()
    await house.cancel()
    await house.pass_to(month(4))
    house.usage.use(1_100, START + DAY)
    made = await house.close(period_start=START, subscription_id=subscription_id)
    assert made is not None
    assert told(made) == [(LineKind.ADJUSTMENT, "5.00")]


async def test_an_invoice_in_dinars_is_rounded_to_what_can_be_charged_by_a_line_of_its_own() -> None:
    dinar = replace(
        ENTERPRISE,
        plan_id="dinar",
        price_books=(replace(ENTERPRISE.default_book, currency_code="KWD", base_price=Money(14_997, "KWD")),),
    )
    house = await memory_house(FREE, dinar)
    await house.sell("dinar")
    await house.work()
    house.clock.advance(WAIT)
    await house.work()
    (opening,) = await house.invoices()
    assert told(opening) == [(LineKind.BASE_FEE, "14.997"), (LineKind.ROUNDING, "0.003")]
    assert str(opening.total) == "15.000"


async def test_a_period_that_lies_ahead_however_far_is_refused_and_not_looked_for(house: House) -> None:
    await house.sell()
    for moment in (month(1), datetime(9999, 12, 31, tzinfo=UTC)):
        with pytest.raises(InvalidField, match="period_start_time"):
            await house.close(period_start=moment)
