"""The outbox of mails in Postgres."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, text

from kit.errors import NotFound
from kit.ids import new_id
from services.billing.adapters.postgres_books.page import Page
from services.billing.application.ports.mails import Mail
from services.billing.domain.mails import MailKind, MailOutcome


class PostgresMails:
    """MailBook over one transaction."""

    def __init__(self, page: Page) -> None:
        self._page = page

    async def all(self) -> Sequence[Mail]:
        """As MailBook."""
        return [_mail_from_row(row) for row in await self._page.execute(_ALL, self._page.names())]

    async def get(self, mail_id: str) -> Mail:
        """As MailBook."""
        row = (await self._page.execute(_GET, self._page.names(mail_id=mail_id))).one_or_none()
        if row is None:
            raise NotFound(what="mail", name=mail_id)
        return _mail_from_row(row)

    async def add(self, mail: Mail, *, now: datetime, send_time: datetime | None = None) -> bool:
        """As MailBook."""
        names = self._page.names(
            mail_id=new_id("mail"), kind=mail.kind.value, reason=mail.reason, data=json.dumps(dict(mail.data)), now=now
        )
        is_new = bool((await self._page.execute(_ADD, names)).rowcount)
        if is_new:
            due = self._page.names(mail_id=names["mail_id"], next_attempt_time=max(now, send_time or now))
            await self._page.execute(_ADD_DUE, due)
        return is_new

    async def close(self, mail_id: str, outcome: MailOutcome, *, now: datetime) -> None:
        """As MailBook."""
        names = self._page.names(mail_id=mail_id)
        await self._page.execute(_CLOSE, {**names, "outcome": outcome.value, "now": now})
        await self._page.execute(_DROP_DUE, names)


def _mail_from_row(row: Row[Any]) -> Mail:
    return Mail(
        kind=MailKind(row.kind),
        reason=row.reason,
        data=row.data,
        mail_id=row.mail_id,
        create_time=row.create_time,
        outcome=MailOutcome(row.outcome) if row.outcome else None,
    )


_COLUMNS = "mail_id, kind, reason, data, create_time, outcome"
_ALL = text(f"""
    SELECT {_COLUMNS} FROM billing.mail_outbox WHERE organization_id = :organization_id ORDER BY create_time, mail_id
""")  # noqa: S608 - constants
_GET = text(f"""
    SELECT {_COLUMNS} FROM billing.mail_outbox WHERE organization_id = :organization_id AND mail_id = :mail_id
""")  # noqa: S608 - constants
_ADD = text("""
    INSERT INTO billing.mail_outbox (organization_id, mail_id, kind, reason, data, create_time)
    VALUES (:organization_id, :mail_id, :kind, :reason, CAST(:data AS jsonb), :now) ON CONFLICT DO NOTHING
""")
_ADD_DUE = text("""
    INSERT INTO billing.due_mails (organization_id, mail_id, next_attempt_time)
    VALUES (:organization_id, :mail_id, :next_attempt_time)
""")
_CLOSE = text("""
    UPDATE billing.mail_outbox SET outcome = :outcome, close_time = :now
    WHERE organization_id = :organization_id AND mail_id = :mail_id AND outcome = ''
""")
_DROP_DUE = text("DELETE FROM billing.due_mails WHERE organization_id = :organization_id AND mail_id = :mail_id")
