"""A postman that a test looks into."""

from __future__ import annotations

from kit.errors import DependencyUnavailable
from services.billing.domain.errors import MailRefused
from services.billing.domain.mails import Letter


class MemoryPostman:
    """Postman over a list."""

    def __init__(self) -> None:
        self.sent: list[Letter] = []
        self.refusal = ""
        """Why it takes no letter; empty: it does."""
        self.is_away = False
        """Whether it cannot be reached."""

    async def send(self, letter: Letter) -> None:
        """As Postman."""
        if self.is_away:
            raise DependencyUnavailable(dependency="the mail server")
        if self.refusal:
            raise MailRefused(self.refusal)
        self.sent.append(letter)
