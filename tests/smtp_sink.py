"""A real SMTP server on loopback that keeps what it is sent, and says what a test tells it to say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from typing import Any

from aiosmtpd.smtp import SMTP, Envelope, Session

TAKEN = "250 OK"


@dataclass
class SmtpSink:
    """Takes every mail unless `to_recipient` or `to_data` is set to another answer."""

    port: int = 0
    to_recipient: str = TAKEN
    to_data: str = TAKEN
    drops_after_data: bool = False
    """Keeps the mail and closes the connection without an answer: the sender cannot know."""
    taken: list[EmailMessage] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"smtp://127.0.0.1:{self.port}"

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if self.to_recipient == TAKEN:
            envelope.rcpt_tos.append(address)
        return self.to_recipient

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's name
        content: Any = envelope.content
        if self.to_data == TAKEN:
            self.taken.append(message_from_bytes(content, _class=EmailMessage, policy=default))
        if self.drops_after_data and isinstance(server.transport, asyncio.WriteTransport):
            server.transport.abort()
        return self.to_data


@asynccontextmanager
async def smtp_sink() -> AsyncIterator[SmtpSink]:
    """Runs one until the block ends."""
    sink = SmtpSink()
    server = await asyncio.get_running_loop().create_server(lambda: SMTP(sink), "127.0.0.1", 0)
    sink.port = server.sockets[0].getsockname()[1]
    try:
        yield sink
    finally:
        server.close()
        await server.wait_closed()
