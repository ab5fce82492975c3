"""The outbox of mails in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from kit.ids import new_id
from services.billing.adapters.memory.world import World
from services.billing.application.ports.mails import Mail


class MemoryMails:
    """MailBook over a copy of the world."""

    def __init__(self, world: World, organization_id: str) -> None:
        self._pages = world.pages[organization_id]

    async def all(self) -> Sequence[Mail]:
        """As MailBook."""
        return sorted(self._pages.mails.values(), key=lambda mail: (str(mail.create_time), mail.mail_id))

    async def add(self, mail: Mail, *, now: datetime) -> bool:
        """As MailBook."""
        key = mail.kind, mail.reason
        if key in self._pages.mails:
            return False
        self._pages.mails[key] = replace(mail, mail_id=new_id("mail"), create_time=now, data=dict(mail.data))
        return True
