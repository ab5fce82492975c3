"""The outbox of mails in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from kit.errors import NotFound
from kit.ids import new_id
from services.billing.adapters.memory.world import MailDue, World
from services.billing.application.ports.mails import DueMail, Mail
from services.billing.domain.mails import MailOutcome


class MemoryMails:
    """MailBook over a copy of the world."""

    def __init__(self, world: World, organization_id: str) -> None:
        self._world = world
        self._organization_id = organization_id
        self._pages = world.pages[organization_id]

    async def all(self) -> Sequence[Mail]:
        """As MailBook."""
        return sorted(self._pages.mails.values(), key=lambda mail: (str(mail.create_time), mail.mail_id))

    async def get(self, mail_id: str) -> Mail:
        """As MailBook."""
        found = next((mail for mail in self._pages.mails.values() if mail.mail_id == mail_id), None)
        if found is None:
            raise NotFound(what="mail", name=mail_id)
        return found

    async def add(self, mail: Mail, *, now: datetime, send_time: datetime | None = None) -> bool:
        """As MailBook."""
        key = mail.kind, mail.reason
        if key in self._pages.mails:
            return False
        mail_id = new_id("mail")
        self._pages.mails[key] = replace(mail, mail_id=mail_id, create_time=now, data=dict(mail.data))
        due = DueMail(self._organization_id, mail_id, 0)
        self._world.due_mails[mail_id] = MailDue(due, next_attempt_time=max(now, send_time or now))
        return True

    async def close(self, mail_id: str, outcome: MailOutcome, *, now: datetime) -> None:  # noqa: ARG002
        """As MailBook."""
        mail = await self.get(mail_id)
        if mail.outcome is None:
            self._pages.mails[mail.kind, mail.reason] = replace(mail, outcome=outcome)
        self._world.due_mails.pop(mail_id, None)
