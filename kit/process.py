"""A child process that cannot outlive its parent."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from kit.private_files import make_private_folder

# By path and in isolated mode, not by -m: it then starts in any folder, in any environment, in some 20 ms.
_TETHER = (sys.executable, "-I", "-S", str(Path(__file__).with_name("tether.py")))

# Looked at when a process starts; one generation is kept beside the current one.
_LOG_BYTES_MAX = 32 * 1024 * 1024

# How much of a log an error message quotes.
_TAIL_BYTES = 2000
_TAIL_LINES = 8


def tethered(command: Sequence[str], *, death_signal: signal.Signals = signal.SIGKILL) -> tuple[str, ...]:
    """Return the command that runs `command` as a child that the kernel ends together with this process.

    Start it in the main thread: the death signal is sent when the *thread* that created the child ends.
    """
    return (*_TETHER, str(int(death_signal)), str(os.getpid()), "--", *command)


class ChildProcess:
    """One run, or one run after the other, of a program as a child of this process.

    The promise: the program ends when this process ends, also by SIGKILL, because the kernel then sends it
    `death_signal`. It runs in a session of its own, so Ctrl-C at a terminal reaches only this process, which
    decides. Standard output and error are appended to `log_path`, or inherited where that is None; standard
    input is empty.

    `wrapper` is a command that executes the rest of its arguments in its own place (`unshare … --`) and goes
    before the tether. `environment` is all of the program's environment; None hands over this process' own.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        working_folder: Path | None = None,
        log_path: Path | None = None,
        death_signal: signal.Signals = signal.SIGKILL,
        wrapper: Sequence[str] = (),
    ) -> None:
        self._command = tuple(command)
        self._environment = environment
        self._working_folder = working_folder
        self._log_path = log_path
        self._death_signal = death_signal
        self._wrapper = tuple(wrapper)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """The pid of the current or last run; None before the first."""
        return None if self._process is None else self._process.pid

    @property
    def running(self) -> bool:
        """Whether the program runs, as far as this process has been told."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start the program; a no-op while it runs. Raises OSError where the launcher cannot be executed.

        Call it in the main thread: the kernel sends the death signal when the *thread* that created the child
        ends.
        """
        if self.running:
            return
        if threading.current_thread() is not threading.main_thread():
            message = "a child process is started in the main thread, or it dies with the thread that started it"
            raise RuntimeError(message)
        with _appending(self._log_path) as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._wrapper,
                *tethered(self._command, death_signal=self._death_signal),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._working_folder,
                env=None if self._environment is None else dict(self._environment),
                start_new_session=True,
            )

    async def wait(self) -> int:
        """Wait for the end of the current run; the exit code, or minus the signal that ended it."""
        if self._process is None:
            message = "not started"
            raise RuntimeError(message)
        return await self._process.wait()

    async def stop(self, stop_signal: signal.Signals, timeout_seconds: float) -> int | None:
        """Ask the program to end; after the timeout, or when cancelled, kill it.

        Returns its exit code, None if it was never started. When this returns or raises, the program has
        ended and has been waited for.
        """
        process = self._process
        if process is None or process.returncode is not None:
            return None if process is None else process.returncode
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(stop_signal)
        try:
            async with asyncio.timeout(timeout_seconds):
                return await process.wait()
        except TimeoutError:
            pass
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        return process.returncode

    def log_tail(self) -> str:
        """Return the last few lines of the log, for an error message; empty where there is no log."""
        return "" if self._log_path is None else tail_of(self._log_path)


@contextlib.contextmanager
def _appending(log_path: Path | None) -> Iterator[IO[bytes] | None]:
    if log_path is None:
        yield None
        return
    make_private_folder(log_path.parent)
    if log_path.exists() and log_path.stat().st_size > _LOG_BYTES_MAX:
        log_path.replace(log_path.with_name(f"{log_path.name}.1"))
    with log_path.open("ab") as file:
        yield file


def tail_of(log_path: Path) -> str:
    """Return the last few lines of a log file; empty where there is none."""
    try:
        with log_path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-_TAIL_LINES:])
