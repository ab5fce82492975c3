"""Mails: what customers are told about their subscription and their invoices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum


class MailKind(Enum):
    """What a mail is about; each has a template of its own name in lower case."""

    INVOICE_ISSUED = "INVOICE_ISSUED"
    CREDIT_NOTE_ISSUED = "CREDIT_NOTE_ISSUED"
    PAYMENT_FAILED = "PAYMENT_FAILED"
    PAYMENT_REMINDER = "PAYMENT_REMINDER"
    SUBSCRIPTION_SUSPENDED = "SUBSCRIPTION_SUSPENDED"
    PAYMENT_RECEIVED = "PAYMENT_RECEIVED"
    TRIAL_ENDING = "TRIAL_ENDING"
    PLAN_CHANGED = "PLAN_CHANGED"
    SUBSCRIPTION_CANCELED = "SUBSCRIPTION_CANCELED"
    CREDITS_EXPIRING = "CREDITS_EXPIRING"


class MailOutcome(Enum):
    """What became of a mail that is no longer to be sent."""

    SENT = "SENT"
    """A mail server took it over."""
    NO_ADDRESS = "NO_ADDRESS"
    """The billing profile names nobody to write to."""
    SKIPPED = "SKIPPED"
    """No mail server was configured."""
    OBSOLETE = "OBSOLETE"
    """What it was to say was no longer true when its time came."""


TRIAL_NOTICE = timedelta(days=3)
"""How long before the end of a trial its customer is written."""
CREDIT_NOTICE = timedelta(days=7)
"""How long before credits expire their owner is written."""


EXAMPLE_DATA: Mapping[MailKind, Mapping[str, str]] = {
    MailKind.INVOICE_ISSUED: {"number": "TB-000042", "total": "USD 53.99", "due_date": "20 Nov 2026"},
    MailKind.CREDIT_NOTE_ISSUED: {"number": "CN-000007", "total": "USD 4.99", "invoice_number": "TB-000042"},
    MailKind.PAYMENT_FAILED: {"number": "TB-000042", "total": "USD 53.99", "suspend_date": "4 Dec 2026"},
    MailKind.PAYMENT_REMINDER: {"number": "TB-000042", "total": "USD 53.99", "suspend_date": "4 Dec 2026"},
    MailKind.SUBSCRIPTION_SUSPENDED: {"number": "TB-000042", "total": "USD 53.99"},
    MailKind.PAYMENT_RECEIVED: {"number": "TB-000042", "total": "USD 53.99"},
    MailKind.TRIAL_ENDING: {"plan": "Pro", "end_date": "20 Nov 2026", "price": "USD 149.00"},
    MailKind.PLAN_CHANGED: {"plan": "Pro", "from_date": "20 Nov 2026"},
    MailKind.SUBSCRIPTION_CANCELED: {"plan": "Pro", "end_date": "20 Nov 2026"},
    MailKind.CREDITS_EXPIRING: {"amount": "USD 100.00", "expire_date": "20 Nov 2026"},
}
"""What each kind says, and so what whoever writes one must give: every template is held against it. All of them may
also name the `customer`, the `seller` and the `seller_email`.
"""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that comes with a mail."""

    name: str
    content_type: str
    """Such as `application/pdf`."""
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A mail as it is sent."""

    letter_id: str
    """Sent again with the same id it is the same mail: readers and servers may drop the copy."""
    to: str
    """An address such as `accounts@example.com`."""
    subject: str
    text: str
    attachments: tuple[Attachment, ...] = ()
