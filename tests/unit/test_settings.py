from __future__ import annotations

import json

import pytest

from kit.grpc.server import ServerSettings
from kit.settings import EXIT_BAD_SETTINGS, load

GOOD = {
    "TOLLBOOK_LISTEN_ADDRESS": "127.0.0.1:7601",
    "TOLLBOOK_METRICS_ADDRESS": "127.0.0.1:7611",
    "TOLLBOOK_SERVICE_KEY": "tb_service_" + "s" * 43,
    "TOLLBOOK_SERVICE_KEY_HASHES": json.dumps({"quota": "0" * 64}),
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOLLBOOK_LOG_LEVEL", raising=False)
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("level", ["INFO", "debug"])
def test_a_level_of_logs_is_taken_in_either_case(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLBOOK_LOG_LEVEL", level)
    assert load(ServerSettings).log_level == level


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOLLBOOK_LISTEN_ADDRESS", "nowhere"),
        ("TOLLBOOK_LOG_LEVEL", "loud"),
        ("TOLLBOOK_SERVICE_KEY", "hunter2"),
        ("TOLLBOOK_SERVICE_KEY_HASHES", "{hunter2"),
        ("TOLLBOOK_SERVICE_KEY_HASHES", '{"quota": "hunter2"}'),
    ],
)
def test_a_bad_setting_is_named_and_its_value_is_not_shown(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stopped:
        load(ServerSettings)
    assert stopped.value.code == EXIT_BAD_SETTINGS
    said = capsys.readouterr().err
    assert name.removeprefix("TOLLBOOK_").lower() in said.lower()
    assert "hunter2" not in said
