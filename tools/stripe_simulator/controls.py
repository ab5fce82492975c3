"""Development controls under /_simulator: not Stripe's, for whoever wants to see things go wrong.

They take the same API key as Stripe's own URLs.
"""

import itertools
from collections.abc import Callable
from dataclasses import asdict
from http import HTTPStatus

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tools.stripe_simulator.faults import FaultPlan, Faults, TooManyFaults
from tools.stripe_simulator.store import Store

_EVENTS_MAX = 1_000


def routes(
    *,
    store: Store,
    faults: Faults,
    wake: Callable[[], None],
    require_key: Callable[[Request], None],
) -> list[Route]:
    """GET, POST and DELETE /_simulator/faults, and GET /_simulator/events."""

    def in_force() -> Response:
        return JSONResponse(
            {
                "calls": [fault.model_dump() for fault in faults.calls],
                "webhooks": faults.webhooks.model_dump(),
            }
        )

    async def show_faults(request: Request) -> Response:
        require_key(request)
        return in_force()

    async def inject_faults(request: Request) -> Response:
        require_key(request)
        try:
            faults.inject(FaultPlan.model_validate_json(await request.body()))
        except ValidationError as error:
            return problems_of(error)
        except TooManyFaults as error:
            return JSONResponse({"problems": [error.__doc__]}, HTTPStatus.BAD_REQUEST)
        wake()
        return in_force()

    async def clear_faults(request: Request) -> Response:
        require_key(request)
        faults.clear()
        wake()
        return in_force()

    async def show_events(request: Request) -> Response:
        """The newest events, each with how far its delivery got (null: nobody receives)."""
        require_key(request)
        found = itertools.islice(store.newest_first("event"), _EVENTS_MAX)
        entries = [(event, store.delivery(event["id"])) for event in found]
        return JSONResponse(
            {
                "events": [
                    {"event": event, "delivery": None if delivery is None else asdict(delivery)}
                    for event, delivery in entries
                ]
            }
        )

    return [
        Route("/_simulator/faults", show_faults, methods=["GET"]),
        Route("/_simulator/faults", inject_faults, methods=["POST"]),
        Route("/_simulator/faults", clear_faults, methods=["DELETE"]),
        Route("/_simulator/events", show_events, methods=["GET"]),
    ]


def problems_of(error: ValidationError) -> Response:
    """What is wrong with a control's body."""
    problems = error.errors(include_url=False, include_context=False)
    return JSONResponse({"problems": problems}, HTTPStatus.BAD_REQUEST)
