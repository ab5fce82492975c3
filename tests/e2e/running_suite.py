"""A whole suite in processes of its own, as `tollbook up` starts it, and the ways to reach it from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
import httpx
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from kit.testing.stores import free_port_block
from tollbook.accounts.v1 import accounts_pb2, accounts_pb2_grpc
from tollbook.metering.v1 import metering_pb2, metering_pb2_grpc

CHECKOUT = Path(__file__).resolve().parents[2]
SAMPLE = CHECKOUT / "deploy" / "sample_trace.csv"
SERVICES = ("metering", "quota", "billing", "analytics", "accounts")
PORTS = 20

_TOLLBOOK = str(Path(sys.executable).with_name("tollbook"))
_HEALTHY_SECONDS_MAX = 180.0
_STOP_SECONDS_MAX = 20.0
_REPLAY_SECONDS_MAX = 300.0
_CALL_SECONDS = 10.0
_POLL_SECONDS = 0.05
_TAIL_LINES = 40

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


def wait_for(condition: Callable[[], bool], *, seconds: float, what: str) -> None:
    """Wait until the condition holds; fails, saying what was waited for, when it is late."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(_POLL_SECONDS)


def tollbook(*arguments: object, seconds: float = _REPLAY_SECONDS_MAX) -> subprocess.CompletedProcess[str]:
    """Run the command as a user would and return how it ended."""
    return subprocess.run(
        [_TOLLBOOK, *map(str, arguments)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


@dataclass(frozen=True, kw_only=True)
class Tenant:
    """An organization with a key of its own."""

    organization_id: str
    key: str


class RunningSuite:
    """A suite that is up."""

    def __init__(self, state_dir: Path, base_port: int, channels: dict[str, grpc.Channel]) -> None:
        self.state_dir = state_dir
        self.base_port = base_port
        self._channels = channels
        self.admin_key: str = self.endpoints()["admin_key"]

    def endpoints(self) -> dict[str, Any]:
        """Return what endpoints.json says now."""
        document: dict[str, Any] = json.loads((self.state_dir / "endpoints.json").read_text(encoding="utf-8"))
        return document

    def channel(self, service: str) -> grpc.Channel:
        """Return the channel to a service; it carries no key."""
        return self._channels[service]

    def rest(self, key: str | None) -> httpx.Client:
        """Return a client of the gateway that carries the key."""
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        return httpx.Client(
            base_url=self.endpoints()["gateway"], headers=headers, timeout=_CALL_SECONDS, trust_env=False
        )

    def new_tenant(self) -> Tenant:
        """Make an organization, on the plan free, and a key for it."""
        organization_id = f"e2e-{uuid.uuid4().hex}"
        accounts = accounts_pb2_grpc.AccountsServiceStub(self.channel("accounts"))
        organization = accounts_pb2.Organization(organization_id=organization_id, display_name="E2E")
        call(
            accounts.CreateOrganization,
            accounts_pb2.CreateOrganizationRequest(request_id=organization_id, organization=organization),
            key=self.admin_key,
        )
        answer = call(
            accounts.CreateApiKey,
            accounts_pb2.CreateApiKeyRequest(
                request_id=f"{organization_id}-key",
                api_key=accounts_pb2.ApiKey(organization_id=organization_id, display_name="E2E"),
            ),
            key=self.admin_key,
        )
        return Tenant(organization_id=organization_id, key=answer.secret)

    def organization_ids(self) -> list[str]:
        """Return the ids of all organizations."""
        accounts = accounts_pb2_grpc.AccountsServiceStub(self.channel("accounts"))
        found: list[str] = []
        request = accounts_pb2.ListOrganizationsRequest(page_size=1000)
        while True:
            page = call(accounts.ListOrganizations, request, key=self.admin_key)
            found += [organization.organization_id for organization in page.organizations]
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    def recorded(self, tenant: Tenant) -> metering_pb2.QueryUsageResponse:
        """Return everything that the ledger has of an organization, and its head."""
        metering = metering_pb2_grpc.MeteringServiceStub(self.channel("metering"))
        return call(metering.QueryUsage, metering_pb2.QueryUsageRequest(), key=tenant.key)

    def replay(self, trace: Path) -> dict[str, Any]:
        """Replay a trace to its end and return the object that it prints."""
        return finished_replay(self.start_replay(trace))

    def start_replay(self, trace: Path) -> subprocess.Popen[str]:
        """Start the replay of a trace."""
        return subprocess.Popen(
            [_TOLLBOOK, "replay", "--trace", str(trace), "--state", str(self.state_dir), "--json"],
            cwd=CHECKOUT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def finished_replay(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for a replay and return the object that it printed, which is all that it may print."""
    output, progress = process.communicate(timeout=_REPLAY_SECONDS_MAX)
    assert process.returncode == 0, f"the replay ended with exit code {process.returncode}:\n{progress}"
    found: dict[str, Any] = json.loads(output)
    return found


def call(method: grpc.UnaryUnaryMultiCallable[RequestT, ResponseT], request: RequestT, *, key: str | None) -> ResponseT:
    """Call a method with a key, or with none."""
    metadata = None if key is None else (("authorization", f"Bearer {key}"),)
    return method(request, timeout=_CALL_SECONDS, metadata=metadata)


def refusal_of(
    method: grpc.UnaryUnaryMultiCallable[RequestT, Any], request: RequestT, *, key: str | None
) -> tuple[str, str]:
    """Return the status and the reason that a call is refused with; fails when it is not refused."""
    with pytest.raises(grpc.RpcError) as raised:
        call(method, request, key=key)
    # An RpcError of a channel is its Call as well; the types do not say so.
    error: Any = raised.value
    return error.code().name, _reason_of(error)


def _reason_of(error: Any) -> str:
    status = rpc_status.from_call(error)
    assert status is not None, f"the refusal carries no details: {error}"
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            assert info.domain == "tollbook.dev"
            return info.reason
    pytest.fail(f"the refusal carries no ErrorInfo: {error}")


@contextmanager
def running_suite(state_dir: Path) -> Iterator[RunningSuite]:
    """Start a suite, wait until it is up, and stop it as an operator would; it must stop in order."""
    base_port = free_port_block(PORTS)
    state_dir.mkdir(parents=True, exist_ok=True)
    output_path = state_dir / "up.output"
    with output_path.open("wb") as output:
        process = subprocess.Popen(
            [_TOLLBOOK, "up", "--state", str(state_dir), "--base-port", str(base_port)],
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_until_up(process, state_dir, output_path)
        endpoints = json.loads((state_dir / "endpoints.json").read_text(encoding="utf-8"))
        channels = {service: grpc.insecure_channel(endpoints[service]) for service in SERVICES}
        try:
            yield RunningSuite(state_dir, base_port, channels)
        finally:
            for channel in channels.values():
                channel.close()
        _stop(process, output_path)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def _wait_until_up(process: subprocess.Popen[bytes], state_dir: Path, output_path: Path) -> None:
    deadline = time.monotonic() + _HEALTHY_SECONDS_MAX
    while not (state_dir / "endpoints.json").exists():
        assert process.poll() is None, f"tollbook up ended with {process.returncode}:\n{_story(state_dir, output_path)}"
        assert time.monotonic() < deadline, f"the suite is not up:\n{_story(state_dir, output_path)}"
        time.sleep(_POLL_SECONDS)


def _stop(process: subprocess.Popen[bytes], output_path: Path) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        code = process.wait(_STOP_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        pytest.fail(f"the suite did not stop within {_STOP_SECONDS_MAX:.0f} s:\n{_tail(output_path)}")
    assert code == 0, f"the suite stopped with exit code {code}:\n{_tail(output_path)}"


def _story(state_dir: Path, output_path: Path) -> str:
    """What each process said last: where a failed start is read."""
    logs = sorted((state_dir / "logs").glob("*.log"))
    return "\n".join(f"--- {path.name}\n{_tail(path)}" for path in (output_path, *logs))


def _tail(path: Path) -> str:
    return os.linesep.join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:])
