"""Who owes, owes still: there is no way around an unpaid invoice, and nothing comes back that was never paid."""

from __future__ import annotations

from datetime import timedelta

import pytest

from services.billing.application.create_credit_note import CreateCreditNote
from services.billing.application.settle_standing import settle_standing
from services.billing.domain.credit_notes import CreditDestination, CreditNoteReason
from services.billing.domain.credits import CreditAccount
from services.billing.domain.invoices import InvoiceState
from services.billing.domain.lifecycle import ChangeTime
from tests.unit.billing.closing_house import ACME, START, House, memory_house

DAY = timedelta(days=1)


@pytest.fixture
async def house() -> House:
    return await memory_house()


async def status(house: House) -> str:
    async with house.books.read(ACME) as book:
        current = await book.subscriptions.in_force()
    assert current is not None
    return current.status.value


async def credit(house: House) -> str:
    async with house.books.read(ACME) as book:
        balances = await book.credits.balances()
    return str(balances["USD"][CreditAccount.AVAILABLE]) if "USD" in balances else "0.00"


async def void(house: House, invoice_id: str) -> None:
    async with house.books.open(ACME) as book:
        assert await book.payments.follow(invoice_id, InvoiceState.VOID, stripe_invoice_id="", actor="tests")


@pytest.mark.parametrize(("is_suspending", "expected"), [(False, "PAST_DUE"), (True, "SUSPENDED")])
async def test_canceling_and_buying_again_is_no_way_out_of_what_is_unpaid(
    house: House, *, is_suspending: bool, expected: str
) -> None:
    await house.sell()
    await house.pass_to(START + DAY)
    (opening,) = await house.invoices()
    async with house.books.open(ACME) as book:
        await book.payments.follow(opening.invoice_id, InvoiceState.PAST_DUE, stripe_invoice_id="in_1", actor="tests")
        await book.dunning.begin(opening.invoice_id, now=house.clock.now())
        await book.dunning.note(
            opening.invoice_id, (), is_suspending=is_suspending, next_time=None, now=house.clock.now()
        )
        await settle_standing(book, actor="tests", now=house.clock.now())
    assert await status(house) == expected
    await house.cancel(ChangeTime.AT_ONCE)
    assert await status(house) == "ACTIVE", "on free, which owes nothing"
    await house.sell()
    assert await status(house) == expected
    async with house.books.open(ACME) as book:
        await book.dunning.end(opening.invoice_id, now=house.clock.now())
        await settle_standing(book, actor="tests", now=house.clock.now())
    assert await status(house) == "ACTIVE"


async def test_a_cancellation_gives_nothing_back_of_a_price_that_was_voided(house: House) -> None:
    await house.sell("enterprise")
    await house.pass_to(START + DAY)
    (opening,) = await house.invoices()
    await void(house, opening.invoice_id)
    await house.cancel(ChangeTime.AT_ONCE)
    await house.pass_to(START + 40 * DAY)
    assert await credit(house) == "0.00"
    assert [str(invoice.total) for invoice in (await house.invoices())[1:]] == ["0.00"]


async def test_a_cancellation_gives_nothing_back_of_a_price_that_a_credit_note_took_back(house: House) -> None:
    await house.sell("enterprise")
    await house.pass_to(START + DAY)
    (opening,) = await house.invoices()
    async with house.books.open(ACME) as book:
        await book.payments.follow(opening.invoice_id, InvoiceState.PAID, stripe_invoice_id="in_1", actor="tests")
    await CreateCreditNote(house.books, house.clock)(
        ACME,
        opening.invoice_id,
        [],
        reason=CreditNoteReason.BILLING_ERROR,
        memo="",
        destination=CreditDestination.REFUND,
        request_id="note",
        actor="tests",
    )
    await house.cancel(ChangeTime.AT_ONCE)
    await house.pass_to(START + 40 * DAY)
    assert await credit(house) == "0.00"


async def test_usage_that_a_credit_note_took_back_is_not_given_back_again_when_it_is_reversed(house: House) -> None:
    await house.sell("enterprise")
    house.usage.use(100, START + DAY)
    await house.pass_to(START + 2 * DAY)
    early = await house.close()
    assert early is not None
    assert str(early.subtotal) == "504.00"
    usage = next(number for number, line in enumerate(early.lines, start=1) if line.meter)
    assert usage
    async with house.books.open(ACME) as book:
        await book.payments.follow(early.invoice_id, InvoiceState.PAID, stripe_invoice_id="in_2", actor="tests")
    await CreateCreditNote(house.books, house.clock)(
        ACME,
        early.invoice_id,
        [],
        reason=CreditNoteReason.BILLING_ERROR,
        memo="",
        destination=CreditDestination.CREDIT,
        request_id="note",
        actor="tests",
    )
    noted = await credit(house)
    house.usage.use(-100, START + DAY)
    await house.pass_to(START + 34 * DAY)
    assert await credit(house) == noted == "504.00"
