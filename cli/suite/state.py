"""The state folder: one suite at a time works on it."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from cli.suite.errors import Refused
from kit.private_files import make_private_folder


@contextlib.contextmanager
def locked_state(state_dir: Path) -> Iterator[bool]:
    """Hold the folder for oneself; raises Refused when another suite holds it.

    A missing folder is made, with mode 0700. Yields whether the last holder ended without letting go (by
    SIGKILL, say), so that its processes may be about to end just now. The lock is the kernel's and ends with
    its holder; the file's text only tells who that is.
    """
    try:
        make_private_folder(state_dir)
        descriptor = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        message = f"the state folder {state_dir} cannot be used: {error.strerror}"
        raise Refused(message) from None
    with os.fdopen(descriptor, "r+", encoding="ascii") as file:
        holder = file.read().strip()
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            message = f"{state_dir} is in use by another `tollbook up` (pid {holder or 'unknown'})"
            raise Refused(message) from None
        _write(file.fileno(), f"{os.getpid()}\n")
        try:
            yield bool(holder)
        finally:
            _write(file.fileno(), "")


def _write(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode("ascii"), 0)
