"""The HTTP face: authentication, parameters, faults and idempotency around every operation of every resource."""

import asyncio
import contextlib
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from http import HTTPStatus
from urllib.parse import parse_qsl

import structlog
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from kit.clock import Clock
from tools.stripe_simulator import controls, forms, tampering, time_controls
from tools.stripe_simulator.delivery import WebhookSender
from tools.stripe_simulator.errors import StripeError, api_error, unauthorized, unknown_url
from tools.stripe_simulator.events import API_VERSION, API_VERSION_MIN
from tools.stripe_simulator.expansion import expand
from tools.stripe_simulator.faults import CallFault, Faults
from tools.stripe_simulator.idempotency import IdempotencyKeys, digest_of
from tools.stripe_simulator.ids import new_id
from tools.stripe_simulator.operations import Call, Operation
from tools.stripe_simulator.params import Params
from tools.stripe_simulator.registry import CONTROLS, OPERATIONS, TASKS
from tools.stripe_simulator.simulated_time import SimulatedTime, time_of_call
from tools.stripe_simulator.store import SavedAnswer, Store, StripeObject
from tools.stripe_simulator.timekeeper import Timekeeper

# A call with 250 lines, each with all of its fields, is a tenth of this.
_BODY_BYTES_MAX = 1024 * 1024

_log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """One request, read: who asks what."""

    method: str
    path: str
    fields: list[tuple[str, str]]
    request_id: str
    version: str
    key: str | None


class Api:
    """Answers Stripe's API from the store."""

    def __init__(
        self,
        *,
        store: Store,
        time: SimulatedTime,
        faults: Faults,
        api_key: SecretStr,
        timekeeper: Timekeeper,
        sender: WebhookSender | None,
        card_on_file: str,
    ) -> None:
        self._card_on_file = card_on_file
        self._store = store
        self._time = time
        self._faults = faults
        self._api_key = api_key
        self._timekeeper = timekeeper
        self._sender = sender
        self._keys = IdempotencyKeys(store, time)

    def require_key(self, request: Request) -> None:
        """Raises unauthorized unless the request carries the API key."""
        scheme, _, presented = request.headers.get("authorization", "").partition(" ")
        expected = self._api_key.get_secret_value()
        bearer = scheme.lower() == "bearer"
        if not bearer or not hmac.compare_digest(presented.encode(), expected.encode()):
            raise unauthorized(presented if bearer else "")

    def endpoint(self, operation: Operation) -> Callable[[Request], Awaitable[Response]]:
        """The operation as Starlette calls it."""

        async def answer(request: Request) -> Response:
            request_id = new_id("request")
            version = request.headers.get("stripe-version", API_VERSION)
            key = request.headers.get("idempotency-key") if operation.method == "POST" else None
            try:
                self.require_key(request)
                _check_version(version)
                asked = _Asked(
                    method=operation.method,
                    path=request.url.path,
                    fields=await _fields(request),
                    request_id=request_id,
                    version=version,
                    key=key,
                )
                answer = await self._answer(operation, request, asked)
            except StripeError as error:
                answer = _answer(error.body(), status=error.status, request_id=request_id)
            _log.info(
                "call_answered",
                method=operation.method,
                path=request.url.path,
                status=answer.status,
                request_id=request_id,
                replayed=answer.request_id != request_id,
            )
            return _response(answer, request_id=request_id, version=version, key=key)

        return answer

    async def _answer(self, operation: Operation, request: Request, asked: _Asked) -> SavedAnswer:
        with self._keys.claim(asked.key):
            fault = self._faults.take(asked.method, asked.path)
            if fault is not None:
                await fault.strike()
            answer = self._run(operation, dict(request.path_params), asked, fault)
        if operation.method != "GET":
            self.wake()
        if fault is not None and fault.kind == "timeout_after_success":
            await _say_nothing(request, seconds=fault.seconds)
            raise api_error(saved=False)
        return answer

    def wake(self) -> None:
        """There may be something to deliver, or something planned."""
        self._timekeeper.wake()
        if self._sender is not None:
            self._sender.wake()

    def _run(self, operation: Operation, path: dict[str, str], asked: _Asked, fault: CallFault | None) -> SavedAnswer:
        """Does the work in one transaction, or answers what it was answered the first time."""
        endpoint, digest = f"{asked.method} {asked.path}", digest_of(asked.fields)
        with self._store.transaction():
            if asked.key is not None:
                first = self._keys.first_answer(asked.key, endpoint=endpoint, digest=digest)
                if first is not None:
                    return first
            saved = True
            self._store.begin_work()
            try:
                if fault is not None:
                    fault.fail_work()
                body, status = self._perform(operation, path, asked), HTTPStatus.OK
            except StripeError as error:
                if not error.keeps_effects:
                    self._store.undo_work()
                body, status, saved = error.body(), HTTPStatus(error.status), error.saved
            answer = replace(
                _answer(body, status=status, request_id=asked.request_id), endpoint=endpoint, digest=digest
            )
            if asked.key is not None and saved:
                self._keys.keep(asked.key, answer)
        return answer

    def _perform(self, operation: Operation, path: dict[str, str], asked: _Asked) -> StripeObject:
        tree = forms.decode(asked.fields)
        params = Params(tree)
        paths = params.texts("expand")
        now = int(self._time.now().timestamp())
        call = Call(
            store=self._store,
            params=params,
            path=path,
            now=time_of_call(self._store, path=path, params=tree, now=now),
            real_now=self._time.real_now().timestamp(),
            request_id=asked.request_id,
            idempotency_key=asked.key,
            sends_webhooks=self._sender is not None,
            tasks=TASKS,
            card_on_file=self._card_on_file,
        )
        return expand(self._store, operation.handle(call), paths)


def make_app(
    *,
    store: Store,
    clock: Clock,
    api_key: SecretStr,
    webhook_url: str | None = None,
    webhook_secret: str = "",
    card_on_file: str = "",
) -> Starlette:
    """The simulator as an ASGI application; while its lifespan runs it delivers webhooks and does what falls due.

    Then it closes the store.
    """
    faults = Faults()
    time = SimulatedTime(store, clock)
    sender = None
    if webhook_url is not None:
        sender = WebhookSender(store, clock, faults, url=webhook_url, secret=webhook_secret)
    timekeeper = Timekeeper(store, time, TASKS, sender)
    running: set[asyncio.Task[None]] = set()
    api = Api(
        store=store,
        time=time,
        faults=faults,
        api_key=api_key,
        timekeeper=timekeeper,
        sender=sender,
        card_on_file=card_on_file,
    )

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        running.add(asyncio.create_task(timekeeper.run()))
        if sender is not None:
            running.add(asyncio.create_task(sender.run()))
        try:
            yield
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            store.close()

    async def healthz(_: Request) -> Response:
        if any(task.done() for task in running):
            return JSONResponse({"status": "webhooks are not delivered, or time stands still"}, 503)
        return JSONResponse({"status": "ok"})

    return Starlette(
        routes=[
            *(
                Route(operation.path, api.endpoint(operation), methods=[operation.method])
                for operation in (*OPERATIONS, *CONTROLS)
            ),
            *controls.routes(store=store, faults=faults, wake=api.wake, require_key=api.require_key),
            *time_controls.routes(
                store=store, time=time, timekeeper=timekeeper, wake=api.wake, require_key=api.require_key
            ),
            *tampering.routes(store=store, require_key=api.require_key),
            Route("/healthz", healthz),
        ],
        exception_handlers={
            HTTPException: _refuse,
            StripeError: _refuse,
            Exception: _confess,
        },
        lifespan=lifespan,
    )


async def _refuse(request: Request, error: Exception) -> Response:
    """An error of a control's, or no such URL, or no such method of it: the last two are one to Stripe."""
    if isinstance(error, StripeError):
        refusal = error
    elif isinstance(error, HTTPException) and error.status_code not in {404, 405}:
        refusal = StripeError(str(error.detail), status=error.status_code)
    else:
        refusal = unknown_url(request.method, request.url.path)
    return JSONResponse(refusal.body(), status_code=refusal.status)


async def _confess(_: Request, error: Exception) -> Response:
    """A defect of the simulator itself, logged with its traceback by the server."""
    _log.error("call_failed", error=type(error).__name__)
    refusal = api_error(saved=False)
    return JSONResponse(refusal.body(), status_code=refusal.status)


def _check_version(version: str) -> None:
    if version < API_VERSION_MIN:
        message = f"This simulator has the shapes of API version {API_VERSION_MIN} and later, not of {version}."
        raise StripeError(message, saved=False)


async def _fields(request: Request) -> list[tuple[str, str]]:
    encoded = request.url.query
    if request.method == "POST":
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _BODY_BYTES_MAX:
                raise StripeError("The request is too large.", status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        encoded = "&".join(filter(None, (encoded, body.decode(errors="replace"))))
    return parse_qsl(encoded, keep_blank_values=True)


async def _say_nothing(request: Request, *, seconds: float) -> None:
    """Waits until the caller gives up, or so long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while (await request.receive())["type"] != "http.disconnect":
                pass


def _answer(body: StripeObject, *, status: int, request_id: str) -> SavedAnswer:
    encoded = json.dumps(body).encode()
    return SavedAnswer(endpoint="", digest="", status=status, body=encoded, request_id=request_id)


def _response(answer: SavedAnswer, *, request_id: str, version: str, key: str | None) -> Response:
    headers = {"Request-Id": request_id, "Stripe-Version": version, "Cache-Control": "no-cache, no-store"}
    if key is not None:
        headers |= {"Idempotency-Key": key, "Original-Request": answer.request_id}
    if answer.request_id != request_id:
        headers["Idempotent-Replayed"] = "true"
    return Response(answer.body, answer.status, headers, media_type="application/json")
