import asyncio
import contextlib
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from kit.postgres.embedded import EmbeddedPostgres, PostgresCannotStart
from kit.process import ChildProcess
from kit.redis.embedded import EmbeddedRedis, RedisCannotStart
from kit.testing.stores import free_port, temporary_postgres, temporary_redis
from tests.integration.processes import is_running, wait_until, working_below

_TETHER = Path(sys.modules[ChildProcess.__module__].__file__ or "").with_name("tether.py")


@pytest.fixture
def private_folder() -> Iterator[Path]:
    """A folder below one that only its owner may enter."""
    with tempfile.TemporaryDirectory() as outer:
        Path(outer).chmod(0o700)
        inner = Path(outer) / "below"
        inner.mkdir()
        yield inner


@contextlib.asynccontextmanager
async def _running(server: EmbeddedPostgres | EmbeddedRedis) -> AsyncIterator[None]:
    await server.start()
    try:
        await server.wait_ready(60.0)
        yield
    finally:
        await server.stop()


async def _kill(server: EmbeddedPostgres | EmbeddedRedis) -> None:
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    assert await server.wait() == -signal.SIGKILL


def _rights_of(folder: Path) -> list[tuple[Path, int, int, int]]:
    folders = [folder, *folder.parents]
    return [(path, path.stat().st_mode, path.stat().st_uid, path.stat().st_gid) for path in folders]


def _arguments_of(server: EmbeddedPostgres | EmbeddedRedis) -> str:
    return Path(f"/proc/{server.pid}/cmdline").read_text(encoding="utf-8")


# --- a child process


async def test_a_child_starts_with_default_signals_and_the_pid_that_is_reported(tmp_path: Path) -> None:
    log_path = tmp_path / "logs" / "child.log"
    child = ChildProcess(["sh", "-c", "echo pid $$; grep SigIgn /proc/$$/status"], log_path=log_path)
    await child.start()
    assert await child.wait() == 0
    lines = log_path.read_text(encoding="ascii").split("\n")
    assert lines[0] == f"pid {child.pid}"
    ignored = int(lines[1].split()[1], 16)
    assert not ignored & (1 << (signal.SIGINT - 1))


async def test_a_child_that_ignores_the_stop_signal_is_killed_after_the_timeout(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    child = ChildProcess(["sh", "-c", f"trap '' TERM; touch {ready}; while :; do read x </dev/zero; done"])
    await child.start()
    wait_until(ready.exists, seconds=10, what="the trap is set")
    assert await child.stop(signal.SIGTERM, timeout_seconds=0.2) == -signal.SIGKILL


async def test_a_child_is_ended_and_waited_for_when_its_stop_is_cancelled(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    child = ChildProcess(["sh", "-c", f"trap '' TERM; touch {ready}; while :; do read x </dev/zero; done"])
    await child.start()
    wait_until(ready.exists, seconds=10, what="the trap is set")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await child.stop(signal.SIGTERM, timeout_seconds=60.0)
    assert child.pid is not None
    assert not is_running(child.pid)


async def test_a_program_that_cannot_be_executed_ends_with_127_and_says_why(tmp_path: Path) -> None:
    child = ChildProcess(["/nowhere/program"], log_path=tmp_path / "log")
    await child.start()
    assert await child.wait() == 127
    assert "/nowhere/program: No such file" in child.log_tail()


def test_a_program_whose_parent_has_gone_never_runs(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    stranger = subprocess.run(
        [sys.executable, "-I", "-S", str(_TETHER), "9", "1", "--", "touch", str(witness)], check=False
    )
    assert stranger.returncode == 125
    assert not witness.exists()


# --- PostgreSQL


_AS_ROOT = """
import asyncio, os, pathlib, sys
import psycopg
from kit.postgres.embedded import EmbeddedPostgres

async def main(state_dir, port):
    assert os.geteuid() == 0
    server = EmbeddedPostgres(pathlib.Path(state_dir), int(port))
    await server.start()
    await server.wait_ready()
    async with await psycopg.AsyncConnection.connect(server.url) as connection:
        answer = await connection.execute("SELECT current_user, current_database()")
        print(*await answer.fetchone(), os.stat(f"/proc/{server.pid}").st_uid)
    await server.stop()

asyncio.run(main(*sys.argv[1:]))
"""


def test_postgres_starts_as_root_below_a_0700_folder(private_folder: Path) -> None:
    before = _rights_of(private_folder)
    # Who is not root becomes it, in a namespace of its own: what matters is that the server refuses it.
    become_root = () if os.geteuid() == 0 else ("unshare", "--map-root-user", "--")
    finished = subprocess.run(
        [*become_root, sys.executable, "-c", _AS_ROOT, str(private_folder / "state"), str(free_port())],
        cwd=_TETHER.parents[1],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.split() == ["tollbook", "tollbook", "0"], "seen from outside the server is ours"
    assert _rights_of(private_folder) == before
    assert not working_below(private_folder)


async def test_postgres_keeps_its_password_private_and_out_of_its_arguments(private_folder: Path) -> None:
    server = EmbeddedPostgres(private_folder / "state", free_port())
    async with _running(server):
        password_path = private_folder / "state" / "password"
        assert stat.S_IMODE(password_path.stat().st_mode) == 0o600
        assert password_path.read_text(encoding="ascii") not in _arguments_of(server)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            await psycopg.AsyncConnection.connect(server.url.replace("tollbook:", "tollbook:x", 1))


async def test_postgres_is_durable_and_byte_ordered_by_default(private_folder: Path) -> None:
    server = EmbeddedPostgres(private_folder / "state", free_port())
    async with _running(server), await psycopg.AsyncConnection.connect(server.url) as connection:
        wanted = {
            "fsync": "on",
            "synchronous_commit": "on",
            "full_page_writes": "on",
            "max_connections": "300",
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "server_encoding": "UTF8",
            "password_encryption": "scram-sha-256",
        }
        answer = await connection.execute("SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", (list(wanted),))
        assert dict(await answer.fetchall()) == wanted
        answer = await connection.execute("SELECT 'Z' < 'a', upper('ä') = 'Ä'")
        assert await answer.fetchone() == (True, True)


async def test_postgres_starts_again_after_a_kill_with_what_was_committed(private_folder: Path) -> None:
    server = EmbeddedPostgres(private_folder / "state", free_port())
    async with _running(server):
        async with await psycopg.AsyncConnection.connect(server.url) as connection:
            await connection.execute("CREATE TABLE kept AS SELECT 1 AS number")
        await _kill(server)
        assert (private_folder / "state" / "data" / "postmaster.pid").exists()
        await server.start()
        await server.wait_ready()
        async with await psycopg.AsyncConnection.connect(server.url) as connection:
            answer = await connection.execute("SELECT number FROM kept")
            assert await answer.fetchone() == (1,)


async def test_postgres_starts_when_the_pid_of_its_stale_lock_is_a_strangers(private_folder: Path) -> None:
    server = EmbeddedPostgres(private_folder / "state", free_port())
    async with _running(server):
        await _kill(server)
        wait_until(lambda: not working_below(private_folder), seconds=10, what="its backends have ended")
        lock_path = private_folder / "state" / "data" / "postmaster.pid"
        stranger = ChildProcess(["sleep", "600"])
        await stranger.start()
        try:
            lines = lock_path.read_text(encoding="ascii").splitlines()
            lock_path.write_text("\n".join([str(stranger.pid), *lines[1:], ""]), encoding="ascii")
            await server.start()
            await server.wait_ready()
        finally:
            await stranger.stop(signal.SIGKILL, timeout_seconds=5.0)


async def test_postgres_begins_anew_after_an_initdb_that_was_killed_half_way(private_folder: Path) -> None:
    state_dir = private_folder / "state"
    starting = asyncio.ensure_future(EmbeddedPostgres(state_dir, free_port()).start())
    async with asyncio.timeout(30):
        while not list(state_dir.glob("data.*/base")):  # noqa: ASYNC110 - initdb sets no event
            await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert [path.name for path in state_dir.glob("data")] == []
    async with _running(EmbeddedPostgres(state_dir, free_port())):
        assert (state_dir / "data" / "PG_VERSION").exists()
    wait_until(lambda: not working_below(private_folder), seconds=10, what="the killed initdb's server ended")
    async with _running(EmbeddedPostgres(state_dir, free_port())):
        assert (state_dir / "data" / "PG_VERSION").exists()


async def test_postgres_of_another_user_is_refused_with_both_named(
    private_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (private_folder / "state" / "data").mkdir(parents=True)
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(PostgresCannotStart, match=rf"belongs to user {owner} and this is user {owner + 1}"):
        await EmbeddedPostgres(private_folder / "state", free_port()).start()


async def test_refused_user_namespace_is_an_error_that_says_what_to_do(
    private_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = private_folder / "programs"
    programs.mkdir()
    refusing = programs / "unshare"
    refusing.write_text("#!/bin/sh\necho 'unshare failed: Operation not permitted' >&2\nexit 1\n", encoding="ascii")
    refusing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(PostgresCannotStart, match=r"Operation not permitted.*TOLLBOOK_POSTGRES_URL"):
        await EmbeddedPostgres(private_folder / "state", free_port()).start()
    assert not (private_folder / "state" / "data").exists()


async def test_postgres_that_ends_at_its_start_is_an_error_with_the_end_of_its_log(
    private_folder: Path,
) -> None:
    server = EmbeddedPostgres(private_folder / "state", free_port(), settings={"shared_buffers": "nonsense"})
    try:
        await server.start()
        with pytest.raises(PostgresCannotStart, match=r"shared_buffers"):
            await server.wait_ready()
    finally:
        await server.stop()


# --- Redis


async def test_redis_keeps_what_it_answered_through_a_kill(private_folder: Path) -> None:
    server = EmbeddedRedis(private_folder / "state", free_port())
    async with _running(server):
        with redis.Redis.from_url(server.url) as client:
            assert client.set("kept", "1")
        await _kill(server)
        await server.start()
        await server.wait_ready()
        with redis.Redis.from_url(server.url) as client:
            assert client.get("kept") == b"1"
    assert not working_below(private_folder)


async def test_redis_starts_with_a_log_whose_last_write_was_cut(private_folder: Path) -> None:
    server = EmbeddedRedis(private_folder / "state", free_port())
    async with _running(server):
        with redis.Redis.from_url(server.url) as client:
            client.set("kept", "1")
            client.set("cut", "1")
    log_path = private_folder / "state" / "appendonly.aof"
    os.truncate(log_path, log_path.stat().st_size - 3)
    async with _running(server):
        with redis.Redis.from_url(server.url) as client:
            assert client.get("kept") == b"1"


async def test_redis_is_durable_and_never_evicts_by_default(private_folder: Path) -> None:
    server = EmbeddedRedis(private_folder / "state", free_port())
    async with _running(server):
        with redis.Redis.from_url(server.url) as client:
            settings = client.config_get("*")
    wanted = {
        "appendonly": "yes",
        "appendfsync": "always",
        "aof-load-truncated": "yes",
        "maxmemory-policy": "noeviction",
        "save": "",
        "bind": "127.0.0.1",
    }
    assert wanted.items() <= settings.items()


async def test_redis_keeps_its_password_private_and_out_of_its_arguments(private_folder: Path) -> None:
    server = EmbeddedRedis(private_folder / "state", free_port())
    async with _running(server):
        for name in ("password", "redis.conf"):
            assert stat.S_IMODE((private_folder / "state" / name).stat().st_mode) == 0o600
        password = (private_folder / "state" / "password").read_text(encoding="ascii")
        assert password not in _arguments_of(server)
        stranger_url = server.url.replace(f":{password}@", "")
        with redis.Redis.from_url(stranger_url) as client, pytest.raises(redis.AuthenticationError):
            client.ping()


async def test_redis_that_ends_at_its_start_is_an_error_with_the_end_of_its_log(private_folder: Path) -> None:
    server = EmbeddedRedis(private_folder / "state", free_port(), settings={"appendfsync": "nonsense"})
    try:
        await server.start()
        with pytest.raises(RedisCannotStart, match=r"appendfsync"):
            await server.wait_ready()
    finally:
        await server.stop()


# --- stores for tests


def test_temporary_stores_are_gone_afterwards() -> None:
    with temporary_postgres(not_durable=True) as postgres, temporary_redis(not_durable=True) as cache:
        pids = [postgres.pid, cache.pid]
        with psycopg.connect(postgres.url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        with redis.Redis.from_url(cache.url) as client:
            assert client.ping()
    assert not any(is_running(pid) for pid in pids if pid is not None)
    assert not postgres.log_path.exists()


def test_temporary_stores_are_durable_unless_the_test_says_otherwise() -> None:
    with temporary_postgres() as postgres, temporary_redis() as cache:
        with psycopg.connect(postgres.url) as connection:
            assert connection.execute("SHOW fsync").fetchone() == ("on",)
        with redis.Redis.from_url(cache.url) as client:
            assert client.config_get("appendonly") == {"appendonly": "yes"}
