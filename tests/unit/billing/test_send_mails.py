"""What is sent of the outbox, and what becomes of the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from kit.errors import DependencyUnavailable
from kit.money import Money
from services.billing.adapters.jinja_letters.letters import JinjaLetters
from services.billing.adapters.memory.books import MemoryBook, MemoryBooks
from services.billing.adapters.memory.mail_list import MemoryMailList
from services.billing.adapters.memory.operators import MemoryLegalEntities
from services.billing.adapters.memory.postman import MemoryPostman
from services.billing.application.create_credit_note import CreateCreditNote
from services.billing.application.find_plan import FindPlan
from services.billing.application.grant_credits import GrantCredits
from services.billing.application.ports.mails import Mail
from services.billing.application.print_papers import File
from services.billing.application.send_mails import SendMails
from services.billing.domain.credit_notes import CreditDestination, CreditNoteReason
from services.billing.domain.invoices import InvoiceState
from services.billing.domain.lifecycle import ChangeTime
from services.billing.domain.mails import CREDIT_NOTICE, TRIAL_NOTICE, Letter, MailKind, MailOutcome
from services.billing.domain.profile import BillingProfile, BillingTerms, CollectionMethod, Party
from tests.unit.billing.closing_house import ACME, START, House, memory_house

DAY = timedelta(days=1)


class Printer:
    """Papers of a few bytes."""

    async def invoice(self, organization_id: str, invoice_id: str) -> File:
        return File("invoice.pdf", f"{organization_id} {invoice_id}".encode())

    async def credit_note(self, organization_id: str, credit_note_id: str) -> File:
        return File("credit-note.pdf", f"{organization_id} {credit_note_id}".encode())


class FragileBooks(MemoryBooks):
    """Books that raise, once, where they would be opened."""

    breaks = False

    @asynccontextmanager
    async def open(self, organization_id: str) -> AsyncIterator[MemoryBook]:
        if self.breaks:
            self.breaks = False
            raise DependencyUnavailable(dependency="Postgres")
        async with super().open(organization_id) as book:
            yield book


@dataclass
class Office:
    """A house with an outbox and somebody who empties it."""

    house: House
    books: FragileBooks
    postman: MemoryPostman = field(default_factory=MemoryPostman)

    def send(self, *, with_postman: bool = True) -> SendMails:
        return SendMails(
            due=MemoryMailList(self.books),
            books=self.books,
            find_plan=FindPlan(self.books, self.house.plans),
            entities=MemoryLegalEntities(self.books),
            papers=Printer(),
            letters=JinjaLetters(),
            postman=self.postman if with_postman else None,
            reply_to="billing@tollbook.example",
            clock=self.house.clock,
        )

    async def sent(self) -> list[Letter]:
        """What came since the last look."""
        before = len(self.postman.sent)
        await self.send()()
        return self.postman.sent[before:]

    async def outbox(self) -> list[Mail]:
        async with self.books.read(ACME) as book:
            return list(await book.mails.all())

    async def outcomes(self) -> dict[MailKind, MailOutcome | None]:
        return {mail.kind: mail.outcome for mail in await self.outbox()}

    async def write_to(self, mail: str, terms: BillingTerms | None = None) -> None:
        async with self.books.open(ACME) as book:
            profile = BillingProfile(
                update_time=self.house.clock.now(),
                party=Party(legal_name="Acme GmbH", mail=mail),
                terms=terms or BillingTerms(),
            )
            await book.profile.set(profile, actor="tests", request_id="profile")


@pytest.fixture
async def office() -> Office:
    books = FragileBooks()
    made = Office(await memory_house(books=books), books)
    await made.write_to("accounts@acme.example")
    return made


async def test_an_issued_invoice_is_written_about_once_with_its_paper(office: Office) -> None:
    await office.house.sell()
    invoice = await office.house.close()
    assert invoice is not None
    [letter] = await office.sent()
    assert (letter.to, letter.subject) == (
        "accounts@acme.example",
        f"Invoice {invoice.number} from Tollbook: USD {invoice.total}",
    )
    assert "Hello Acme GmbH" in letter.text
    assert "due on 31 Jan 2026" in letter.text
    assert [(each.name, each.content_type) for each in letter.attachments] == [("invoice.pdf", "application/pdf")]
    assert letter.attachments[0].content == f"{ACME} {invoice.invoice_id}".encode()
    await office.house.close()
    assert await office.sent() == []
    assert await office.outcomes() == {MailKind.INVOICE_ISSUED: MailOutcome.SENT}


async def test_who_pays_by_transfer_is_told_until_when(office: Office) -> None:
    terms = BillingTerms(collection_method=CollectionMethod.SEND_INVOICE, term_days=30)
    await office.write_to("accounts@acme.example", terms)
    await office.house.sell()
    await office.house.close()
    [letter] = await office.sent()
    assert "due on 2 Mar 2026" in letter.text


async def test_an_invoice_over_nothing_is_not_written_about(office: Office) -> None:
    await office.house.sell()
    await GrantCredits(office.books, office.house.clock)(
        ACME, Money(100_00, "USD"), priority=None, expire_time=None, description="", request_id="g", actor="tests"
    )
    invoice = await office.house.close()
    assert invoice is not None
    assert (invoice.total.minor, invoice.state) == (0, InvoiceState.PAID)
    assert await office.outbox() == []


async def test_a_credit_note_is_written_about_with_its_paper(office: Office) -> None:
    await office.house.sell()
    invoice = await office.house.close()
    assert invoice is not None
    note = await CreateCreditNote(office.books, office.house.clock)(
        ACME,
        invoice.invoice_id,
        (),
        reason=CreditNoteReason.GOODWILL,
        memo="",
        destination=CreditDestination.CREDIT,
        request_id="note",
        actor="tests",
    )
    letter = next(each for each in await office.sent() if "Credit note" in each.subject)
    assert note.number in letter.subject
    assert invoice.number in letter.text
    assert letter.attachments[0].content == f"{ACME} {note.credit_note_id}".encode()


async def test_a_trial_is_written_about_three_days_before_it_ends_and_no_sooner(office: Office) -> None:
    await office.house.sell(trial_days=14)
    office.house.clock.advance(14 * DAY - TRIAL_NOTICE - DAY)
    assert await office.sent() == []
    office.house.clock.advance(DAY)
    [letter] = await office.sent()
    assert letter.subject == "Your Starter trial ends on 14 Feb 2026"
    assert "USD 49.00" in letter.text


async def test_a_trial_that_was_canceled_is_not_said_to_go_on(office: Office) -> None:
    await office.house.sell(trial_days=14)
    await office.house.cancel()
    office.house.clock.advance(13 * DAY)
    assert [letter.subject for letter in await office.sent()] == ["Your Starter subscription ends on 14 Feb 2026"]
    assert (await office.outcomes())[MailKind.TRIAL_ENDING] is MailOutcome.OBSOLETE


async def test_a_trial_that_was_upgraded_is_told_with_the_plan_and_price_it_goes_on_with(office: Office) -> None:
    await office.house.sell(trial_days=14)
    await office.house.change("enterprise")
    office.house.clock.advance(13 * DAY)
    letter = next(each for each in await office.sent() if "trial" in each.subject)
    assert letter.subject == "Your Enterprise trial ends on 14 Feb 2026"


async def test_what_is_left_of_credits_is_told_seven_days_before_it_expires(office: Office) -> None:
    grant = GrantCredits(office.books, office.house.clock)
    for request_id, cents in {"used": 49_00, "left": 100_00}.items():
        await grant(
            ACME,
            Money(cents, "USD"),
            priority=0 if request_id == "used" else 1,
            expire_time=START + 30 * DAY,
            description="",
            request_id=request_id,
            actor="tests",
        )
    await office.house.sell()
    await office.house.close()
    office.house.clock.advance(30 * DAY - CREDIT_NOTICE - DAY)
    assert await office.sent() == []
    office.house.clock.advance(DAY)
    [letter] = await office.sent()
    assert letter.subject == "USD 100.00 of your credits expire on 2 Mar 2026"


async def test_a_change_of_plan_is_told_when_it_is_made_with_the_day_it_begins_and_once(office: Office) -> None:
    await office.house.sell()
    await office.house.change("enterprise", ChangeTime.AT_ONCE)
    await office.house.change("starter", ChangeTime.AT_PERIOD_END)
    await office.house.change("starter", ChangeTime.AT_PERIOD_END)
    assert sorted(letter.subject for letter in await office.sent()) == [
        "You are on Enterprise from 31 Jan 2026",
        "You are on Starter from 28 Feb 2026",
    ]


async def test_who_names_no_address_is_not_written_to_and_it_is_noted(office: Office) -> None:
    await office.write_to("")
    await office.house.sell()
    await office.house.close()
    assert await office.sent() == []
    assert await office.outcomes() == {MailKind.INVOICE_ISSUED: MailOutcome.NO_ADDRESS}


async def test_without_a_mail_server_nothing_waits_for_one(office: Office) -> None:
    await office.house.sell()
    await office.house.close()
    assert await office.send(with_postman=False)() == 1
    assert await office.outcomes() == {MailKind.INVOICE_ISSUED: MailOutcome.SKIPPED}
    assert await office.sent() == []


async def test_a_mail_server_that_is_away_is_tried_again_ever_later_and_gets_the_mail_once(office: Office) -> None:
    await office.house.sell()
    await office.house.close()
    office.postman.is_away = True
    for pause in (1, 2, 4):
        assert await office.send()() == 1
        assert await office.send()() == 0
        office.house.clock.advance(timedelta(seconds=pause))
    office.postman.is_away = False
    assert len(await office.sent()) == 1
    assert await office.outcomes() == {MailKind.INVOICE_ISSUED: MailOutcome.SENT}


async def test_what_the_server_refuses_is_parked_and_keeps_no_other_mail_waiting(office: Office) -> None:
    await office.house.sell()
    await office.house.close()
    office.postman.refusal = "550 nobody here"
    assert await office.sent() == []
    office.postman.refusal = ""
    await office.house.change("enterprise", ChangeTime.AT_ONCE)
    office.house.clock.advance(DAY)
    assert [letter.subject for letter in await office.sent()] == ["You are on Enterprise from 31 Jan 2026"]
    async with office.books.everything() as world:
        assert [due.parked_reason for due in world.due_mails.values()] == ["550 nobody here"]


async def test_who_breaks_off_between_sending_and_noting_makes_the_same_mail_come_once_more(office: Office) -> None:
    await office.house.sell()
    await office.house.close()
    office.books.breaks = True
    [first] = await office.sent()
    assert await office.outcomes() == {MailKind.INVOICE_ISSUED: None}
    office.house.clock.advance(timedelta(seconds=1))
    [second] = await office.sent()
    assert second == first
    office.house.clock.advance(DAY)
    assert await office.sent() == []


async def test_a_template_that_breaks_on_one_mail_keeps_no_other_waiting(office: Office) -> None:
    async with office.books.open(ACME) as book:
        await book.mails.add(Mail(kind=MailKind.PAYMENT_FAILED, reason="broken", data={}), now=START)
    await office.house.sell()
    await office.house.close()
    assert len(await office.sent()) == 1
    assert await office.outcomes() == {
        MailKind.PAYMENT_FAILED: None,
        MailKind.INVOICE_ISSUED: MailOutcome.SENT,
    }
