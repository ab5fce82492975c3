"""What every sub-book writes on: one organization's rows within one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import CursorResult, TextClause
from sqlalchemy.ext.asyncio import AsyncConnection

from kit.feed import Change, Position
from kit.feed import Page as ChangePage
from kit.postgres.change_log import ChangeLog

CHANGES = ChangeLog("billing")


@dataclass(frozen=True, slots=True)
class Page:
    """A transaction that is bound to an organization."""

    connection: AsyncConnection
    organization_id: str

    def names(self, **more: object) -> dict[str, object]:
        """The parameters of a statement, with the organization's id."""
        return {"organization_id": self.organization_id, **more}

    async def execute(
        self, statement: TextClause, names: Mapping[str, object] | Sequence[Mapping[str, object]]
    ) -> CursorResult[Any]:
        """Runs a statement once, or once for each of several sets of parameters."""
        return await self.connection.execute(statement, names)

    async def append(self, *, kind: str, body: Mapping[str, object]) -> Position:
        """Writes the next entry of the organization's change log."""
        return await CHANGES.append(self.connection, self.organization_id, kind=kind, body=body)

    async def changes(self, after: Position) -> ChangePage[Change]:
        """The entries after a position. Raises LogRewound."""
        return await CHANGES.read(self.connection, self.organization_id, after)
