"""What an organization is written: an outbox, filled in the transaction of what it tells, and the list of what of it is
to be sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from services.billing.domain.mails import MailKind, MailOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """A mail that is to be sent."""

    kind: MailKind
    reason: str
    """What it is about: of one kind and reason there is one mail. Printable, up to 200 bytes."""
    data: Mapping[str, str]
    """What its template needs; see EXAMPLE_DATA. Empty where that is only known when it is sent."""
    mail_id: str = ""
    """Set when it is added."""
    create_time: datetime | None = None
    """The same."""
    outcome: MailOutcome | None = None
    """None: it is still to be sent."""


class MailReader(Protocol):
    """The mails in one organization's books."""

    async def all(self) -> Sequence[Mail]:
        """Every mail that was ever to be sent, oldest first; those that were closed long ago may be gone."""
        ...

    async def get(self, mail_id: str) -> Mail:
        """One mail. Raises NotFound."""
        ...


class MailBook(MailReader, Protocol):
    """The same, open for writing."""

    async def add(self, mail: Mail, *, now: datetime, send_time: datetime | None = None) -> bool:
        """Puts a mail in the outbox, to be sent at send_time or, when that is None or past, at once; False when one of
        its kind and reason is there already, sent or not.
        """
        ...

    async def close(self, mail_id: str, outcome: MailOutcome, *, now: datetime) -> None:
        """Notes what became of a mail and takes it off the list of what is to be sent; one that is closed stays as it
        is.
        """
        ...


@dataclass(frozen=True, slots=True)
class DueMail:
    """A mail that is to be sent, claimed for one attempt."""

    organization_id: str
    mail_id: str
    attempt_count: int


class MailList(Protocol):
    """The mails that are to be sent; narrow, across organizations."""

    async def claim(self, *, now: datetime, count: int) -> Sequence[DueMail]:
        """Claims up to `count` whose time has come, the longest due first, each for the lease: two claimers never get
        the same within it.
        """
        ...

    async def retry(self, due: DueMail, *, at: datetime, error: str) -> None:
        """Makes it due again at a time, unless it was claimed anew or closed meanwhile."""
        ...

    async def park(self, due: DueMail, *, reason: str) -> None:
        """Keeps it from being claimed until a person looked at the reason, unless it was claimed anew or closed."""
        ...
