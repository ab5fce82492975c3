"""The gateway: its own Go tests, and the built binary as a process."""

import os
import signal
import socket
import subprocess
from pathlib import Path

import httpx

from tests.integration.processes import wait_until

CHECKOUT = Path(__file__).resolve().parents[2]
BINARY = CHECKOUT / ".build" / "tollbook-gateway"

SERVICES = ("METERING", "QUOTA", "BILLING", "ANALYTICS", "ACCOUNTS")


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def test_the_gateways_own_tests_pass() -> None:
    result = subprocess.run(
        [CHECKOUT / "tools" / "go.sh", "test", "./gateway/..."],
        cwd=CHECKOUT,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == 0, result.stdout


def test_the_binary_answers_while_services_are_down_and_ends_on_sigterm() -> None:
    address = free_address()
    environment = {
        "TOLLBOOK_GATEWAY_ADDRESS": address,
        "TOLLBOOK_METRICS_ADDRESS": free_address(),
        **{f"TOLLBOOK_{service}_ADDRESS": free_address() for service in SERVICES},
    }
    with (
        subprocess.Popen([BINARY], env=os.environ | environment, stderr=subprocess.PIPE, text=True) as process,
        httpx.Client(base_url=f"http://{address}", trust_env=False) as client,
    ):
        try:
            wait_until(lambda: answers(client, "/healthz"), seconds=10, what="the gateway answers")
            readiness = client.get("/readyz")
            document = client.get("/openapi.json")
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=10)
        finally:
            process.kill()
    assert readiness.status_code == 503
    assert readiness.json()["notReady"] == {service.lower(): "UNREACHABLE" for service in SERVICES}
    assert document.text == (CHECKOUT / "gen/openapi/tollbook.swagger.json").read_text(encoding="utf-8")
    assert process.returncode == 0
    assert '"event":"stopped"' in said.splitlines()[-1]


def answers(client: httpx.Client, path: str) -> bool:
    try:
        return client.get(path).is_success
    except httpx.TransportError:
        return False
