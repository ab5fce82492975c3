"""A server of our own, as a child process that cannot outlive us: what is the same whichever server it is."""

from __future__ import annotations

import asyncio
import signal
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from kit.process import ChildProcess

HOST = "127.0.0.1"
POLL_SECONDS = 0.05


class ServerCannotStart(Exception):
    """An embedded server cannot be started; the message says why and what to do."""


class EmbeddedServer(ABC):
    """A server whose data, password and log live below `state_dir`, listening on 127.0.0.1 alone.

    At most one instance works on a state folder at a time; the caller sees to that (the suite holds a lock). An
    instance can be started again after its server ended, for whatever reason: what was committed or answered is there.
    """

    name: ClassVar[str]
    """Of its log and in messages of the suite."""
    product: ClassVar[str]
    """As people call it."""
    cannot_start: ClassVar[type[ServerCannotStart]]
    stop_signal: ClassVar[signal.Signals]
    """Upon which it ends in order."""

    def __init__(
        self,
        state_dir: Path,
        port: int,
        *,
        log_path: Path | None,
        defaults: Mapping[str, str],
        settings: Mapping[str, str] | None,
    ) -> None:
        """`settings` are laid over the defaults."""
        # Absolute, because a server may change its working folder.
        self._state_dir = state_dir.absolute()
        self._password_path = self._state_dir / "password"
        self.log_path = log_path or self._state_dir / f"{self.name}.log"
        self._port = port
        self._settings = {**defaults, **(settings or {}), "port": str(port)}
        self._server: ChildProcess | None = None

    @property
    def pid(self) -> int | None:
        """The server's pid; None before the first start."""
        return None if self._server is None else self._server.pid

    async def wait_ready(self, timeout_seconds: float = 120.0) -> None:
        """Wait until the server answers; recovery after a crash is part of the wait.

        Raises the error of its start, with the end of the server's log, when the server ends or the time is over.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                while not await self._answers():
                    if self._server is None or not self._server.running:
                        raise self.cannot_start(self._with_log(f"{self.product} ended at its start"))
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            message = f"{self.product} does not answer after {timeout_seconds:.0f} s"
            raise self.cannot_start(self._with_log(message)) from None

    async def wait(self) -> int:
        """Wait for the end of the server; its exit code, or minus the signal that ended it."""
        if self._server is None:
            raise RuntimeError("not started")
        return await self._server.wait()

    async def stop(self, timeout_seconds: float = 10.0) -> None:
        """Shut down in order, or by force after the timeout; nothing that was acknowledged is lost either way."""
        if self._server is not None:
            await self._server.stop(self.stop_signal, timeout_seconds)

    @abstractmethod
    async def _answers(self) -> bool:
        """Whether the server takes our connection."""

    def _with_log(self, message: str) -> str:
        tail = "" if self._server is None else self._server.log_tail()
        return f"{message}. The end of {self.log_path}:\n{tail}"
