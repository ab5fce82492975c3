"""Development controls of time: everybody's clock, and what dunning does as it passes."""

from collections.abc import Callable

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tools.stripe_simulator import dunning
from tools.stripe_simulator.controls import problems_of
from tools.stripe_simulator.simulated_time import SimulatedTime
from tools.stripe_simulator.store import Store
from tools.stripe_simulator.timekeeper import Timekeeper

# Two years, as far as a test clock goes for a yearly price.
_ADVANCE_SECONDS_MAX = 2 * 366 * 86_400


class ClockMove(BaseModel):
    """How far everybody's time is moved forward."""

    model_config = ConfigDict(extra="forbid")

    advance_seconds: int = Field(gt=0, le=_ADVANCE_SECONDS_MAX)


def routes(
    *,
    store: Store,
    time: SimulatedTime,
    timekeeper: Timekeeper,
    wake: Callable[[], None],
    require_key: Callable[[Request], None],
) -> list[Route]:
    """GET and POST /_simulator/clock and /_simulator/dunning."""

    async def show_clock(request: Request) -> Response:
        require_key(request)
        return JSONResponse({"now": int(time.now().timestamp())})

    async def advance_clock(request: Request) -> Response:
        """Moves everybody's time; what fell due meanwhile is done when this answers."""
        require_key(request)
        try:
            move = ClockMove.model_validate_json(await request.body())
        except ValidationError as error:
            return problems_of(error)
        with store.transaction():
            time.advance(move.advance_seconds)
            timekeeper.work_off()
        wake()
        return JSONResponse({"now": int(time.now().timestamp())})

    async def show_dunning(request: Request) -> Response:
        require_key(request)
        return JSONResponse(dunning.in_force(store).model_dump(mode="json"))

    async def set_dunning(request: Request) -> Response:
        require_key(request)
        try:
            settings = dunning.DunningSettings.model_validate_json(await request.body())
        except ValidationError as error:
            return problems_of(error)
        with store.transaction():
            dunning.put_in_force(store, settings)
        return JSONResponse(settings.model_dump(mode="json"))

    return [
        Route("/_simulator/clock", show_clock, methods=["GET"]),
        Route("/_simulator/clock", advance_clock, methods=["POST"]),
        Route("/_simulator/dunning", show_dunning, methods=["GET"]),
        Route("/_simulator/dunning", set_dunning, methods=["POST"]),
    ]
