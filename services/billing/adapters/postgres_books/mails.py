"""The outbox of mails in Postgres."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import text

from kit.ids import new_id
from services.billing.adapters.postgres_books.page import Page
from services.billing.application.ports.mails import Mail
from services.billing.domain.mails import MailKind


class PostgresMails:
    """MailBook over one transaction."""

    def __init__(self, page: Page) -> None:
        self._page = page

    async def all(self) -> Sequence[Mail]:
        """As MailBook."""
        return [
            Mail(
                kind=MailKind(row.kind),
                reason=row.reason,
                data=row.data,
                mail_id=row.mail_id,
                create_time=row.create_time,
            )
            for row in await self._page.execute(_ALL, self._page.names())
        ]

    async def add(self, mail: Mail, *, now: datetime) -> bool:
        """As MailBook."""
        names = self._page.names(
            mail_id=new_id("mail"), kind=mail.kind.value, reason=mail.reason, data=json.dumps(dict(mail.data)), now=now
        )
        return bool((await self._page.execute(_ADD, names)).rowcount)


_ALL = text("""
    SELECT mail_id, kind, reason, data, create_time FROM billing.mail_outbox
    WHERE organization_id = :organization_id ORDER BY create_time, mail_id
""")
_ADD = text("""
    INSERT INTO billing.mail_outbox (organization_id, mail_id, kind, reason, data, create_time)
    VALUES (:organization_id, :mail_id, :kind, :reason, CAST(:data AS jsonb), :now) ON CONFLICT DO NOTHING
""")
