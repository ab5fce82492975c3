"""Who is billed, on which terms, and by whom: what stands at the head of an invoice."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum

from kit.errors import InvalidField, LimitExceeded
from kit.money import UnknownCurrency, currency_exponent
from services.billing.domain import limits
from services.billing.domain.texts import require_name, require_text

DEFAULT_LEGAL_ENTITY = "default"
"""Who bills an organization of which nothing else is said."""
DEFAULT_LOCALE = "en"
DEFAULT_TERM_DAYS = 14
"""Only counts for who pays by transfer; a card is charged at once."""

_COUNTRY = re.compile(r"[A-Z]{2}")
_LOCALE = re.compile(r"[a-z]{2}(-[A-Z]{2})?")
_MAIL = re.compile(r"[^@\s,;<>\"]+@[^@\s,;<>\"]+\.[^@\s,;<>\".]+")
_PREFIX = re.compile(r"[A-Z][A-Z0-9]{0,11}")


class CollectionMethod(Enum):
    """How an invoice is paid."""

    CHARGE_AUTOMATICALLY = "CHARGE_AUTOMATICALLY"
    """The card on file is charged."""
    SEND_INVOICE = "SEND_INVOICE"
    """The customer transfers it within the payment term."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """One of the two that an invoice names."""

    legal_name: str = ""
    address_lines: tuple[str, ...] = ()
    """As printed below the name, without the country."""
    country_code: str = ""
    """ISO 3166-1 alpha-2, such as `DE`; empty: not known."""
    tax_id: str = ""
    """As printed, such as `DE123456789`; empty: none."""
    mail: str = ""
    """Where invoices go to, or come from; empty: not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BillingTerms:
    """What the operator agrees with a customer."""

    legal_entity_id: str = DEFAULT_LEGAL_ENTITY
    """Who bills it."""
    currency_code: str = ""
    """Of subscriptions that name none; empty: their plan's first."""
    collection_method: CollectionMethod = CollectionMethod.CHARGE_AUTOMATICALLY
    term_days: int = DEFAULT_TERM_DAYS

    def due_time(self, finalize_time: datetime) -> datetime | None:
        """By when what is finalized then has to be paid; None: it is charged at once, and nobody has to do anything."""
        if self.collection_method is CollectionMethod.CHARGE_AUTOMATICALLY:
            return None
        return finalize_time + timedelta(days=self.term_days)


BY_CARD = BillingTerms()
"""What holds where nothing was agreed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BillingProfile:
    """A customer, as of one version. Versions are only ever added: an invoice was sent to who was current then."""

    version: int = 0
    """From 1; 0: nothing was ever said of the customer."""
    update_time: datetime | None = None
    """When it became current; None with version 0."""
    party: Party = Party()
    locale: str = DEFAULT_LOCALE
    """The language of invoices and mail: `en`, or with a region, `en-GB`."""
    terms: BillingTerms = BY_CARD


@dataclass(frozen=True, slots=True, kw_only=True)
class LegalEntity:
    """Who bills, as of one version."""

    legal_entity_id: str
    version: int = 0
    """From 1; 0 before it is kept."""
    update_time: datetime | None = None
    party: Party
    invoice_prefix: str
    """Begins the numbers of its invoices, such as `TB` of `TB-000042`."""
    credit_note_prefix: str
    bank_details: tuple[str, ...] = ()
    """What a customer needs for a transfer, as printed."""


def require_party(field: str, party: Party) -> None:
    """Raises InvalidField or LimitExceeded unless the party can be printed."""
    require_text(f"{field}.legal_name", party.legal_name, limits.PARTY_TEXT_BYTES_MAX, is_required=False)
    _require_lines(f"{field}.address_lines", party.address_lines)
    require_text(f"{field}.tax_id", party.tax_id, limits.PARTY_TEXT_BYTES_MAX, is_required=False)
    if party.country_code and not _COUNTRY.fullmatch(party.country_code):
        raise InvalidField(field=f"{field}.country_code", problem="not two capital letters, as ISO 3166-1 has them")
    require_text(f"{field}.mail", party.mail, limits.MAIL_BYTES_MAX, is_required=False)
    if party.mail and not _MAIL.fullmatch(party.mail):
        raise InvalidField(field=f"{field}.mail", problem="not one mail address")


def require_locale(locale: str) -> None:
    """Raises InvalidField unless it is a language, with or without a region."""
    if not _LOCALE.fullmatch(locale):
        raise InvalidField(field="profile.locale", problem="not a language such as `en` or `en-GB`")


def require_terms(terms: BillingTerms) -> None:
    """Raises InvalidField unless the terms can be kept."""
    require_name("terms.legal_entity_id", terms.legal_entity_id)
    try:
        if terms.currency_code:
            currency_exponent(terms.currency_code)
    except UnknownCurrency:
        raise InvalidField(field="terms.currency_code", problem="not a currency that can be billed") from None
    if not 0 <= terms.term_days <= limits.TERM_DAYS_MAX:
        raise InvalidField(field="terms.term_days", problem=f"not from 0 to {limits.TERM_DAYS_MAX}")


def require_entities(entities: Sequence[LegalEntity]) -> None:
    """Raises InvalidField or LimitExceeded unless these can be all legal entities together: with the default one, and
    no two series of numbers alike.
    """
    if len(entities) > limits.LEGAL_ENTITIES_MAX:
        raise LimitExceeded(what="entities", actual=len(entities), maximum=limits.LEGAL_ENTITIES_MAX)
    ids = [each.legal_entity_id for each in entities]
    if len(set(ids)) != len(ids):
        raise InvalidField(field="entities", problem="an id is there twice")
    if DEFAULT_LEGAL_ENTITY not in ids:
        raise InvalidField(field="entities", problem=f"{DEFAULT_LEGAL_ENTITY!r} missing: customers begin with it")
    prefixes = [prefix for each in entities for prefix in (each.invoice_prefix, each.credit_note_prefix)]
    if len(set(prefixes)) != len(prefixes):
        raise InvalidField(field="entities", problem="a prefix is there twice: its numbers would be, too")
    for each in entities:
        field = f"entities[{each.legal_entity_id[:64]}]"
        require_name(f"{field}.legal_entity_id", each.legal_entity_id)
        require_text(f"{field}.party.legal_name", each.party.legal_name, limits.PARTY_TEXT_BYTES_MAX)
        require_party(f"{field}.party", each.party)
        _require_lines(f"{field}.bank_details", each.bank_details)
        for name, prefix in (("invoice_prefix", each.invoice_prefix), ("credit_note_prefix", each.credit_note_prefix)):
            if not _PREFIX.fullmatch(prefix):
                raise InvalidField(
                    field=f"{field}.{name}", problem="not 1 to 12 capital letters and digits, a letter first"
                )


def changed_entities(entities: Sequence[LegalEntity], history: Sequence[LegalEntity]) -> tuple[LegalEntity, ...]:
    """Those that differ from their newest version in the history, each with its next version. Raises InvalidField for a
    prefix that another entity has or ever had: its numbers would be given twice.
    """
    newest = {each.legal_entity_id: each for each in sorted(history, key=lambda each: each.version)}
    changed = []
    for entity in entities:
        others = [each for each in history if each.legal_entity_id != entity.legal_entity_id]
        taken = {prefix for each in others for prefix in (each.invoice_prefix, each.credit_note_prefix)}
        if {entity.invoice_prefix, entity.credit_note_prefix} & taken:
            problem = "a prefix is, or was, another one's: its numbers would be given twice"
            raise InvalidField(field=f"entities[{entity.legal_entity_id}]", problem=problem)
        before = newest.get(entity.legal_entity_id)
        version = before.version if before else 0
        if before != replace(entity, version=version, update_time=before.update_time if before else None):
            changed.append(replace(entity, version=version + 1))
    return tuple(changed)


def _require_lines(field: str, lines: Sequence[str]) -> None:
    if len(lines) > limits.PARTY_LINES_MAX:
        raise LimitExceeded(what=field, actual=len(lines), maximum=limits.PARTY_LINES_MAX)
    for line in lines:
        require_text(field, line, limits.PARTY_TEXT_BYTES_MAX)
