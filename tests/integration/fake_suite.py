"""A suite of tiny processes, or of real stores, in the real foreground loop, for the supervisor's tests.

    python -m tests.integration.fake_suite up STATE BASE_PORT [--behaviour NAME]
    python -m tests.integration.fake_suite serve NAME PORT JOURNAL BEHAVIOUR

A fake process answers 200 on its port and writes a line into the journal when it is told to stop.
"""

import argparse
import functools
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType

from cli.suite.console import Console
from cli.suite.errors import Refused
from cli.suite.foreground import Blueprint, exit_code_of, run_suite
from cli.suite.parts import Program, ProgramSpec, http_probe
from cli.suite.ports import Ports
from cli.suite.services import CHECKOUT, inherited_environment
from cli.suite.supervisor import Group
from kit.postgres.embedded import EmbeddedPostgres
from kit.redis.embedded import EmbeddedRedis

# "normal"; "silent": quota never answers; "broken": quota ends at once, with a word in its log; "stubborn":
# quota does not heed SIGTERM; "refused": the first data is refused; "stores": PostgreSQL and Redis are real.
BEHAVIOURS = ("normal", "silent", "broken", "stubborn", "refused", "stores")

FAKES = ("gateway", "metering", "quota", "stripe")

STOP_SECONDS = 2.0


def main() -> int:
    """Run the suite, or one of its fakes."""
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers(required=True, dest="command")
    up = subparsers.add_parser("up")
    up.add_argument("state", type=Path)
    up.add_argument("base_port", type=int)
    up.add_argument("--behaviour", choices=BEHAVIOURS, default="normal")
    serve = subparsers.add_parser("serve")
    serve.add_argument("name")
    serve.add_argument("port", type=int)
    serve.add_argument("journal", type=Path)
    serve.add_argument("behaviour", choices=BEHAVIOURS)
    arguments = parser.parse_args()
    if arguments.command == "serve":
        return _serve(arguments.name, arguments.port, arguments.journal, arguments.behaviour)
    return exit_code_of(lambda: _up(arguments.state, Ports(base=arguments.base_port), arguments.behaviour))


def _up(state_dir: Path, ports: Ports, behaviour: str) -> None:
    stores = ("postgres", "redis") if behaviour == "stores" else ()
    run_suite(
        state_dir=state_dir,
        ports=ports,
        names=(*FAKES, *stores),
        draw=functools.partial(_blueprint, ports, behaviour),
        healthy_within_seconds=8.0 if behaviour == "silent" else 120.0,
    )


def _blueprint(ports: Ports, behaviour: str, state_dir: Path, console: Console) -> Blueprint:
    del console

    async def seed() -> None:
        if behaviour == "refused":
            raise Refused("plans.yaml: no such meter")

    def fake(name: str) -> Program:
        command = ("serve", name, str(ports.number(name)), str(state_dir / "journal"))
        spec = ProgramSpec(
            name=name,
            command=(
                *(sys.executable, "-m", "tests.integration.fake_suite", *command),
                behaviour if name == "quota" else "normal",
            ),
            environment=inherited_environment(),
            working_folder=CHECKOUT,
            probe=http_probe(f"http://{ports.address(name)}/"),
        )
        return Program(spec, log_path=state_dir / "logs" / f"{name}.log")

    stores = [
        Group(parts=[EmbeddedPostgres(state_dir / "postgres", ports.number("postgres"))], stop_seconds=5.0),
        Group(parts=[EmbeddedRedis(state_dir / "redis", ports.number("redis"))], stop_seconds=5.0),
    ]
    return Blueprint(
        stores=stores if behaviour == "stores" else [],
        programs=[
            Group(parts=[fake(name) for name in names], stop_seconds=STOP_SECONDS)
            for names in (("stripe",), ("metering", "quota"), ("gateway",))
        ],
        addresses={"gateway": f"http://{ports.address('gateway')}", "admin_key": "tb_admin_fake"},
        seed=seed,
    )


def _serve(name: str, port: int, journal: Path, behaviour: str) -> int:
    if behaviour == "broken":
        sys.stderr.write("the fake is broken on purpose\n")
        return 3

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        with journal.open("a", encoding="ascii") as lines:
            lines.write(f"{name}\n")
        if behaviour != "stubborn":
            sys.exit(0)

    signal.signal(signal.SIGTERM, stop)
    if behaviour == "silent":
        while True:
            signal.pause()
    ThreadingHTTPServer(("127.0.0.1", port), _Answer).serve_forever()
    return 0


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()


if __name__ == "__main__":
    sys.exit(main())
