"""Billing profiles, taxes and legal entities on the wire and in the domain."""

from __future__ import annotations

from decimal import Decimal

from kit.errors import InvalidField
from kit.grpc.convert import moment_to_pb
from kit.money import format_decimal, parse_decimal
from services.billing.domain.profile import (
    DEFAULT_LEGAL_ENTITY,
    DEFAULT_TERM_DAYS,
    BillingProfile,
    BillingTerms,
    CollectionMethod,
    LegalEntity,
    Party,
)
from services.billing.domain.tax import TaxRate, TaxRates, TaxTreatment
from tollbook.billing.v1 import profile_pb2

_METHODS = {
    profile_pb2.COLLECTION_METHOD_UNSPECIFIED: CollectionMethod.CHARGE_AUTOMATICALLY,
    profile_pb2.COLLECTION_METHOD_CHARGE_AUTOMATICALLY: CollectionMethod.CHARGE_AUTOMATICALLY,
    profile_pb2.COLLECTION_METHOD_SEND_INVOICE: CollectionMethod.SEND_INVOICE,
}
_TREATMENTS = {
    profile_pb2.TAX_TREATMENT_UNSPECIFIED: TaxTreatment.STANDARD,
    profile_pb2.TAX_TREATMENT_STANDARD: TaxTreatment.STANDARD,
    profile_pb2.TAX_TREATMENT_EXEMPT: TaxTreatment.EXEMPT,
    profile_pb2.TAX_TREATMENT_REVERSE_CHARGE: TaxTreatment.REVERSE_CHARGE,
}


def party_from_pb(message: profile_pb2.Party) -> Party:
    """The party as written."""
    return Party(
        legal_name=message.legal_name,
        address_lines=tuple(message.address_lines),
        country_code=message.country_code,
        tax_id=message.tax_id,
        mail=message.mail,
    )


def party_to_pb(party: Party) -> profile_pb2.Party:
    """The party."""
    return profile_pb2.Party(
        legal_name=party.legal_name,
        address_lines=party.address_lines,
        country_code=party.country_code,
        tax_id=party.tax_id,
        mail=party.mail,
    )


def terms_from_pb(message: profile_pb2.BillingTerms) -> BillingTerms:
    """The terms, what is empty filled in. Raises InvalidField."""
    if message.collection_method not in _METHODS:
        raise InvalidField(field="terms.collection_method", problem="unknown")
    return BillingTerms(
        legal_entity_id=message.legal_entity_id or DEFAULT_LEGAL_ENTITY,
        currency_code=message.currency_code,
        collection_method=_METHODS[message.collection_method],
        term_days=message.term_days if message.HasField("term_days") else DEFAULT_TERM_DAYS,
    )


def profile_to_pb(organization_id: str, profile: BillingProfile) -> profile_pb2.BillingProfile:
    """The profile."""
    terms = profile.terms
    method = profile_pb2.CollectionMethod.Value(f"COLLECTION_METHOD_{terms.collection_method.value}")
    return profile_pb2.BillingProfile(
        organization_id=organization_id,
        version=profile.version,
        update_time=None if profile.update_time is None else moment_to_pb(profile.update_time),
        party=party_to_pb(profile.party),
        locale=profile.locale,
        terms=profile_pb2.BillingTerms(
            legal_entity_id=terms.legal_entity_id,
            currency_code=terms.currency_code,
            collection_method=method,
            term_days=terms.term_days,
        ),
    )


def rate_from_pb(message: profile_pb2.TaxRate, field: str) -> TaxRate:
    """The rate as written. Raises InvalidField."""
    if message.treatment not in _TREATMENTS:
        raise InvalidField(field=f"{field}.treatment", problem="unknown")
    try:
        percent = parse_decimal(message.percent) if message.percent else Decimal(0)
    except ValueError as error:
        raise InvalidField(field=f"{field}.percent", problem=str(error)) from None
    return TaxRate(
        display_name=message.display_name,
        percent=percent,
        jurisdiction=message.jurisdiction,
        treatment=_TREATMENTS[message.treatment],
        note=message.note,
    )


def rate_to_pb(rate: TaxRate) -> profile_pb2.TaxRate:
    """The rate."""
    return profile_pb2.TaxRate(
        display_name=rate.display_name,
        percent=format_decimal(rate.percent),
        jurisdiction=rate.jurisdiction,
        treatment=profile_pb2.TaxTreatment.Value(f"TAX_TREATMENT_{rate.treatment.value}"),
        note=rate.note,
    )


def taxes_to_pb(taxes: TaxRates) -> profile_pb2.TaxRates:
    """The rates and since when."""
    return profile_pb2.TaxRates(
        version=taxes.version, start_time=moment_to_pb(taxes.start_time), rates=map(rate_to_pb, taxes.rates)
    )


def entity_from_pb(message: profile_pb2.LegalEntity) -> LegalEntity:
    """The legal entity as written; its version is ours to set and is not read."""
    return LegalEntity(
        legal_entity_id=message.legal_entity_id,
        party=party_from_pb(message.party),
        invoice_prefix=message.invoice_prefix,
        credit_note_prefix=message.credit_note_prefix,
        bank_details=tuple(message.bank_details),
    )


def entity_to_pb(entity: LegalEntity) -> profile_pb2.LegalEntity:
    """The legal entity."""
    return profile_pb2.LegalEntity(
        legal_entity_id=entity.legal_entity_id,
        version=entity.version,
        update_time=None if entity.update_time is None else moment_to_pb(entity.update_time),
        party=party_to_pb(entity.party),
        invoice_prefix=entity.invoice_prefix,
        credit_note_prefix=entity.credit_note_prefix,
        bank_details=entity.bank_details,
    )
