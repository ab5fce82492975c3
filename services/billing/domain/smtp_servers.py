"""Where mails are handed over, and who they are from: what the settings say of it."""

from __future__ import annotations

from dataclasses import dataclass
from email.errors import MessageError
from email.headerregistry import Address
from email.utils import parseaddr
from urllib.parse import unquote, urlsplit

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


def sender_of(text: str) -> Address:
    """From `Acme Billing <billing@acme.example>`, or the address alone. Raises ValueError."""
    name, address = parseaddr(text)
    try:
        sender = Address(name, addr_spec=address)
    except (ValueError, IndexError, MessageError):
        sender = Address()
    if not sender.username or not sender.domain:
        msg = "`Name <name@host>`, or `name@host`, is wanted"
        raise ValueError(msg)
    return sender
