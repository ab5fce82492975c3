"""Neither side is invented: each operation of the stand-in is called as Stripe allows, and answers as Stripe does.

One story calls every operation. The harness holds each answer and each event against Stripe's OpenAPI document; here
the same calls go to Stripe's own mock server, and the objects are held against the classes of the Stripe library in
use, whose API version is newer than the document's.
"""

from __future__ import annotations

import ast
import asyncio
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import httpx
import pytest
from stripe._object_classes import OBJECT_CLASSES, get_object_class

from tests.integration.stripe_stand_in import form_fields, running_stand_in
from tests.integration.stripe_story import tell
from tests.stripe_openapi import stripe_openapi
from tools.stripe_simulator.operations import Operation
from tools.stripe_simulator.registry import OPERATIONS

SOURCES = Path(__file__).resolve().parents[2] / "tools" / "stripe_simulator"

EVERY_OPERATION = pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: f"{each.method} {each.path}")


@dataclass(frozen=True, kw_only=True)
class Story:
    """What was called, every object that was answered or told of, and by which events."""

    calls: list[Any]
    objects: list[Any]
    event_types: set[str]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    async def told(folder: Path) -> Story:
        async with running_stand_in(folder) as stripe:
            await tell(stripe)
            events = await stripe.events()
            return Story(
                calls=stripe.calls,
                objects=[*stripe.answers, *(event["data"]["object"] for event in events)],
                event_types={event["type"] for event in events},
            )

    return asyncio.run(told(tmp_path_factory.mktemp("stripe")))


@EVERY_OPERATION
def test_every_operation_is_called_and_its_answer_is_valid(story: Story, operation: Operation) -> None:
    assert (operation.method, operation.path) in {(call.method, call.template) for call in story.calls}


@EVERY_OPERATION
def test_stripes_own_mock_accepts_the_same_calls(story: Story, operation: Operation, stripe_mock: str) -> None:
    headers = {"Authorization": "Bearer sk_test_mock", "Content-Type": "application/x-www-form-urlencoded"}
    with httpx.Client(base_url=stripe_mock, headers=headers, trust_env=False) as mock:
        for call in story.calls:
            if (call.method, call.template) != (operation.method, operation.path):
                continue
            fields = dict(form_fields(call.params))
            sent: dict[str, Any] = {"data": fields} if call.method == "POST" else {"params": fields}
            answer = mock.request(call.method, call.path, **sent)
            assert answer.status_code == 200, (call, answer.text)


def test_every_event_that_it_can_make_is_told_of(story: Story) -> None:
    named = {
        node.value
        for source in SOURCES.rglob("*.py")
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert (named & stripe_openapi().event_types) - {"*"} - story.event_types == set()


def test_every_object_has_the_fields_that_stripes_library_declares(story: Story) -> None:
    problems = set()
    for body in story.objects:
        for part in _parts(body):
            if part["object"] in OBJECT_CLASSES and not part.get("deleted"):
                problems |= set(shape_problems(part, get_object_class("V1", part["object"])))
    assert problems == set()


def _parts(body: Any) -> list[Any]:
    """The object, and all objects within it."""
    found = []
    if isinstance(body, dict):
        if isinstance(body.get("object"), str) and body["object"] != "list":
            found.append(body)
        for value in body.values():
            found += _parts(value)
    if isinstance(body, list):
        for value in body:
            found += _parts(value)
    return found


def shape_problems(body: dict[str, Any], stripe_type: Any) -> list[str]:
    """Fields that the library's class does not know, and fields that it says are always there and are not."""
    hints = stripe_type.__annotations__
    declared = {name: hint for name, hint in hints.items() if name.islower() and not name.startswith("_")}
    problems = [f"{name}: unknown to {stripe_type.__name__}" for name in body.keys() - declared.keys()]
    for name, annotation in declared.items():
        optional = get_origin(annotation) in {Union, types.UnionType} and type(None) in get_args(annotation)
        if not optional and body.get(name) is None:
            problems.append(f"{name}: missing from {stripe_type.__name__}")
    for name, inner in stripe_type._inner_class_types.items():
        values = body.get(name)
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, dict) and inner.__annotations__:
                problems += shape_problems(value, inner)
    return problems


def test_an_invented_field_a_missing_one_and_a_wrong_type_are_found() -> None:
    valid: dict[str, Any] = {
        "object": "invoice_payment",
        "id": "inpay_1",
        "amount_paid": None,
        "amount_requested": 5,
        "created": 1,
    }
    valid |= {"currency": "usd", "invoice": "in_1", "is_default": True, "livemode": False, "status": "open"}
    valid |= {"payment": {"type": "payment_intent", "payment_intent": "pi_1"}, "status_transitions": {}}
    openapi = stripe_openapi()
    assert openapi.object_problems(valid) == []
    assert openapi.object_problems(valid | {"invented": 1}) != []
    assert openapi.object_problems(valid | {"amount_requested": "5"}) != []
    assert openapi.object_problems(valid | {"amount_requested": None}) != []
    assert openapi.object_problems(valid | {"payment": {"type": "wish"}}) != []
    assert openapi.object_problems({name: value for name, value in valid.items() if name != "invoice"}) != []
    assert openapi.answer_problems("GET", "/v1/unicorns", {}) != []


def test_the_mock_refuses_a_parameter_that_stripe_does_not_have(stripe_mock: str) -> None:
    headers = {"Authorization": "Bearer sk_test_mock"}
    answer = httpx.post(f"{stripe_mock}/v1/customers", headers=headers, data={"nmae": "Acme"}, trust_env=False)
    assert answer.status_code == 400
