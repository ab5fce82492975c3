"""Writing mails and sending them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from services.billing.domain.mails import Letter, MailKind


class LetterTexts(Protocol):
    """What mails say."""

    def write(self, kind: MailKind, data: Mapping[str, str]) -> tuple[str, str]:
        """Subject and text. Raises TemplateBroken for a template that cannot be filled in with these names."""
        ...


class PrintedFile(Protocol):
    """A paper as a PDF file."""

    @property
    def name(self) -> str:
        """Such as `TB-000042.pdf`."""
        ...

    @property
    def content(self) -> bytes:
        """What is in it."""
        ...


class PaperPrinter(Protocol):
    """Prints what was issued."""

    async def invoice(self, organization_id: str, invoice_id: str) -> PrintedFile:
        """An invoice. Raises NotFound and DependencyUnavailable."""
        ...

    async def credit_note(self, organization_id: str, credit_note_id: str) -> PrintedFile:
        """A credit note. Raises NotFound and DependencyUnavailable."""
        ...


class Postman(Protocol):
    """Sends mails."""

    async def send(self, letter: Letter) -> None:
        """Returns when a mail server has taken the letter over. Raises DependencyUnavailable when trying again later
        may help (then it may have been sent, and the next one has the same id), and MailRefused when not.
        """
        ...
