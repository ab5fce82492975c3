"""python -m tools.stripe_simulator: serves until SIGTERM or Ctrl-C. README.md names the variables it reads."""

import signal
import socket
import sys

import structlog
import uvicorn

from kit.clock import SystemClock
from kit.settings import load
from kit.telemetry.logs import configure_logs
from tools.stripe_simulator.app import make_app
from tools.stripe_simulator.settings import SimulatorSettings
from tools.stripe_simulator.store import StateUnusable, Store

# Calls take milliseconds, unless a fault makes them slow, and a supervisor grants five seconds for everything.
_GRACE_SECONDS = 2

_log = structlog.get_logger("tools.stripe_simulator")


def main() -> None:
    """Starts what the environment describes; exits with 1 when the port or the state is taken."""
    settings = load(SimulatorSettings)
    configure_logs("stripe-simulator")
    # The server ends gracefully and raises the signal again: to have been told to stop is no failure.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
    try:
        listener = socket.create_server((settings.host, settings.port))
        store = Store(settings.state)
    except (OSError, StateUnusable) as error:
        _log.error("start_failed", reason=str(error))
        sys.exit(1)
    app = make_app(
        store=store,
        clock=SystemClock(),
        api_key=settings.api_key,
        webhook_url=None if settings.webhook_url is None else str(settings.webhook_url),
        webhook_secret=settings.webhook_secret.get_secret_value(),
        card_on_file=settings.card_on_file,
    )
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="on", timeout_graceful_shutdown=_GRACE_SECONDS
    )
    host, port = listener.getsockname()[:2]
    _log.info("simulator_started", address=f"{host}:{port}", delivers=settings.webhook_url is not None)
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        _log.info("simulator_stopped")


if __name__ == "__main__":
    main()
