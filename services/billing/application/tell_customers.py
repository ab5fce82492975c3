"""Tell customers: what they are written, put in the outbox with what it tells of."""

from __future__ import annotations

from datetime import datetime

from services.billing.application.ports.books import Book
from services.billing.application.ports.mails import Mail
from services.billing.application.settle_standing import invoice_in_mail
from services.billing.domain import lifecycle
from services.billing.domain.credit_notes import CreditNote
from services.billing.domain.credits import CreditGrant
from services.billing.domain.invoice_papers import due_time
from services.billing.domain.invoices import Invoice
from services.billing.domain.mails import CREDIT_NOTICE, TRIAL_NOTICE, MailKind
from services.billing.domain.timeline import Timeline
from services.billing.domain.wording import date_text


async def tell_of_invoice(book: Book, invoice: Invoice, *, now: datetime) -> None:
    """An invoice was issued. One over nothing is not written about: there is nothing to do."""
    if not invoice.is_collectable:
        return
    due = due_time(now, await book.profile.current())
    data = {**invoice_in_mail(invoice), "due_date": date_text(due)}
    await book.mails.add(Mail(kind=MailKind.INVOICE_ISSUED, reason=invoice.invoice_id, data=data), now=now)


async def tell_of_credit_note(book: Book, note: CreditNote, *, now: datetime) -> None:
    """A credit note was issued."""
    data = {
        "number": note.number,
        "total": f"{note.total.currency_code} {note.total}",
        "invoice_number": note.invoice_number,
    }
    await book.mails.add(Mail(kind=MailKind.CREDIT_NOTE_ISSUED, reason=note.credit_note_id, data=data), now=now)


async def tell_of_trial(book: Book, timeline: Timeline, *, now: datetime) -> None:
    """A subscription began with a trial: a while before that ends its customer is written, if it still is so then."""
    if timeline.anchor > now and timeline.phases[0].is_trial:
        mail = Mail(kind=MailKind.TRIAL_ENDING, reason=timeline.subscription_id, data={})
        await book.mails.add(mail, now=now, send_time=timeline.anchor - TRIAL_NOTICE)


async def tell_of_grant(book: Book, grant: CreditGrant, *, now: datetime) -> None:
    """Credits were granted: a while before they expire their owner is written, if any are left then."""
    if grant.expire_time is not None:
        mail = Mail(kind=MailKind.CREDITS_EXPIRING, reason=grant.grant_id, data={})
        await book.mails.add(mail, now=now, send_time=grant.expire_time - CREDIT_NOTICE)


async def tell_of_change(book: Book, timeline: Timeline, plan: str, *, request_id: str, now: datetime) -> None:
    """The plan was changed, or a change of it taken back: which plan holds, and from when on."""
    scheduled = lifecycle.scheduled_plan(timeline, now)
    start = now if scheduled is None else scheduled.start
    data = {"plan": plan, "from_date": date_text(start)}
    reason = f"{timeline.subscription_id}/{request_id}"
    await book.mails.add(Mail(kind=MailKind.PLAN_CHANGED, reason=reason, data=data), now=now)


async def tell_of_end(book: Book, timeline: Timeline, plan: str, *, request_id: str, now: datetime) -> None:
    """The subscription was canceled, at once or for later."""
    data = {"plan": plan, "end_date": date_text(now if timeline.end is None else max(timeline.end, now))}
    reason = f"{timeline.subscription_id}/{request_id}"
    await book.mails.add(Mail(kind=MailKind.SUBSCRIPTION_CANCELED, reason=reason, data=data), now=now)
