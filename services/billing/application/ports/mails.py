"""What an organization is written: an outbox, filled in the transaction of what it tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from services.billing.domain.mails import MailKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """A mail that is to be sent."""

    kind: MailKind
    reason: str
    """What it is about: of one kind and reason there is one mail. Printable, up to 200 bytes."""
    data: Mapping[str, str]
    """What its template needs; see EXAMPLE_DATA."""
    mail_id: str = ""
    """Set when it is added."""
    create_time: datetime | None = None
    """The same."""


class MailReader(Protocol):
    """The mails in one organization's books."""

    async def all(self) -> Sequence[Mail]:
        """Every mail that was ever to be sent, oldest first."""
        ...


class MailBook(MailReader, Protocol):
    """The same, open for writing."""

    async def add(self, mail: Mail, *, now: datetime) -> bool:
        """Puts a mail in the outbox; False when one of its kind and reason is there already, sent or not."""
        ...
