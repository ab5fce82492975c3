"""Which port of the block of twenty is whose."""

import contextlib
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass

from cli.suite.errors import Refused

HOST = "127.0.0.1"

SERVICES = ("metering", "quota", "billing", "analytics", "accounts")

# The documented order: scripts count on it, so names are only ever added at the end.
_ORDER = (
    "gateway",
    *SERVICES,
    "postgres",
    "redis",
    "stripe",
    "mail",
    *(f"{name} metrics" for name in ("gateway", *SERVICES)),
)

_BLOCK_PORTS = 20
_PORT_MAX = 65_535

_POLL_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class Ports:
    """A block of twenty consecutive ports of the loopback interface."""

    base: int

    def __post_init__(self) -> None:
        """Refuse a block that does not fit into the ports that exist."""
        if not 1 <= self.base <= _PORT_MAX - _BLOCK_PORTS + 1:
            message = f"--base-port {self.base}: between 1 and {_PORT_MAX - _BLOCK_PORTS + 1}"
            raise Refused(message)

    def number(self, name: str) -> int:
        """Return the port of a process, or of its metrics with the name "<process> metrics"."""
        return self.base + _ORDER.index(name)

    def address(self, name: str) -> str:
        """Return the same as host:port."""
        return f"{HOST}:{self.number(name)}"


def refuse_ports_in_use(ports: Ports, names: Iterable[str], *, patience_seconds: float = 0.0) -> None:
    """Raise Refused, naming each port that is taken and what it is for, unless all are free in time."""
    deadline = time.monotonic() + patience_seconds
    wanted = tuple(names)
    while taken := [name for name in wanted if not _is_free(ports.number(name))]:
        if time.monotonic() >= deadline:
            listed = ", ".join(f"{ports.number(name)} (for {name})" for name in taken)
            message = (
                f"in use on {HOST}: port {listed}. "
                "Nothing was started; stop what listens there, or choose another --base-port"
            )
            raise Refused(message)
        # Waited for before anything runs; there is no loop to give way to.
        time.sleep(_POLL_SECONDS)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: a connection that lingers from before is not in the way, a listener is.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            probe.bind((HOST, port))
            probe.listen(1)
            return True
    return False
