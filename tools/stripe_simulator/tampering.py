"""Development controls that change an object behind everybody's back: what reconciling has to find.

They ask nothing, tell nobody, and leave the object as inconsistent as they are told to.
"""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from pydantic import JsonValue, TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tools.stripe_simulator import lists
from tools.stripe_simulator.controls import problems_of
from tools.stripe_simulator.older_shapes import before as merged
from tools.stripe_simulator.store import Store, StripeObject

_FIELDS = TypeAdapter(dict[str, JsonValue])


def routes(*, store: Store, require_key: Callable[[Request], None]) -> list[Route]:
    """POST and DELETE /_simulator/objects/{id}."""

    async def change(request: Request) -> Response:
        """Merges the JSON body into the object; of a nested object only what is named changes, a list changes whole."""
        require_key(request)
        try:
            fields: Any = _FIELDS.validate_json(await request.body())
        except ValidationError as error:
            return problems_of(error)
        with store.transaction():
            body = store.get(request.path_params["id"])
            if body is None:
                return _missing()
            changed = merged(body, fields)
            store.replace(changed)
            _show_lines(store, changed)
        return JSONResponse(changed)

    async def remove(request: Request) -> Response:
        """Forgets the object, which then never was; a line leaves its invoice, whose totals stay."""
        require_key(request)
        with store.transaction():
            body = store.get(request.path_params["id"])
            if body is None:
                return _missing()
            store.unplan(body["id"])
            store.remove(body["id"])
            _show_lines(store, body)
        return JSONResponse(body)

    return [
        Route("/_simulator/objects/{id}", change, methods=["POST"]),
        Route("/_simulator/objects/{id}", remove, methods=["DELETE"]),
    ]


def _show_lines(store: Store, body: StripeObject) -> None:
    """An invoice shows its first lines as they are now."""
    invoice = store.get(body["invoice"]) if body["object"] == "line_item" else None
    if invoice is not None:
        lines = list(store.oldest_first("line_item", owner=invoice["id"]))
        invoice["lines"] |= {"data": lines[: lists.PAGE_SIZE], "has_more": len(lines) > lists.PAGE_SIZE}
        store.replace(invoice)


def _missing() -> Response:
    return JSONResponse({"problems": ["there is no such object"]}, HTTPStatus.NOT_FOUND)
