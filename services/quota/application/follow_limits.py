"""Follow quota's own change log: what is in force, should the process that changed a limit not have got to say so."""

from __future__ import annotations

import structlog

from kit.feed import Page, Position
from services.quota.application.find_terms import FindTerms
from services.quota.application.ports import LimitRecord, LimitShelf
from services.quota.domain.terms import OwnLimits

log = structlog.get_logger()


class LimitsEffect:
    """kit.feed.Effect on the limits kept beside the counters. An organization without any there is of no interest: they
    are read when they are first needed.
    """

    def __init__(self, shelf: LimitShelf, record: LimitRecord, terms: FindTerms) -> None:
        self._shelf = shelf
        self._record = record
        self._terms = terms

    async def position(self, key: str) -> Position | None:
        """As Effect."""
        return await self._shelf.limits_position(key)

    async def apply(self, key: str, after: Position, page: Page[OwnLimits]) -> bool:  # noqa: ARG002 - numbers decide
        """As Effect: in force for every process when it returns."""
        for own in page.entries:
            self._terms.note_limits(await self._shelf.put_limits(own))
        return True

    async def rebuild(self, key: str) -> None:
        """As Effect: after a rewound log, whose numbers say nothing about those kept. Nothing is begun here."""
        forgotten = await self._shelf.limits_position(key)
        if forgotten is None:
            return
        own = await self._record.own_limits(key)
        if await self._shelf.replace_limits(own, expected=forgotten):
            log.warning("limits_replaced", organization_id=key, sequence=own.sequence)
        await self._terms.kept(key)
