"""Stripe's OpenAPI document, as stripe-mock carries it: what the stand-in's answers and events are held against."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from typing import Any, TypeAlias

from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from tests.stripe_mock import built_stripe_mock

Schema: TypeAlias = dict[str, Any]

_DOCUMENT = "urn:stripe"
_PATH_PARAMETER = re.compile(r"\{[^}]*\}")
_PROBLEMS_MAX = 20

# What Stripe answers and its library declares, and its document leaves out or is too old for.
_LEFT_OUT: dict[str, tuple[str, ...]] = {
    "dispute_evidence_details": ("submission_method",),
    "portal_features": ("subscription_pause",),
    "product": ("type",),
    "recurring": ("trial_period_days",),
    "subscription_item": ("plan",),
}


@dataclass(frozen=True, kw_only=True)
class OpenApi:
    """The document, read once."""

    api_version: str
    event_types: frozenset[str]
    """What a webhook endpoint can be told of."""
    operations: dict[tuple[str, str], Schema]
    """The schema of the answer to a method of a path, whose parameters are all written `{}`."""
    kinds: dict[str, str]
    """From what an object calls itself to the name of its schema."""
    registry: Registry[Any]

    def answer_problems(self, method: str, path: str, body: Any) -> list[str]:
        """What is wrong with the answer to an operation (`path` as `/v1/invoices/{id}`); none when it is valid."""
        schema = self.operations.get((method, _PATH_PARAMETER.sub("{}", path)))
        return [f"{method} {path} is no operation of Stripe's"] if schema is None else self._problems(schema, body)

    def object_problems(self, body: Any) -> list[str]:
        """What is wrong with an object by the schema of the kind that it says it is."""
        kind = body.get("object")
        if kind not in self.kinds:
            return [f"{kind} is no kind of object of Stripe's"]
        return self._problems({"$ref": f"{_DOCUMENT}#/components/schemas/{self.kinds[kind]}"}, body)

    def error_problems(self, body: Any) -> list[str]:
        """What is wrong with the answer to a call that failed."""
        return self._problems({"$ref": f"{_DOCUMENT}#/components/schemas/error"}, body)

    def event_problems(self, event: Any) -> list[str]:
        """What is wrong with an event, or with the object that it holds."""
        problems = self.object_problems(event) + self.object_problems(event["data"]["object"])
        if event["type"] not in self.event_types:
            problems.append(f"{event['type']} is no type of event of Stripe's")
        return problems

    def _problems(self, schema: Schema, body: Any) -> list[str]:
        errors = Draft202012Validator(schema, registry=self.registry).iter_errors(body)
        return [f"{error.json_path}: {error.message}" for _, error in zip(range(_PROBLEMS_MAX), errors, strict=False)]


@functools.cache
def stripe_openapi() -> OpenApi:
    """The document of the stripe-mock in use."""
    document = json.loads((built_stripe_mock() / "openapi.json").read_bytes())
    schemas = {name: _strict(schema) for name, schema in document["components"]["schemas"].items()}
    for name, fields in _LEFT_OUT.items():
        schemas[name]["properties"] |= {field: {} for field in fields}
    contents = {"components": {"schemas": schemas}}
    resource = DRAFT202012.create_resource(contents)
    hooks = document["paths"]["/v1/webhook_endpoints"]["post"]["requestBody"]["content"]
    enabled = hooks["application/x-www-form-urlencoded"]["schema"]["properties"]["enabled_events"]
    return OpenApi(
        api_version=document["info"]["version"],
        event_types=frozenset(enabled["items"]["enum"]),
        operations={
            (method.upper(), _PATH_PARAMETER.sub("{}", path)): _strict(
                operation["responses"]["200"]["content"]["application/json"]["schema"]
            )
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
            if "application/json" in operation["responses"]["200"]["content"]
        },
        kinds=_kinds(document["components"]["schemas"]),
        registry=Registry().with_resource(_DOCUMENT, resource),
    )


def _kinds(schemas: dict[str, Schema]) -> dict[str, str]:
    """A live object's schema says that it is not deleted by being the one with an id of its own resource."""
    found = {}
    for name, schema in schemas.items():
        kinds = schema.get("properties", {}).get("object", {}).get("enum", [])
        if len(kinds) == 1 and "x-resourceId" in schema and not name.startswith("deleted_"):
            found[kinds[0]] = name
    return found


def _strict(schema: Any) -> Any:
    """The same schema as JSON Schema says it, and closed: a field that Stripe does not know is an error.

    OpenAPI 3.0 writes a type or null as `nullable`, and names components from the document's root.
    """
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return {"$ref": f"{_DOCUMENT}{schema['$ref']}"}
    strict = {
        name: {key: _strict(part) for key, part in value.items()} if name == "properties" else _strict(value)
        for name, value in schema.items()
        if not name.startswith("x-") and name not in {"description", "nullable", "title"}
    }
    if "properties" in strict:
        strict.setdefault("additionalProperties", False)
    # Null first: it is the quicker one to try.
    return {"anyOf": [{"type": "null"}, strict]} if schema.get("nullable") else strict
