"""What the user at the terminal reads."""

import contextlib
import sys
from datetime import UTC, datetime
from pathlib import Path


class Console:
    """Short lines on standard error, each kept with its time in a log as well.

    A terminal that has gone is no reason to stop a suite: then only the log has the line.
    """

    def __init__(self, log_path: Path) -> None:
        log_path.parent.mkdir(mode=0o700, exist_ok=True)
        self._log_path = log_path

    def say(self, text: str) -> None:
        """Show the text, which may have several lines."""
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        with contextlib.suppress(OSError), self._log_path.open("a", encoding="utf-8") as log:
            log.writelines(f"{now} {line}\n" for line in text.splitlines())
