"""A postman that a test looks into."""

from __future__ import annotations

from services.billing.domain.errors import MailRefused
from services.billing.domain.mails import Letter


class MemoryPostman:
    """Postman over a list."""

    def __init__(self) -> None:
        self.sent: list[Letter] = []
        self.refusal = ""
        """Why it takes no letter; empty: it does."""

    async def send(self, letter: Letter) -> None:
        """As Postman."""
        if self.refusal:
            raise MailRefused(self.refusal)
        self.sent.append(letter)
