"""Stripe's official stripe-mock, as a process of its own: it refuses requests that Stripe's OpenAPI document forbids.

A test that takes the `stripe_mock` fixture gets its URL, and points Stripe's library there instead of at the stand-in:

    client = stripe.StripeClient("sk_test_mock", base_addresses={"api": stripe_mock})

It knows every operation, parameter and type of the document, and answers with fixtures. It remembers nothing: an id
that one call answered means nothing to the next, any id exists, and no state forbids a call. What the state forbids is
the stand-in's part (tools/stripe_simulator).

The document is of API version 2026-08-26.dahlia, the newest that a release of stripe-mock carries. The pinned Stripe
library speaks 2026-10-28.endive; stripe-mock ignores the version that a request names.
"""

from __future__ import annotations

import contextlib
import fcntl
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.integration.processes import wait_until

_CHECKOUT = Path(__file__).resolve().parents[1]
_FOLDER = _CHECKOUT / ".build" / "stripe-mock"
_START_SECONDS = 30.0
_LISTENS = re.compile(r"Listening for HTTP at address: (\S+)")


def built_stripe_mock() -> Path:
    """The folder that holds `stripe-mock` and `openapi.json`, which `make` builds when they are missing or old."""
    _FOLDER.mkdir(parents=True, exist_ok=True)
    with (_FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        make = shutil.which("make") or "make"
        subprocess.run([make, "--silent", ".build/stripe-mock/stripe-mock"], cwd=_CHECKOUT, check=True)
    return _FOLDER


@contextlib.contextmanager
def running_stripe_mock() -> Iterator[str]:
    """The URL of a stripe-mock that runs on a free port of 127.0.0.1 until the block ends."""
    binary = built_stripe_mock() / "stripe-mock"
    with tempfile.TemporaryDirectory() as folder:
        log_path = Path(folder) / "log"
        # It answers HTTPS as well, whether wanted or not, and by itself to the whole network.
        addresses = ["-http-addr", "127.0.0.1:0", "-https-addr", "127.0.0.1:0"]
        with log_path.open("wb") as log, subprocess.Popen([binary, *addresses], stdout=log, stderr=log) as process:
            try:
                wait_until(lambda: _address(log_path) is not None, seconds=_START_SECONDS, what="stripe-mock listens")
                yield f"http://{_address(log_path)}"
            finally:
                process.kill()


def _address(log_path: Path) -> str | None:
    found = _LISTENS.search(log_path.read_text(encoding="utf-8"))
    return None if found is None else found[1]
