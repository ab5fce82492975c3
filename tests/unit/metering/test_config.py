"""What metering reads from its environment."""

from __future__ import annotations

import pytest

from kit.settings import load
from services.metering.config import CloudEventMeter, MeteringSettings
from services.metering.domain.validation import LABEL_KEYS

ENVIRONMENT = {
    "TOLLBOOK_LISTEN_ADDRESS": "127.0.0.1:1",
    "TOLLBOOK_METRICS_ADDRESS": "127.0.0.1:2",
    "TOLLBOOK_SERVICE_KEY": "tb_service_" + "x" * 32,
    "TOLLBOOK_SERVICE_KEY_HASHES": "{}",
    "TOLLBOOK_POSTGRES_TENANT_URL": "postgresql://x",
    "TOLLBOOK_POSTGRES_WRITER_URL": "postgresql://x",
    "TOLLBOOK_POSTGRES_FLEET_URL": "postgresql://x",
    "TOLLBOOK_ACCOUNTS_ADDRESS": "127.0.0.1:3",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def test_no_foreign_type_of_cloudevents_is_counted_unless_it_is_configured() -> None:
    assert load(MeteringSettings).cloudevent_meters == {}


def test_foreign_types_of_cloudevents_are_configured_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    said = '{"request": {"meter": "api_calls"}, "tokens": {"meter": "tokens_output", "value": "n"}}'
    monkeypatch.setenv("TOLLBOOK_CLOUDEVENT_METERS", said)
    assert load(MeteringSettings).cloudevent_meters == {
        "request": CloudEventMeter(meter="api_calls"),
        "tokens": CloudEventMeter(meter="tokens_output", value="n"),
    }


@pytest.mark.parametrize(
    "said", ['{"request": {}}', '{"request": {"meter": "m", "factor": 2}}', '{"request": "api_calls"}']
)
def test_a_mapping_that_is_not_understood_stops_the_service(
    said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOLLBOOK_CLOUDEVENT_METERS", said)
    with pytest.raises(SystemExit):
        load(MeteringSettings)
    assert "TOLLBOOK_CLOUDEVENT_METERS" in capsys.readouterr().err


def test_label_keys_are_the_usual_ones_unless_they_are_listed() -> None:
    assert load(MeteringSettings).label_keys == LABEL_KEYS


@pytest.mark.parametrize(
    ("listed", "keys"),
    [("region", {"region"}), (" region , tier_2 ", {"region", "tier_2"}), ("", set()), (" ", set())],
    ids=["one", "several", "empty", "blank"],
)
def test_label_keys_are_listed_with_commas(monkeypatch: pytest.MonkeyPatch, listed: str, keys: set[str]) -> None:
    monkeypatch.setenv("TOLLBOOK_LABEL_KEYS", listed)
    assert load(MeteringSettings).label_keys == keys


@pytest.mark.parametrize(
    "listed",
    ["Region", "a,,b", "a b", "_a", "a" * 64, '["a"]', ",".join(f"key{number}" for number in range(65))],
    ids=["capital", "empty_between", "space", "underscore_first", "too_long", "json", "too_many"],
)
def test_a_bad_list_of_label_keys_is_named_at_the_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], listed: str
) -> None:
    monkeypatch.setenv("TOLLBOOK_LABEL_KEYS", listed)
    with pytest.raises(SystemExit):
        load(MeteringSettings)
    assert "bad setting TOLLBOOK_LABEL_KEYS" in capsys.readouterr().err


def test_raw_events_are_kept_for_90_days_and_archived_nowhere_unless_it_is_set() -> None:
    settings = load(MeteringSettings)
    assert (settings.retention_days, settings.archive_dir) == (90, None)
    assert settings.retention_followers == ("analytics", "billing")


@pytest.mark.parametrize(
    ("listed", "followers"), [("", ()), ("billing", ("billing",)), (" billing , analytics ", ("billing", "analytics"))]
)
def test_who_must_have_passed_raw_events_is_listed_with_commas(
    monkeypatch: pytest.MonkeyPatch, listed: str, followers: tuple[str, ...]
) -> None:
    monkeypatch.setenv("TOLLBOOK_RETENTION_FOLLOWERS", listed)
    assert load(MeteringSettings).retention_followers == followers


@pytest.mark.parametrize(
    ("name", "said"),
    [("RETENTION_DAYS", "39"), ("RETENTION_FOLLOWERS", "quota"), ("RETENTION_FOLLOWERS", "billing,,analytics")],
)
def test_a_retention_that_could_lose_usage_stops_the_service(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    monkeypatch.setenv(f"TOLLBOOK_{name}", said)
    with pytest.raises(SystemExit):
        load(MeteringSettings)
    assert f"bad setting TOLLBOOK_{name}" in capsys.readouterr().err
