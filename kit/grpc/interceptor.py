"""What happens around every call: gate, identity, access, request id, deadline, refusals, logs and metrics.

One interceptor and not seven, because each layer of wrapping costs a task switch on the path of a quota check.
"""

from __future__ import annotations

import asyncio
import inspect
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

import grpc
from grpc_status import rpc_status

from kit.errors import DependencyUnavailable
from kit.grpc.access import AccessRule
from kit.grpc.call import NOBODY, REQUEST_ID_KEY, Call, Principal, current_call
from kit.grpc.context import ServicerContext
from kit.grpc.failures import failure_to_pb
from kit.grpc.identity import AUTHORIZATION_KEY, Authenticator
from kit.telemetry.metrics import RPC_SECONDS, RPC_TOTAL

UNARY_DEADLINE_SECONDS_MAX = 30.0
REQUEST_ID_BYTES_MAX = 128
# Ids of our own: random once for the process, then counted. Random bits for every call would be a system call for each.
_REQUEST_IDS = secrets.token_hex(8)
_REQUEST_NUMBERS = count()

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

        measures = _Measures(rule.method)

        async def answer_by_writing(request: Any, context: ServicerContext) -> None:
            async with _Edge(self, rule, context, measures) as edge:
                await edge.admit()
                await behaviour(request, context)

        async def answer_stream(request: Any, context: ServicerContext) -> AsyncIterator[Any]:
            async with _Edge(self, rule, context, measures) as edge:
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
        answer: Callable[..., Any] = self._answering_once(behaviour, rule, measures)
        if handler.response_streaming:
            # gRPC's own health servicer writes its answers instead of yielding them.
            answer = answer_stream if inspect.isasyncgenfunction(behaviour) else answer_by_writing
        return make(answer, handler.request_deserializer, handler.response_serializer)

    def _answering_once(self, behaviour: Any, rule: AccessRule, measures: _Measures) -> Callable[..., Any]:
        async def answer_once(request: Any, context: ServicerContext) -> Any:
            # Not by `async with`, and every step that can is plain: this is the path of a quota check.
            edge = _Edge(self, rule, context, measures)
            try:
                if not edge.admit_known():
                    await edge.admit()
                seconds = _seconds_to_bound(context)
                if seconds is None:
                    answer = await behaviour(request, context)
                else:
                    async with asyncio.timeout(seconds):
                        answer = await behaviour(request, context)
            except BaseException as error:
                await edge.fail(error)
                raise
            measures.answered(edge.started)
            return answer

        return answer_once


class _Measures:
    """What is measured of one method. The labels are looked up once, and not for every call."""

    __slots__ = ("_method", "_ok", "_seconds")

    def __init__(self, method: str) -> None:
        self._method = method
        self._seconds = RPC_SECONDS.labels(method)
        self._ok = RPC_TOTAL.labels(method, "OK")

    def answered(self, started: float) -> None:
        """A call that began then was answered."""
        self._seconds.observe(time.perf_counter() - started)
        self._ok.inc()

    def failed(self, started: float, code: str) -> None:
        """A call that began then ended with another code than OK."""
        self._seconds.observe(time.perf_counter() - started)
        RPC_TOTAL.labels(self._method, code).inc()


class _Edge:
    """One call from admission to answer; whatever leaves the block becomes a status, a log line and a measurement."""

    __slots__ = ("_authorization", "_context", "_interceptor", "_measures", "_request_id", "_rule", "started")

    def __init__(
        self, interceptor: EdgeInterceptor, rule: AccessRule, context: ServicerContext, measures: _Measures
    ) -> None:
        self._interceptor = interceptor
        self._rule = rule
        self._context = context
        self._measures = measures
        self.started = time.perf_counter()
        self._authorization: str | None = None
        sent = ""
        for key, value in context.invocation_metadata() or ():
            if key == AUTHORIZATION_KEY:
                self._authorization = str(value)
            elif key == REQUEST_ID_KEY:
                sent = str(value)
        usable = sent and len(sent) <= REQUEST_ID_BYTES_MAX and sent.isascii() and sent.isprintable()
        self._request_id = sent if usable else f"{_REQUEST_IDS}{next(_REQUEST_NUMBERS):016x}"

    def admit_known(self) -> bool:
        """Lets the call in if that needs no question to anyone; False: `admit` must be awaited. Raises why not."""
        rule = self._rule
        self._context.set_trailing_metadata(((REQUEST_ID_KEY, self._request_id),))
        if rule.is_own and not self._interceptor.gate.is_open:
            raise DependencyUnavailable(dependency=f"{self._interceptor.service} is not ready: a store or a peer")
        principal: Principal | None = NOBODY
        if not rule.is_public:
            principal = self._interceptor.authenticator.recognise(self._authorization)
        if principal is None:
            return False
        self._let_in(principal)
        return True

    async def admit(self) -> None:
        """Lets the call in, or raises why not."""
        if not self.admit_known():
            self._let_in(await self._interceptor.authenticator.authenticate(self._authorization))

    def _let_in(self, principal: Principal) -> None:
        self._rule.admit(principal)
        current_call.set(Call(self._rule.method, self._request_id, principal, self._admit_again))

    async def _admit_again(self) -> None:
        if not self._rule.is_public:
            self._rule.admit(await self._interceptor.authenticator.authenticate(self._authorization))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self._measures.answered(self.started)
        else:
            await self.fail(error)

    async def fail(self, error: BaseException) -> None:
        """Ends the call with what became of it. Raises AbortError, unless the call is over already."""
        failure: Exception | None = None
        code = ""
        if isinstance(error, asyncio.CancelledError) and self._interceptor.gate.is_draining:
            failure = DependencyUnavailable(dependency=f"{self._interceptor.service} is stopping: it")
        elif isinstance(error, asyncio.CancelledError | GeneratorExit):
            code = "CANCELLED"
        elif isinstance(error, Exception) and not isinstance(error, grpc.aio.AbortError):
            failure = error
        else:
            code = "ABORTED"
        if failure is None:
            self._measures.failed(self.started, code)
            return
        status = rpc_status.to_status(failure_to_pb(failure, self._rule.method, self._request_id))
        self._measures.failed(self.started, status.code.name)
        await self._context.abort_with_status(status)


def _seconds_to_bound(context: ServicerContext) -> float | None:
    # gRPC itself ends a call at the client's deadline; this bounds calls that came without one, or with a far one.
    remaining = cast("float | None", context.time_remaining())
    return None if remaining is not None and remaining <= UNARY_DEADLINE_SECONDS_MAX else UNARY_DEADLINE_SECONDS_MAX
