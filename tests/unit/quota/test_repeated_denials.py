"""What a question is known by, byte for byte."""

from __future__ import annotations

import pytest

from kit.grpc.call import CallerKind, Principal
from services.quota.rpc.repeated_denials import RepeatedDenial, RepeatedDenials
from tollbook.metering.v1 import metering_pb2
from tollbook.quota.v1 import quota_pb2

ACME = Principal(CallerKind.TENANT, "key-1", "acme")


def sent(request_id: str = "", quantity: int = 1) -> bytes:
    return quota_pb2.CheckRequest(
        request_id=request_id,
        subject=metering_pb2.Subject(task_id="task-1"),
        consumptions=[quota_pb2.Consumption(meter="agent_minutes", quantity=quantity)],
    ).SerializeToString()


def test_requests_that_differ_by_their_ids_alone_are_the_same_question() -> None:
    denials = RepeatedDenials()
    assert denials.key(ACME, sent("a")) == denials.key(ACME, sent("another"))


@pytest.mark.parametrize(
    ("one", "other"),
    [(sent("a"), sent()), (sent("a"), sent("a", quantity=2)), (sent(), sent(quantity=2)), (sent(), b"")],
)
def test_requests_of_other_content_or_without_an_id_are_other_questions(one: bytes, other: bytes) -> None:
    denials = RepeatedDenials()
    assert denials.key(ACME, one) != denials.key(ACME, other)


def test_another_caller_asks_another_question() -> None:
    denials, other = RepeatedDenials(), Principal(CallerKind.TENANT, "key-2", "acme")
    assert denials.key(ACME, sent("a")) != denials.key(other, sent("a"))


@pytest.mark.parametrize("data", [sent("no id/"), sent("a" * 128), sent("a")[:2], b"\n\xff", b"\n"])
def test_an_id_that_is_none_and_bytes_that_end_early_are_read(data: bytes) -> None:
    denials = RepeatedDenials()
    key = denials.key(ACME, data)
    assert key is None or not key[2]


def test_a_denial_that_no_longer_holds_is_forgotten() -> None:
    denials = RepeatedDenials()
    key = denials.key(ACME, sent("a"))
    assert key is not None
    holds = True
    denials.keep(key, RepeatedDenial(b"denied", (), lambda: holds))
    assert denials.find(key) is not None
    holds = False
    assert denials.find(key) is None
    holds = True
    assert denials.find(key) is None


def test_requests_and_answers_of_any_length_are_not_remembered() -> None:
    denials = RepeatedDenials()
    unknown_field = b"\xc2\x3e\xff\x7f" + b"x" * 16_383
    assert quota_pb2.CheckRequest.FromString(sent("a") + unknown_field).request_id == "a"
    assert denials.key(ACME, sent("a") + unknown_field) is None
    assert denials.key(ACME, sent() + unknown_field) is None
    key = denials.key(ACME, sent("a"))
    assert key is not None
    denials.keep(key, RepeatedDenial(b"x" * 10_000, (), lambda: True))
    assert denials.find(key) is None
