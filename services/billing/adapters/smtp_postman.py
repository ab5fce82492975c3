"""Mails over SMTP."""

from __future__ import annotations

from dataclasses import dataclass
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime
from urllib.parse import unquote, urlsplit

import aiosmtplib
import structlog

from kit.clock import Clock
from kit.errors import DependencyUnavailable
from services.billing.domain.errors import MailRefused
from services.billing.domain.mails import Letter

log = structlog.get_logger()

TIMEOUT_SECONDS = 20.0
_PERMANENT = 500
_PORTS = {"smtp": 587, "smtps": 465}


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """Where mails are handed over."""

    host: str
    port: int
    username: str
    password: str
    is_tls: bool
    """TLS from the first byte; otherwise it begins with STARTTLS wherever the server offers it."""
    requires_tls: bool

    @classmethod
    def from_url(cls, url: str) -> SmtpServer:
        """From `smtp://user:password@host:587` or `smtps://…:465`; a password is sent over TLS only, and
        `smtp://…?tls=require` sends nothing at all without. Raises ValueError.
        """
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.hostname or parts.query not in {"", "tls=require"}:
            msg = "smtp://[user:password@]host[:port][?tls=require] or smtps://… is wanted"
            raise ValueError(msg)
        return cls(
            host=parts.hostname,
            port=parts.port or _PORTS[parts.scheme],
            username=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
            is_tls=parts.scheme == "smtps",
            requires_tls=bool(parts.username or parts.query),
        )


class SmtpPostman:
    """Postman over SMTP: a connection a letter, which is what mail servers expect of somebody who writes rarely."""

    def __init__(self, server: SmtpServer, sender: Address, clock: Clock) -> None:
        self._server = server
        self._sender = sender
        self._clock = clock

    async def send(self, letter: Letter) -> None:
        """As Postman."""
        try:
            message = self._message(letter)
        except (ValueError, IndexError, MessageError) as error:
            # An address or a subject that is no header, however it came to us; email's parser raises all of these.
            raise MailRefused(f"not a header: {error}") from error
        try:
            await aiosmtplib.send(
                message,
                hostname=self._server.host,
                port=self._server.port,
                username=self._server.username or None,
                password=self._server.password or None,
                use_tls=self._server.is_tls,
                start_tls=True if self._server.requires_tls and not self._server.is_tls else None,
                timeout=TIMEOUT_SECONDS,
            )
        except aiosmtplib.SMTPRecipientsRefused as error:
            refusals = error.recipients
            if all(each.code >= _PERMANENT for each in refusals):
                raise MailRefused("; ".join(f"{each.code} {each.message}" for each in refusals)) from error
            raise self._unavailable(error) from error
        except aiosmtplib.SMTPAuthenticationError as error:
            # A wrong password is ours to set right; no letter is lost for it.
            raise self._unavailable(error) from error
        except aiosmtplib.SMTPResponseException as error:
            if error.code >= _PERMANENT:
                raise MailRefused(f"{error.code} {error.message}") from error
            raise self._unavailable(error) from error
        except (aiosmtplib.SMTPException, OSError) as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> DependencyUnavailable:
        log.warning("mail_failed", error=str(error))
        return DependencyUnavailable(dependency="the mail server")

    def _message(self, letter: Letter) -> EmailMessage:
        message = EmailMessage()
        message["From"] = self._sender
        message["To"] = Address(addr_spec=letter.to)
        message["Subject"] = letter.subject
        message["Date"] = format_datetime(self._clock.now())
        message["Message-ID"] = f"<{letter.letter_id}@{self._sender.domain}>"
        # No out-of-office answers, please.
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(letter.text)
        for each in letter.attachments:
            main, _, sub = each.content_type.partition("/")
            message.add_attachment(each.content, maintype=main, subtype=sub, filename=each.name)
        return message
