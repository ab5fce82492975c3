"""Billing profiles and taxes in Postgres. Versions are only ever added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Row, TextClause, bindparam, text
from sqlalchemy.dialects.postgresql import JSONB

from kit.clock import unix_microseconds
from kit.errors import NotFound
from kit.money import format_decimal
from services.billing.adapters.postgres_books.page import Page
from services.billing.domain.profile import BillingProfile, BillingTerms, CollectionMethod, Party
from services.billing.domain.tax import TaxRate, TaxRates, TaxTreatment

_SET = "billing_profile_set"
_TAXED = "tax_rates_set"


class PostgresProfile:
    """ProfileBook over one transaction."""

    def __init__(self, page: Page) -> None:
        self._page = page

    async def current(self) -> BillingProfile:
        """As ProfileBook."""
        return await self._newest(_CURRENT, self._page.names())

    async def at(self, moment: datetime) -> BillingProfile:
        """As ProfileBook."""
        return await self._newest(_AT, self._page.names(moment=moment))

    async def tax_history(self) -> Sequence[TaxRates]:
        """As ProfileBook."""
        return [_taxes_from_row(row) for row in await self._page.execute(_TAX_HISTORY, self._page.names())]

    async def set(self, profile: BillingProfile, *, actor: str, request_id: str) -> BillingProfile:
        """As ProfileBook."""
        known = await self._page.execute(_SERIES, {"legal_entity": profile.terms.legal_entity_id})
        if known.one_or_none() is None:
            raise NotFound(what="legal entity", name=profile.terms.legal_entity_id)
        kept = replace(profile, version=(await self.current()).version + 1)
        names = _profile_to_row(kept)
        await self._page.execute(_ADD, self._page.names(**names))
        # Who it is and where it lives stays in its own table; the log says that it changed, and by whom.
        body = {
            "version": kept.version,
            "legal_entity_id": kept.terms.legal_entity_id,
            "currency_code": kept.terms.currency_code,
            "collection_method": kept.terms.collection_method.value,
            "term_days": kept.terms.term_days,
            "actor": actor,
            "request_id": request_id,
        }
        await self._page.append(kind=_SET, body=body)
        return kept

    async def set_taxes(
        self, rates: Sequence[TaxRate], *, start_time: datetime, actor: str, request_id: str
    ) -> TaxRates:
        """As ProfileBook."""
        history = await self.tax_history()
        kept = TaxRates(version=len(history) + 1, start_time=start_time, rates=tuple(rates))
        content = [_rate_to_content(rate) for rate in kept.rates]
        names = self._page.names(version=kept.version, start_time=start_time, rates=content)
        await self._page.execute(_ADD_TAXES, names)
        body = {
            "version": kept.version,
            "start_us": unix_microseconds(start_time),
            "rates": content,
            "actor": actor,
            "request_id": request_id,
        }
        await self._page.append(kind=_TAXED, body=body)
        return kept

    async def _newest(self, statement: TextClause, names: dict[str, object]) -> BillingProfile:
        row = (await self._page.execute(statement, names)).one_or_none()
        return BillingProfile() if row is None else _profile_from_row(row)


def _profile_to_row(profile: BillingProfile) -> dict[str, object]:
    party, terms = profile.party, profile.terms
    return {
        "version": profile.version,
        "legal_name": party.legal_name,
        "address_lines": list(party.address_lines),
        "country_code": party.country_code,
        "tax_id": party.tax_id,
        "mail": party.mail,
        "locale": profile.locale,
        "legal_entity_id": terms.legal_entity_id,
        "currency_code": terms.currency_code,
        "collection_method": terms.collection_method.value,
        "term_days": terms.term_days,
        "update_time": profile.update_time,
    }


def _profile_from_row(row: Row[Any]) -> BillingProfile:
    return BillingProfile(
        version=row.version,
        update_time=row.update_time,
        party=Party(
            legal_name=row.legal_name,
            address_lines=tuple(row.address_lines),
            country_code=row.country_code,
            tax_id=row.tax_id,
            mail=row.mail,
        ),
        locale=row.locale,
        terms=BillingTerms(
            legal_entity_id=row.legal_entity_id,
            currency_code=row.currency_code,
            collection_method=CollectionMethod(row.collection_method),
            term_days=row.term_days,
        ),
    )


def _rate_to_content(rate: TaxRate) -> dict[str, str]:
    return {
        "display_name": rate.display_name,
        "percent": format_decimal(rate.percent),
        "jurisdiction": rate.jurisdiction,
        "treatment": rate.treatment.value,
        "note": rate.note,
    }


def _taxes_from_row(row: Row[Any]) -> TaxRates:
    rates = tuple(
        TaxRate(
            display_name=each["display_name"],
            percent=Decimal(each["percent"]),
            jurisdiction=each["jurisdiction"],
            treatment=TaxTreatment(each["treatment"]),
            note=each["note"],
        )
        for each in row.rates
    )
    return TaxRates(version=row.version, start_time=row.start_time, rates=rates)


_PROFILE_COLUMNS = """
    SELECT version, legal_name, address_lines, country_code, tax_id, mail, locale, legal_entity_id, currency_code,
        collection_method, term_days, update_time
    FROM billing.profiles WHERE organization_id = :organization_id
"""
_CURRENT = text(f"{_PROFILE_COLUMNS} ORDER BY version DESC LIMIT 1")
_AT = text(f"{_PROFILE_COLUMNS} AND update_time <= :moment ORDER BY version DESC LIMIT 1")
_SERIES = text("SELECT 1 FROM billing.invoice_numbers WHERE legal_entity = :legal_entity")
_ADD = text("""
    INSERT INTO billing.profiles (organization_id, version, legal_name, address_lines, country_code, tax_id, mail,
        locale, legal_entity_id, currency_code, collection_method, term_days, update_time)
    VALUES (:organization_id, :version, :legal_name, :address_lines, :country_code, :tax_id, :mail, :locale,
        :legal_entity_id, :currency_code, :collection_method, :term_days, :update_time)
""")
_TAX_HISTORY = text("""
    SELECT version, start_time, rates FROM billing.tax_rates WHERE organization_id = :organization_id ORDER BY version
""")
_ADD_TAXES = text("""
    INSERT INTO billing.tax_rates (organization_id, version, start_time, rates)
    VALUES (:organization_id, :version, :start_time, :rates)
""").bindparams(bindparam("rates", type_=JSONB))
