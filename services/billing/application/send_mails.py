"""Send mails: hands what is in the outbox to a mail server, each mail once, and notes what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from kit.clock import Clock
from kit.errors import Refused
from services.billing.application.find_plan import FindPlan
from services.billing.application.ports.books import BookReader, Books
from services.billing.application.ports.mail import LetterTexts, PaperPrinter, Postman
from services.billing.application.ports.mails import DueMail, Mail, MailList
from services.billing.application.ports.profile import LegalEntities
from services.billing.domain import limits
from services.billing.domain.errors import MailRefused
from services.billing.domain.mails import Attachment, Letter, MailKind, MailOutcome
from services.billing.domain.profile import BillingProfile
from services.billing.domain.retries import retry_pause
from services.billing.domain.wording import date_text

log = structlog.get_logger()

_PDF = "application/pdf"


class SendMails:
    """Works the list of mails that are to be sent off."""

    def __init__(
        self,
        *,
        due: MailList,
        books: Books,
        find_plan: FindPlan,
        entities: LegalEntities,
        papers: PaperPrinter,
        letters: LetterTexts,
        postman: Postman | None,
        reply_to: str,
        clock: Clock,
    ) -> None:
        """Without a postman no mail is sent, and none waits. reply_to: where customers ask a legal entity that has no
        mail address of its own.
        """
        self._due = due
        self._books = books
        self._find_plan = find_plan
        self._entities = entities
        self._papers = papers
        self._letters = letters
        self._postman = postman
        self._reply_to = reply_to
        self._clock = clock

    async def __call__(self) -> int:
        """Sends what is due and can be claimed; answers how many it claimed. What fails is due again after a pause;
        what the mail server refuses is parked with the reason. A mail is sent once; only who dies between sending and
        noting it makes it come once more, as the same mail.
        """
        claimed = await self._due.claim(now=self._clock.now(), count=limits.CLAIMED_AT_ONCE)
        await asyncio.gather(*(self._work_on(due) for due in claimed))
        return len(claimed)

    async def _work_on(self, due: DueMail) -> None:
        try:
            async with asyncio.timeout(limits.CLAIM_WORK.total_seconds()):
                outcome = await self._send(due)
                async with self._books.open(due.organization_id) as book:
                    await book.mails.close(due.mail_id, outcome, now=self._clock.now())
        except MailRefused as refusal:
            await self._park(due, str(refusal))
        except (Refused, TimeoutError) as error:
            log.warning("mail_retries", mail_id=due.mail_id, attempt=due.attempt_count, error=str(error))
            await self._retry(due, str(error))
        except Exception as error:
            # A defect of ours, or of a template, with this mail; the others do not wait for it.
            log.exception("mail_failed", mail_id=due.mail_id, attempt=due.attempt_count)
            await self._retry(due, f"{type(error).__name__}: {error}")
        else:
            log.info("mail_closed", mail_id=due.mail_id, outcome=outcome.value)

    async def _retry(self, due: DueMail, error: str) -> None:
        at = self._clock.now() + retry_pause(due.attempt_count)
        await self._due.retry(due, at=at, error=error[: limits.ERROR_TEXT_MAX])

    async def _park(self, due: DueMail, reason: str) -> None:
        log.error("mail_parked", mail_id=due.mail_id, reason=reason)
        await self._due.park(due, reason=reason[: limits.ERROR_TEXT_MAX])

    async def _send(self, due: DueMail) -> MailOutcome:
        async with self._books.read(due.organization_id) as book:
            mail, profile = await book.mails.get(due.mail_id), await book.profile.current()
            entity_id = await _legal_entity_of(book, mail, profile)
        if mail.outcome is not None:
            return mail.outcome
        if self._postman is None:
            return MailOutcome.SKIPPED
        if not profile.party.mail:
            return MailOutcome.NO_ADDRESS
        data = await self._data(due.organization_id, mail)
        if data is None:
            return MailOutcome.OBSOLETE
        seller = (await self._entities.at(entity_id, self._clock.now())).party
        every_mail = {
            "customer": profile.party.legal_name or due.organization_id,
            "seller": seller.legal_name,
            "seller_email": seller.mail or self._reply_to,
        }
        subject, text = self._letters.write(mail.kind, {**every_mail, **data})
        attachments = await self._attachments(due.organization_id, mail)
        letter = Letter(
            letter_id=mail.mail_id, to=profile.party.mail, subject=subject, text=text, attachments=attachments
        )
        await self._postman.send(letter)
        return MailOutcome.SENT

    async def _attachments(self, organization_id: str, mail: Mail) -> tuple[Attachment, ...]:
        match mail.kind:
            case MailKind.INVOICE_ISSUED:
                file = await self._papers.invoice(organization_id, mail.reason)
            case MailKind.CREDIT_NOTE_ISSUED:
                file = await self._papers.credit_note(organization_id, mail.reason)
            case _:
                return ()
        return (Attachment(file.name, _PDF, file.content),)

    async def _data(self, organization_id: str, mail: Mail) -> Mapping[str, str] | None:
        """What the mail says; None when it is no longer true."""
        match mail.kind:
            case MailKind.TRIAL_ENDING:
                return await self._trial(organization_id, mail.reason)
            case MailKind.CREDITS_EXPIRING:
                return await self._credits(organization_id, mail.reason)
            case _:
                return mail.data

    async def _trial(self, organization_id: str, subscription_id: str) -> Mapping[str, str] | None:
        now = self._clock.now()
        async with self._books.read(organization_id) as book:
            timeline = await book.subscriptions.timeline(subscription_id)
        end = timeline.anchor
        if end <= now or (timeline.end is not None and timeline.end <= end):
            return None
        plan = await self._find_plan(organization_id, timeline.phase_at(end).plan)
        price = plan.book(timeline.currency_code).base_price
        return {"plan": plan.display_name, "end_date": date_text(end), "price": f"{price.currency_code} {price}"}

    async def _credits(self, organization_id: str, grant_id: str) -> Mapping[str, str] | None:
        async with self._books.read(organization_id) as book:
            standing = await book.credits.get(grant_id)
        left, time = standing.available, standing.grant.expire_time
        if time is None or time <= self._clock.now() or left.minor <= 0:
            return None
        return {"amount": f"{left.currency_code} {left}", "expire_date": date_text(time)}


async def _legal_entity_of(book: BookReader, mail: Mail, profile: BillingProfile) -> str:
    """Who writes: of a paper whoever issued it, else who bills the customer now."""
    match mail.kind:
        case MailKind.INVOICE_ISSUED:
            return (await book.invoices.get(mail.reason)).legal_entity_id
        case MailKind.CREDIT_NOTE_ISSUED:
            return (await book.credit_notes.get(mail.reason)).legal_entity_id
        case _:
            return profile.terms.legal_entity_id
