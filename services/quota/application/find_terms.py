"""Find the terms that an organization's checks are decided by: in memory, beside the counters, or at their sources."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

from services.quota.application.ports import EntitlementSource, Kept, LimitRecord, TermsShelf
from services.quota.application.single_flight import SingleFlight
from services.quota.domain.entitlements import Entitlement
from services.quota.domain.maxima import REMEMBERED_TERMS_MAX
from services.quota.domain.terms import OwnLimits, Terms


class FindTerms:
    """Remembers terms. What it remembers may be outdated: every use is verified by the store that decides."""

    def __init__(self, shelf: TermsShelf, source: EntitlementSource, record: LimitRecord) -> None:
        self._shelf = shelf
        self._source = source
        self._record = record
        self._remembered: OrderedDict[str, Terms] = OrderedDict()
        self._asking = SingleFlight[Entitlement]()
        self._reading = SingleFlight[OwnLimits]()

    async def __call__(self, organization_id: str) -> Terms:
        """The terms that were last seen. Raises DependencyUnavailable."""
        remembered = self._remembered.get(organization_id)
        return remembered or await self.kept(organization_id)

    def last_seen(self, organization_id: str) -> Terms | None:
        """The terms that this process used last; None when it never did, or long ago."""
        return self._remembered.get(organization_id)

    async def kept(self, organization_id: str) -> Terms:
        """Those kept beside the counters; what is missing there is put there. Raises DependencyUnavailable."""
        return await self._completed(organization_id, await self._shelf.kept(organization_id))

    async def renew(self, refused: Terms) -> tuple[Terms, bool]:
        """What to try after the store refused terms, and whether billing itself says that their period is current.

        Raises DependencyUnavailable.
        """
        organization_id = refused.organization_id
        kept = await self._shelf.kept(organization_id)
        if kept != Kept(refused.entitlement, refused.own):
            return await self._completed(organization_id, _without_what_is_older(kept, refused)), False
        current = await self._ask_billing(organization_id)
        return self._remember(Terms(current, refused.own)), current == refused.entitlement

    def remembered(self) -> tuple[str, ...]:
        """The organizations whose terms are remembered: those that this process serves."""
        return tuple(self._remembered)

    def note_entitlement(self, entitlement: Entitlement) -> None:
        """Remembers it, if the organization is remembered."""
        remembered = self._remembered.get(entitlement.organization_id)
        if remembered is not None:
            self._remember(replace(remembered, entitlement=entitlement))

    def note_limits(self, own: OwnLimits) -> None:
        """The same of the limits of its own."""
        remembered = self._remembered.get(own.organization_id)
        if remembered is not None:
            self._remember(replace(remembered, own=own))

    def _remember(self, terms: Terms) -> Terms:
        self._remembered[terms.organization_id] = terms
        self._remembered.move_to_end(terms.organization_id)
        if len(self._remembered) > REMEMBERED_TERMS_MAX:
            self._remembered.popitem(last=False)
        return terms

    async def _completed(self, organization_id: str, kept: Kept) -> Terms:
        entitlement = kept.entitlement or await self._ask_billing(organization_id)
        own = kept.own or await self._read_record(organization_id)
        return self._remember(Terms(entitlement, own))

    async def _ask_billing(self, organization_id: str) -> Entitlement:
        async def ask() -> Entitlement:
            return await self._shelf.put(await self._source.in_force(organization_id))

        return await self._asking(organization_id, ask)

    async def _read_record(self, organization_id: str) -> OwnLimits:
        async def read() -> OwnLimits:
            return await self._shelf.put_limits(await self._record.own_limits(organization_id))

        return await self._reading(organization_id, read)


def _without_what_is_older(kept: Kept, refused: Terms) -> Kept:
    """What is kept, but for parts that are older than those refused: the store was taken back to an earlier state, or a
    log was rewound. Only the record knows which.
    """
    entitlement, own = kept.entitlement, kept.own
    if entitlement is not None and refused.entitlement.supersedes(entitlement):
        entitlement = None
    if own is not None and refused.own.sequence > own.sequence:
        own = None
    return Kept(entitlement, own)
