"""Mails over SMTP."""

from __future__ import annotations

from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime

import aiosmtplib
import structlog

from kit.clock import Clock
from kit.errors import DependencyUnavailable
from services.billing.domain.errors import MailRefused
from services.billing.domain.mails import Letter
from services.billing.domain.smtp_servers import SmtpServer

log = structlog.get_logger()

TIMEOUT_SECONDS = 20.0
_PERMANENT = 500


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
