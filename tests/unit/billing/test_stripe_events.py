from __future__ import annotations

import json
from datetime import timedelta

import pytest

from kit.errors import InvalidField, LimitExceeded
from services.billing.domain.retries import retry_pause
from services.billing.domain.stripe_events import read_event


def body(**about: object) -> bytes:
    return json.dumps({"id": "evt_1", "type": "invoice.paid", "data": {"object": about}}).encode()


def test_an_event_names_its_object_and_waits_in_its_customers_lane() -> None:
    event = read_event(body(id="in_1", object="invoice", customer="cus_1"))
    assert (event.event_id, event.type, event.object_id, event.lane) == ("evt_1", "invoice.paid", "in_1", "cus_1")


def test_an_event_about_a_customer_waits_in_that_customers_lane() -> None:
    assert read_event(body(id="cus_1", object="customer")).lane == "cus_1"


def test_an_event_without_a_customer_waits_in_its_objects_lane() -> None:
    assert read_event(body(id="du_1", object="dispute", charge="ch_1")).lane == "du_1"
    assert read_event(body(id="in_1", object="invoice", customer={"id": "cus_1"})).lane == "in_1"


def test_an_event_about_nothing_waits_for_nobody() -> None:
    assert read_event(b'{"id": "evt_1", "type": "ping"}').lane == "evt_1"


def test_a_thin_event_is_refused_by_name() -> None:
    thin = {"id": "evt_1", "object": "v2.core.event", "type": "v1.billing.meter.error_report_triggered"}
    with pytest.raises(InvalidField, match="thin"):
        read_event(json.dumps(thin).encode())


@pytest.mark.parametrize(
    "payload",
    [b"", b"[", b"[]", b"null", b"{}", b'{"id": 1, "type": "x"}', b'{"id": "evt_1"}', b"\xff", b"[" * 100_000],
)
def test_what_is_no_event_is_refused(payload: bytes) -> None:
    with pytest.raises(InvalidField, match="payload"):
        read_event(payload)


def test_a_body_above_a_mebibyte_is_refused() -> None:
    with pytest.raises(LimitExceeded):
        read_event(b" " * (1024 * 1024 + 1))


def test_pauses_double_up_to_an_hour_and_stay_there() -> None:
    assert [retry_pause(n).total_seconds() for n in (1, 2, 3, 11)] == [1, 2, 4, 1024]
    assert {retry_pause(n) for n in (13, 100, 10_000)} == {timedelta(hours=1)}
