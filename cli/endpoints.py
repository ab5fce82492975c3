"""Where the running suite is, as its `endpoints.json` says."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

SERVICES = ("metering", "quota", "billing", "analytics", "accounts")


class SuiteNotUp(Exception):
    """There is no suite to talk to; the message says how to start one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoints:
    """The addresses of a suite and the key of its operator."""

    gateway: str
    addresses: dict[str, str]
    """Service name -> `host:port`."""
    admin_key: str

    def __repr__(self) -> str:
        """Without the key: it would end in a log."""
        return f"Endpoints(gateway={self.gateway!r}, addresses={self.addresses!r})"


def add_state_argument(parser: argparse.ArgumentParser) -> None:
    """Declares `--state`, by which a command finds the running suite."""
    parser.add_argument(
        "--state",
        type=Path,
        default=Path(".state"),
        metavar="DIR",
        help="the state folder of the running suite (%(default)s)",
    )


def read_endpoints(state_dir: Path) -> Endpoints:
    """The suite whose state is kept there. Raises SuiteNotUp when none is up."""
    path = state_dir / "endpoints.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        msg = f"no suite is up in {state_dir} ({path} is not there): start it with `tollbook up --state {state_dir}`"
        raise SuiteNotUp(msg) from None
    except OSError as error:
        msg = f"{path}: {error.strerror}"
        raise SuiteNotUp(msg) from None
    except ValueError:
        msg = f"{path} is not JSON: stop the suite and start it again"
        raise SuiteNotUp(msg) from None
    wanted = ("gateway", *SERVICES, "admin_key")
    found = document if isinstance(document, dict) else {}
    missing = [name for name in wanted if not isinstance(found.get(name), str)]
    if missing:
        msg = f"{path} does not name {', '.join(missing)}: it is of another version; start the suite again"
        raise SuiteNotUp(msg)
    return Endpoints(
        gateway=found["gateway"],
        addresses={name: found[name] for name in SERVICES},
        admin_key=found["admin_key"],
    )
