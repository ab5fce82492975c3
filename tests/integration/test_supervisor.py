import importlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.suite.errors import Refused
from cli.suite.ports import SERVICES, Ports, refuse_ports_in_use
from cli.suite.secrets import load_or_create_secrets, sha256_hex
from cli.suite.seeds import refuse_bad_plans
from cli.suite.services import (
    CHECKOUT,
    Site,
    StripeAccess,
    gateway_spec,
    role_url,
    service_specs,
    stand_in_spec,
)
from kit.grpc.server import ServerSettings
from kit.testing.stores import free_port_block
from tests.integration.fake_suite import FAKES, STOP_SECONDS
from tests.integration.processes import is_running, wait_until, working_below

_PORTS = 20


class FakeSuite:
    """A fake suite in a process of its own, and what it leaves for others to see."""

    def __init__(self, state_dir: Path, base_port: int, behaviour: str) -> None:
        self.state_dir = state_dir
        self.ports = Ports(base=base_port)
        self.output_path = state_dir.with_name(f"{state_dir.name}.output")
        with self.output_path.open("ab") as output:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.integration.fake_suite", "up"),
                    *(str(state_dir), str(base_port), "--behaviour", behaviour),
                ],
                cwd=CHECKOUT,
                stdout=output,
                stderr=output,
            )

    @property
    def endpoints_path(self) -> Path:
        return self.state_dir / "endpoints.json"

    @property
    def output(self) -> str:
        return self.output_path.read_text(encoding="utf-8")

    @property
    def journal(self) -> list[str]:
        return (self.state_dir / "journal").read_text(encoding="ascii").split()

    def wait_up(self) -> dict[str, Any]:
        wait_until(lambda: self.endpoints_path.exists() or self.process.poll() is not None, seconds=60, what="up")
        assert self.process.poll() is None, self.output
        return self.endpoints()

    def endpoints(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.endpoints_path.read_text(encoding="utf-8"))
        return document

    def answers(self, name: str) -> bool:
        try:
            return httpx.get(f"http://{self.ports.address(name)}/", trust_env=False).is_success
        except httpx.HTTPError:
            return False

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=20)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(timeout=20)


StartSuite = Callable[..., FakeSuite]


@pytest.fixture
def start_suite(tmp_path: Path) -> Iterator[StartSuite]:
    suites: list[FakeSuite] = []

    def start(behaviour: str = "normal", *, like: FakeSuite | None = None) -> FakeSuite:
        state_dir = like.state_dir if like else tmp_path / "state"
        base_port = like.ports.base if like else free_port_block(_PORTS)
        suites.append(FakeSuite(state_dir, base_port, behaviour))
        return suites[-1]

    yield start
    for suite in suites:
        suite.kill()


def test_endpoints_file_is_private_and_removed_at_stop(start_suite: StartSuite) -> None:
    suite = start_suite()
    endpoints = suite.wait_up()
    assert stat.S_IMODE(suite.endpoints_path.stat().st_mode) == 0o600
    assert stat.S_IMODE(suite.state_dir.stat().st_mode) == 0o700
    assert set(endpoints["pids"]) == set(FAKES)
    assert all(is_running(pid) for pid in endpoints["pids"].values())
    assert suite.stop() == 0
    assert not suite.endpoints_path.exists()
    assert not any(is_running(pid) for pid in endpoints["pids"].values())


def test_a_suite_stops_in_the_opposite_order_of_its_start(start_suite: StartSuite) -> None:
    suite = start_suite()
    suite.wait_up()
    assert suite.stop() == 0
    assert suite.journal[0] == "gateway"
    assert sorted(suite.journal[1:3]) == ["metering", "quota"]
    assert suite.journal[3:] == ["stripe"]


def test_a_process_that_does_not_heed_a_stop_is_killed_in_its_time(start_suite: StartSuite) -> None:
    suite = start_suite("stubborn")
    pid = suite.wait_up()["pids"]["quota"]
    suite.process.send_signal(signal.SIGTERM)
    assert suite.process.wait(timeout=STOP_SECONDS + 5) == 0
    assert not is_running(pid)


def test_children_die_when_their_parent_is_killed(start_suite: StartSuite) -> None:
    suite = start_suite()
    pids = suite.wait_up()["pids"]
    suite.kill()
    wait_until(lambda: not any(map(is_running, pids.values())), seconds=10, what="every child has ended")


def test_no_process_of_a_store_outlives_a_killed_suite(start_suite: StartSuite) -> None:
    suite = start_suite("stores")
    pids = suite.wait_up()["pids"]
    assert {"postgres", "redis"} < set(pids)
    assert len(working_below(suite.state_dir / "postgres")) > 1
    suite.kill()
    wait_until(lambda: not any(map(is_running, pids.values())), seconds=10, what="every child has ended")
    wait_until(lambda: not working_below(suite.state_dir), seconds=10, what="every grandchild has ended")


def test_a_suite_starts_at_once_after_it_was_killed(start_suite: StartSuite) -> None:
    killed = start_suite("stores")
    killed.wait_up()
    killed.kill()
    assert killed.endpoints_path.exists()
    suite = start_suite("stores", like=killed)
    wait_until(lambda: not suite.endpoints_path.exists(), seconds=20, what="the stale endpoints are removed")
    suite.wait_up()
    assert suite.stop() == 0
    assert not working_below(suite.state_dir)


def test_a_dead_service_is_restarted_on_its_port(start_suite: StartSuite) -> None:
    suite = start_suite()
    pid = suite.wait_up()["pids"]["quota"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: suite.endpoints()["pids"]["quota"] != pid, seconds=10, what="a new pid is published")
    wait_until(lambda: suite.answers("quota"), seconds=10, what="quota answers on its port")
    assert is_running(suite.endpoints()["pids"]["quota"])
    assert "quota ended (killed by SIGKILL); starting it again in 0.2 s" in suite.output


def test_a_dead_store_is_restarted_on_its_port_with_its_data(start_suite: StartSuite) -> None:
    suite = start_suite("stores")
    pids = suite.wait_up()["pids"]
    for name in ("postgres", "redis"):
        os.kill(pids[name], signal.SIGKILL)
    for name in ("postgres", "redis"):
        wait_until(
            lambda name=name: (
                _is_listening(suite.ports.number(name))  # type: ignore[misc]
                and suite.endpoints()["pids"][name] != pids[name]
            ),
            seconds=30,
            what=f"{name} is back",
        )
    assert suite.stop() == 0


def test_a_service_that_only_dies_ends_the_start_with_the_end_of_its_log(start_suite: StartSuite) -> None:
    suite = start_suite("broken")
    assert suite.process.wait(timeout=60) == 1
    assert "quota ended 6 times without becoming healthy, the last time with exit code 3" in suite.output
    assert "the fake is broken on purpose" in suite.output
    assert not suite.endpoints_path.exists()
    assert not _is_listening(suite.ports.number("gateway"))


def test_a_suite_that_is_not_healthy_in_time_stops_everything_and_names_who(start_suite: StartSuite) -> None:
    suite = start_suite("silent")
    assert suite.process.wait(timeout=60) == 1
    assert "not healthy after 8 s, waiting for: quota" in suite.output
    assert not suite.endpoints_path.exists()
    assert not any(_is_listening(suite.ports.number(name)) for name in FAKES)


def test_a_stop_during_the_start_leaves_nothing(start_suite: StartSuite) -> None:
    suite = start_suite("silent")
    wait_until(lambda: suite.answers("gateway"), seconds=30, what="the gateway answers")
    assert suite.stop() == 0
    assert not any(_is_listening(suite.ports.number(name)) for name in FAKES)


def test_refused_first_data_stops_the_start_with_the_reason(start_suite: StartSuite) -> None:
    suite = start_suite("refused")
    assert suite.process.wait(timeout=60) == 2
    assert "plans.yaml: no such meter" in suite.output
    assert not suite.endpoints_path.exists()


def test_second_up_on_the_same_state_is_refused(start_suite: StartSuite) -> None:
    suite = start_suite()
    before = suite.wait_up()
    second = start_suite(like=suite)
    assert second.process.wait(timeout=30) == 2
    assert f"in use by another `tollbook up` (pid {suite.process.pid})" in second.output
    assert suite.endpoints() == before


def test_port_in_use_is_named_before_anything_starts(tmp_path: Path) -> None:
    base = free_port_block(_PORTS)
    with socket.create_server(("127.0.0.1", Ports(base=base).number("quota"))):
        suite = FakeSuite(tmp_path / "state", base, "normal")
        assert suite.process.wait(timeout=30) == 2
    assert f"in use on 127.0.0.1: port {base + 2} (for quota)" in suite.output
    assert "starting" not in suite.output
    assert not (suite.state_dir / "logs").exists()


def test_every_port_in_use_is_named_at_once() -> None:
    ports = Ports(base=free_port_block(_PORTS))
    with (
        socket.create_server(("127.0.0.1", ports.number("gateway"))),
        socket.create_server(("127.0.0.1", ports.number("quota metrics"))),
        pytest.raises(Refused, match=rf"{ports.base} \(for gateway\), {ports.base + 12} \(for quota metrics\)"),
    ):
        refuse_ports_in_use(ports, ("gateway", "metering", "quota metrics"))


def test_ports_keep_their_documented_order() -> None:
    ports = Ports(base=7600)
    assert [ports.number(name) for name in ("gateway", *SERVICES)] == [7600, 7601, 7602, 7603, 7604, 7605]
    assert [ports.number(name) for name in ("postgres", "redis", "stripe", "mail")] == [
        7606,
        7607,
        7608,
        7609,
    ]
    assert [ports.number(f"{name} metrics") for name in ("gateway", *SERVICES)] == list(range(7610, 7616))


def test_secrets_are_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    made = load_or_create_secrets(path)
    assert load_or_create_secrets(path) == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert made.admin_key.startswith("tb_admin_")
    assert len(made.admin_key) == len("tb_admin_") + 43
    assert len(set(made.values.values())) == len(made.values)


def test_a_secret_that_a_kept_file_lacks_is_added_and_the_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    made = dict(load_or_create_secrets(path).values)
    del made["stripe_api_key"]
    path.write_text(json.dumps(made), encoding="utf-8")
    completed = load_or_create_secrets(path).values
    assert {name: value for name, value in completed.items() if name != "stripe_api_key"} == made
    assert completed["stripe_api_key"].startswith("sk_test_")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(
        ports=Ports(base=7600),
        secrets=load_or_create_secrets(tmp_path / "secrets.json"),
        state_dir=tmp_path,
        postgres_url="postgresql://tollbook:owner@127.0.0.1:7606/tollbook",
        redis_url="redis://:pw@127.0.0.1:7607/0",
        stripe=StripeAccess(api_key="sk_test_1", api_base="http://127.0.0.1:7608", webhook_secret="whsec_1"),
    )


def test_each_service_is_told_only_what_it_needs(site: Site) -> None:
    environments = {spec.name: spec.environment for spec in service_specs(site)}
    told = {
        name: {service for service, environment in environments.items() if name in environment}
        for name in ("TOLLBOOK_REDIS_URL", "STRIPE_API_KEY", "STRIPE_API_BASE", "TOLLBOOK_ADMIN_KEY_SHA256")
    }
    assert told == {
        "TOLLBOOK_REDIS_URL": {"quota"},
        "STRIPE_API_KEY": {"billing"},
        "STRIPE_API_BASE": {"billing"},
        "TOLLBOOK_ADMIN_KEY_SHA256": {"accounts"},
    }
    for name, environment in environments.items():
        assert environment["TOLLBOOK_POSTGRES_TENANT_URL"].startswith(f"postgresql://tollbook_{name}_tenant:")
        hashes = json.loads(environment["TOLLBOOK_SERVICE_KEY_HASHES"])
        assert set(hashes) == {*SERVICES, "gateway"}
        assert hashes[name] == sha256_hex(environment["TOLLBOOK_SERVICE_KEY"])


def test_no_process_is_given_the_owner_of_the_database_or_the_admin_key(site: Site) -> None:
    for spec in (*service_specs(site), gateway_spec(site), stand_in_spec(site)):
        told = "\n".join((*spec.environment.values(), *spec.command))
        assert "tollbook:owner@" not in told
        assert site.secrets.admin_key not in told


def test_quota_runs_as_many_processes_as_are_asked_for_on_one_port(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLBOOK_QUOTA_PROCESSES", "3")
    quotas = [spec for spec in service_specs(site) if spec.name.startswith("quota")]
    assert [spec.name for spec in quotas] == ["quota", "quota-2", "quota-3"]
    assert len({spec.environment["TOLLBOOK_LISTEN_ADDRESS"] for spec in quotas}) == 1
    assert [spec.environment["TOLLBOOK_METRICS_ADDRESS"] for spec in quotas[1:]] == ["127.0.0.1:0"] * 2
    assert len(service_specs(site)) == len(SERVICES) + 2


@pytest.mark.parametrize("number", ["0", "-1", "65", "two", ""])
def test_a_number_of_processes_that_is_none_is_refused(
    site: Site, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    monkeypatch.setenv("TOLLBOOK_QUOTA_PROCESSES", number)
    with pytest.raises(Refused, match="TOLLBOOK_QUOTA_PROCESSES"):
        service_specs(site)


def test_the_callers_environment_is_not_handed_on(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:1")
    monkeypatch.setenv("PGHOST", "elsewhere")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "traced")
    environment = service_specs(site)[0].environment
    assert not {"HTTP_PROXY", "PGHOST"} & set(environment)
    assert environment["OTEL_SERVICE_NAME"] == "traced"


@pytest.mark.parametrize("name", SERVICES)
def test_every_setting_of_a_service_follows_from_the_site_or_is_passed_on_and_documented(
    site: Site, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    variables = variables_of(name)
    without = {spec.name: spec.environment for spec in service_specs(site)}[name]
    for variable in variables:
        monkeypatch.setenv(variable, "the operator's")
    told = {spec.name: spec.environment for spec in service_specs(site)}[name]
    assert variables - told.keys() == set(), "set by the operator, and dropped without a word"
    chosen = {variable for variable in variables if told[variable] == "the operator's"}
    # Where the suite's own parts are is not for the operator to say; where mails go to is.
    places = chosen - {"TOLLBOOK_SMTP_URL"}
    assert not any(variable.endswith(("_KEY", "_URL", "_ADDRESS", "_SHA256", "_HASHES")) for variable in places)
    operations = (CHECKOUT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert [variable for variable in chosen if f"`{variable}`" not in operations] == []
    assert {variable for variable in variables - chosen if without[variable] != told[variable]} == set()


def variables_of(service: str) -> set[str]:
    """The variables that a service reads."""
    config = importlib.import_module(f"services.{service}.config")
    (settings,) = (
        each
        for each in vars(config).values()
        if isinstance(each, type) and issubclass(each, ServerSettings) and each.__module__ == config.__name__
    )
    return {str(field.validation_alias or f"TOLLBOOK_{name}".upper()) for name, field in settings.model_fields.items()}


@pytest.mark.parametrize(
    ("owner_url", "expected"),
    [
        ("postgresql://o:p@h:5/db?sslmode=require", "postgresql://r:s@h:5/db?sslmode=require"),
        ("postgresql://o:p%40@h1:1,h2:2/db", "postgresql://r:s@h1:1,h2:2/db"),
        ("postgresql://h/db?user=o&password=p&sslmode=require", "postgresql://r:s@h/db?sslmode=require"),
    ],
)
def test_a_roles_url_differs_from_the_owners_only_in_the_role(owner_url: str, expected: str) -> None:
    assert role_url(owner_url, "r", "s") == expected


def test_yaml_that_does_not_parse_is_refused_with_its_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "plans.yaml"
    path.write_text("plans:\n  - name: free\n  price: [1\n", encoding="utf-8")
    with pytest.raises(Refused, match=r"plans\.yaml:3:"):
        refuse_bad_plans(path)


def test_yaml_that_is_missing_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"plans\.yaml: No such file"):
        refuse_bad_plans(tmp_path / "plans.yaml")


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
