"""What happens around every call: gate, identity, access, request id, deadline, refusals, logs and metrics.

One interceptor and not seven, because each layer of wrapping costs a task switch on the path of a quota check.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast
from uuid import uuid4

import grpc
import structlog

from kit.errors import DependencyUnavailable, Refused
from kit.grpc.access import AccessRule
from kit.grpc.call import NOBODY, REQUEST_ID_KEY, Call, Principal, current_call
from kit.grpc.context import ServicerContext
from kit.grpc.errors import refusal_to_status, to_status
from kit.grpc.identity import AUTHORIZATION_KEY, Authenticator
from kit.telemetry.metrics import RPC_SECONDS, RPC_TOTAL

log = structlog.get_logger()

UNARY_DEADLINE_SECONDS_MAX = 30.0
REQUEST_ID_BYTES_MAX = 128

if TYPE_CHECKING:
    # Generic for the type checker only; at run time gRPC's classes take no parameters.
    Handler = grpc.RpcMethodHandler[Any, Any]


class Gate:
    """Closed until the service is ready: calls are then answered UNAVAILABLE at once instead of waiting on a store.
    When the service is to stop, the gate ends the streams: a feed that is watched never ends by itself.
    """

    def __init__(self) -> None:
        self.is_open = False
        self.is_draining = False
        self._streams: set[asyncio.Task[Any]] = set()

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Around the answer of a stream: what `drain` may end."""
        task = asyncio.current_task()
        if task is None:
            msg = "a stream is answered in a task"
            raise RuntimeError(msg)
        self._streams.add(task)
        try:
            yield
        finally:
            self._streams.discard(task)

    def drain(self) -> None:
        """Ends every stream, with UNAVAILABLE: its reader goes on elsewhere, or here after the restart."""
        self.is_draining = True
        for task in self._streams:
            task.cancel()


class EdgeInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler of a server."""

    def __init__(self, service: str, rules: Mapping[str, AccessRule], authenticator: Authenticator, gate: Gate) -> None:
        self.service = service
        self.authenticator = authenticator
        self.gate = gate
        self._rules = rules
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """The method's handler, wrapped the first time it is called. An unknown method is gRPC's to refuse."""
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            # A handler without a rule is a KeyError and so an error to the caller: closed, never open.
            wrapped = self._wrapped[method] = self._wrap(handler, self._rules[method])
        return wrapped

    def _wrap(self, handler: Handler, rule: AccessRule) -> Handler:
        # Typed as plain Any: gRPC's stubs type the handlers of the synchronous server only.
        shapes: tuple[Any, ...] = (
            handler.unary_unary,
            handler.stream_unary,
            handler.unary_stream,
            handler.stream_stream,
        )
        behaviour = next(shape for shape in shapes if shape is not None)

        async def answer_once(request: Any, context: ServicerContext) -> Any:
            async with _Edge(self, rule, context) as edge:
                await edge.admit()
                async with asyncio.timeout(_deadline_seconds(context)):
                    return await behaviour(request, context)

        async def answer_by_writing(request: Any, context: ServicerContext) -> None:
            async with _Edge(self, rule, context) as edge:
                await edge.admit()
                await behaviour(request, context)

        async def answer_stream(request: Any, context: ServicerContext) -> AsyncIterator[Any]:
            async with _Edge(self, rule, context) as edge:
                await edge.admit()
                # A stream of requests is ended by its application, after what it has read.
                with nullcontext() if handler.request_streaming else self.gate.stream():
                    async for response in behaviour(request, context):
                        yield response

        make: Callable[..., Handler]
        match (handler.request_streaming, handler.response_streaming):
            case (False, False):
                make = grpc.unary_unary_rpc_method_handler
            case (True, False):
                make = grpc.stream_unary_rpc_method_handler
            case (False, True):
                make = grpc.unary_stream_rpc_method_handler
            case _:
                make = grpc.stream_stream_rpc_method_handler
        answer: Callable[..., Any] = answer_once
        if handler.response_streaming:
            # gRPC's own health servicer writes its answers instead of yielding them.
            answer = answer_stream if inspect.isasyncgenfunction(behaviour) else answer_by_writing
        return make(answer, handler.request_deserializer, handler.response_serializer)


class _Edge:
    """One call from admission to answer; whatever leaves the block becomes a status, a log line and a measurement."""

    __slots__ = ("_authorization", "_context", "_interceptor", "_request_id", "_rule", "_started")

    def __init__(self, interceptor: EdgeInterceptor, rule: AccessRule, context: ServicerContext) -> None:
        self._interceptor = interceptor
        self._rule = rule
        self._context = context
        self._started = time.perf_counter()
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        sent = metadata.get(REQUEST_ID_KEY, "")
        usable = 0 < len(sent) <= REQUEST_ID_BYTES_MAX and sent.isascii() and sent.isprintable()
        self._request_id = sent if usable else uuid4().hex
        self._authorization = metadata.get(AUTHORIZATION_KEY)

    async def admit(self) -> None:
        """Lets the call in, or raises why not."""
        rule = self._rule
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(service=self._interceptor.service, request_id=self._request_id)
        self._context.set_trailing_metadata(((REQUEST_ID_KEY, self._request_id),))
        if rule.is_own and not self._interceptor.gate.is_open:
            raise DependencyUnavailable(dependency=f"{self._interceptor.service} is not ready: a store or a peer")
        principal = await self._identify()
        current_call.set(Call(rule.method, self._request_id, principal, self._admit_again))

    async def _admit_again(self) -> None:
        await self._identify()

    async def _identify(self) -> Principal:
        principal = NOBODY
        if not self._rule.is_public:
            principal = await self._interceptor.authenticator.authenticate(self._authorization)
        self._rule.admit(principal)
        return principal

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        status = None
        if error is None:
            code = "OK"
        elif isinstance(error, asyncio.CancelledError) and self._interceptor.gate.is_draining:
            status = self._status_of(DependencyUnavailable(dependency=f"{self._interceptor.service} is stopping: it"))
            code = status.code.name
        elif isinstance(error, asyncio.CancelledError | GeneratorExit):
            code = "CANCELLED"
        elif isinstance(error, Exception) and not isinstance(error, grpc.aio.AbortError):
            status = self._status_of(error)
            code = status.code.name
        else:
            code = "ABORTED"
        RPC_SECONDS.labels(self._rule.method).observe(time.perf_counter() - self._started)
        RPC_TOTAL.labels(self._rule.method, code).inc()
        if status is not None:
            await self._context.abort_with_status(status)

    def _status_of(self, error: Exception) -> grpc.Status:
        method = self._rule.method
        if isinstance(error, Refused):
            log.info("call_refused", method=method, reason=error.reason, message=str(error))
            return refusal_to_status(error, self._request_id)
        if isinstance(error, TimeoutError):
            log.warning("call_timed_out", method=method)
            message = "The call was not answered within its deadline; retry with the same ids."
            return to_status("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", message, self._request_id)
        log.error("call_failed", method=method, exc_info=error)
        message = f"A defect of ours; the operator finds it by request id {self._request_id}."
        return to_status("INTERNAL", "INTERNAL", message, self._request_id)


def _deadline_seconds(context: ServicerContext) -> float:
    # gRPC itself ends a call at the client's deadline; this bounds calls that came without one.
    remaining = cast("float | None", context.time_remaining())
    return UNARY_DEADLINE_SECONDS_MAX if remaining is None else min(remaining, UNARY_DEADLINE_SECONDS_MAX)
