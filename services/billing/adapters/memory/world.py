"""Everything that the books in memory hold, and that one transaction may change."""

from __future__ import annotations

import secrets
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime

from kit.feed import Position
from services.billing.application.ports.closes import DueClose
from services.billing.application.ports.collection import DueInvoice
from services.billing.application.ports.credit_notes import DueCreditNote
from services.billing.application.ports.due_changes import DueChange
from services.billing.application.ports.dunning import DueDunning
from services.billing.application.ports.entitlements import EntitlementEntry
from services.billing.application.ports.mails import DueMail, Mail
from services.billing.application.ports.payments import WaitingDraft
from services.billing.application.ports.reconciliation import Found, Report
from services.billing.domain.catalog import Plan
from services.billing.domain.closing import Close, Cut
from services.billing.domain.coupons import CouponStanding, Redemption
from services.billing.domain.credit_notes import CreditNote
from services.billing.domain.credits import CreditEntry, CreditGrant
from services.billing.domain.dunning import Dunning
from services.billing.domain.invoices import Invoice
from services.billing.domain.mails import MailKind
from services.billing.domain.profile import DEFAULT_LEGAL_ENTITY, BillingProfile, LegalEntity, Party
from services.billing.domain.purchases import CreditPurchase
from services.billing.domain.stripe_events import StripeEvent
from services.billing.domain.stripe_objects import StripeDispute, StripeRefund
from services.billing.domain.subscriptions import Subscription
from services.billing.domain.tax import TaxRates
from services.billing.domain.timeline import Timeline

_FIRST_ENTITY = LegalEntity(
    legal_entity_id=DEFAULT_LEGAL_ENTITY,
    version=1,
    update_time=datetime(2000, 1, 1, tzinfo=UTC),
    party=Party(legal_name="Tollbook"),
    invoice_prefix="TB",
    credit_note_prefix="CN",
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request made."""

    digest: bytes
    result_id: str


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the change log."""

    position: Position
    entitlement: EntitlementEntry | None


@dataclass(slots=True)
class Pages:
    """What is written in one organization's books."""

    subscriptions: dict[str, Subscription] = field(default_factory=dict)
    timelines: dict[str, Timeline] = field(default_factory=dict)
    custom_plans: dict[str, Plan] = field(default_factory=dict)
    invoices: dict[str, Invoice] = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=dict)
    changes: list[Entry] = field(default_factory=list)
    stripe_customer_id: str = ""
    profiles: list[BillingProfile] = field(default_factory=list)
    taxes: list[TaxRates] = field(default_factory=list)
    redemptions: dict[str, Redemption] = field(default_factory=dict)
    grants: dict[str, CreditGrant] = field(default_factory=dict)
    journal: list[CreditEntry] = field(default_factory=list)
    purchases: dict[str, CreditPurchase] = field(default_factory=dict)
    credit_notes: dict[str, CreditNote] = field(default_factory=dict)
    forgotten_customers: int = 0
    refunds: dict[str, tuple[str, StripeRefund]] = field(default_factory=dict)
    """With the invoice that each is of."""
    disputes: dict[str, tuple[str, StripeDispute]] = field(default_factory=dict)
    """The same."""
    drafts: dict[str, tuple[WaitingDraft, str]] = field(default_factory=dict)
    """With the invoice that each is set aside for; empty: none yet."""
    dunnings: dict[str, Dunning] = field(default_factory=dict)
    ended_dunnings: set[str] = field(default_factory=set)
    mails: dict[tuple[MailKind, str], Mail] = field(default_factory=dict)
    """By kind and reason."""
    closes: dict[tuple[str, Cut], Close] = field(default_factory=dict)
    """By subscription and cut."""
    found: dict[tuple[str, str], Found] = field(default_factory=dict)
    """By report and difference."""
    accepted: set[str] = field(default_factory=set)

    def change(self, entitlement: EntitlementEntry | None) -> None:
        """Writes the next entry of the change log."""
        position = Position(len(self.changes) + 1, secrets.token_hex(8))
        self.changes.append(Entry(position, entitlement))


@dataclass(slots=True)
class Due:
    """An invoice that is to be collected."""

    due: DueInvoice
    next_attempt_time: datetime
    parked_reason: str = ""
    is_claimed: bool = False


@dataclass(slots=True)
class DunningDue:
    """An invoice of which a step may be due."""

    due: DueDunning
    next_attempt_time: datetime


@dataclass(slots=True)
class DueNote:
    """A credit note that is to be handed over."""

    due: DueCreditNote
    next_attempt_time: datetime
    parked_reason: str = ""


@dataclass(slots=True)
class MailDue:
    """A mail that is to be sent."""

    due: DueMail
    next_attempt_time: datetime
    parked_reason: str = ""


@dataclass(slots=True)
class Scheduled:
    """When a subscription changes next."""

    due: DueChange
    next_attempt_time: datetime


@dataclass(slots=True)
class DueCloseRow:
    """A subscription whose next cut is due."""

    due: DueClose
    next_attempt_time: datetime


@dataclass(slots=True)
class Waiting:
    """A Stripe event."""

    event: StripeEvent
    next_attempt_time: datetime
    attempt_count: int = 0
    outcome: str = ""
    """Empty until it is handled."""


@dataclass(slots=True)
class World:
    """Everything that one transaction may change."""

    pages: defaultdict[str, Pages] = field(default_factory=lambda: defaultdict(Pages))
    due: dict[tuple[str, str], Due] = field(default_factory=dict)
    scheduled: dict[str, Scheduled] = field(default_factory=dict)
    """By organization."""
    dunnings_due: dict[tuple[str, str], DunningDue] = field(default_factory=dict)
    due_mails: dict[str, MailDue] = field(default_factory=dict)
    due_closes: dict[tuple[str, str], DueCloseRow] = field(default_factory=dict)
    events: dict[str, Waiting] = field(default_factory=dict)
    coupons: dict[str, CouponStanding] = field(default_factory=dict)
    operator_requests: dict[str, bytes] = field(default_factory=dict)
    reports: dict[str, Report] = field(default_factory=dict)
    legal_entities: list[LegalEntity] = field(default_factory=lambda: [_FIRST_ENTITY])
    last_credit_note_numbers: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    due_credit_notes: dict[tuple[str, str], DueNote] = field(default_factory=dict)
    last_numbers: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    """By legal entity."""

    def entity(self, legal_entity_id: str) -> LegalEntity:
        """The newest version of one of those who bill."""
        return next(each for each in reversed(self.legal_entities) if each.legal_entity_id == legal_entity_id)
