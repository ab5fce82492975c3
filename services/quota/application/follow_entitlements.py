"""Follow the entitlements of billing: the effect of a change on what is kept."""

from __future__ import annotations

import structlog

from kit.feed import Page, Position
from services.quota.application.find_terms import FindTerms
from services.quota.application.ports import EntitlementShelf, EntitlementSource, InForce
from services.quota.domain.entitlements import Entitlement

log = structlog.get_logger()


class EntitlementEffect:
    """kit.feed.Effect on the entitlements kept beside the counters. An organization without one is of no interest: it
    is asked for when it is first needed.
    """

    def __init__(self, shelf: EntitlementShelf, source: EntitlementSource, terms: FindTerms) -> None:
        self._shelf = shelf
        self._source = source
        self._terms = terms

    async def position(self, key: str) -> Position | None:
        """As Effect."""
        return await self._shelf.read_up_to(key)

    async def apply(self, key: str, after: Position, page: Page[Entitlement]) -> bool:  # noqa: ARG002 - versions decide
        """As Effect: in force for every process when it returns. What is kept already is remembered anew, for another
        process may have replaced it after a rewound log.
        """
        for entitlement in page.entries:
            self._terms.note_entitlement(await self._shelf.put(InForce(entitlement, page.position)))
        return True

    async def rebuild(self, key: str) -> None:
        """As Effect: after a rewound log, whose versions say nothing about those kept. Nothing is begun here."""
        forgotten = await self._shelf.read_up_to(key)
        if forgotten is None:
            return
        found = await self._source.in_force(key)
        if await self._shelf.replace(found, expected=forgotten):
            log.warning("entitlement_replaced", organization_id=key, version=found.entitlement.version)
        await self._terms.kept(key)
