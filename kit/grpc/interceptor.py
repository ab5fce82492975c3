"""What happens around every call: gate, identity, access, request id, deadline, refusals, logs and metrics.

One layer around the handlers and not seven interceptors: each of those is one coroutine more for every quota check.
"""

from __future__ import annotations

import asyncio
import inspect
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing
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
from kit.telemetry.metrics import CallMeasures, measures_of

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
        self._waiting: set[asyncio.Task[Any]] = set()

    async def stream(self, answers: AsyncGenerator[Any]) -> AsyncGenerator[Any]:
        """The answers of a stream, which `drain` ends: at once while it waits for the next one, or as soon as the last
        one is written. A write must not be cancelled, for gRPC then ends the call without telling its reader.
        """
        task = asyncio.current_task()
        if task is None:
            msg = "a stream is answered in a task"
            raise RuntimeError(msg)
        async with aclosing(answers):
            while not self.is_draining:
                self._waiting.add(task)
                try:
                    answer = await anext(answers)
                except StopAsyncIteration:
                    return
                finally:
                    self._waiting.discard(task)
                yield answer
        raise asyncio.CancelledError

    def drain(self) -> None:
        """Ends every stream, with UNAVAILABLE: its reader goes on elsewhere, or here after the restart."""
        self.is_draining = True
        for task in self._waiting:
            task.cancel()


class EdgeHandlers(grpc.GenericRpcHandler):
    """The methods of a server, each with its edge. Servicers are added to it, and it is added to the server.

    Generated code would register every method with gRPC besides. Then gRPC waits for a call of each, and gathers all
    who wait anew around every call that comes: with twenty methods that is a tenth of what a short call costs.
    """

    def __init__(self, service: str, rules: Mapping[str, AccessRule], authenticator: Authenticator, gate: Gate) -> None:
        self.service_name = service
        self.authenticator = authenticator
        self.gate = gate
        self._rules = rules
        self._handlers: list[grpc.GenericRpcHandler] = []
        self._wrapped: dict[str, Handler] = {}

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """As grpc.aio.Server."""
        self._handlers.extend(handlers)

    def add_registered_method_handlers(self, service_name: str, handlers: Mapping[str, Any]) -> None:
        """Leaves methods to be found among the generic ones, where generated code adds them first."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """The method's handler, wrapped the first time it is called. An unknown method is gRPC's to refuse."""
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            found = (each.service(handler_call_details) for each in self._handlers)
            handler = next((each for each in found if each is not None), None)
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

        measures = measures_of(rule.method)

        async def answer_by_writing(request: Any, context: ServicerContext) -> None:
            async with _Edge(self, rule, context, measures) as edge:
                await edge.admit()
                await behaviour(request, context)

        async def answer_stream(request: Any, context: ServicerContext) -> AsyncIterator[Any]:
            async with _Edge(self, rule, context, measures) as edge:
                await edge.admit()
                # A stream of requests is ended by its application, after what it has read.
                answers = behaviour(request, context)
                async for response in answers if handler.request_streaming else self.gate.stream(answers):
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
        return make(answer, handler.request_deserializer, _unless_bytes(handler.response_serializer))

    def _answering_once(self, behaviour: Any, rule: AccessRule, measures: CallMeasures) -> Callable[..., Any]:
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
            measures.note(time.perf_counter() - edge.started)
            return answer

        return answer_once


class _Edge:
    """One call from admission to answer; whatever leaves the block becomes a status, a log line and a measurement."""

    __slots__ = ("_authorization", "_context", "_handlers", "_measures", "_request_id", "_rule", "started")

    def __init__(
        self, handlers: EdgeHandlers, rule: AccessRule, context: ServicerContext, measures: CallMeasures
    ) -> None:
        self._handlers = handlers
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
        if rule.is_own and not self._handlers.gate.is_open:
            raise DependencyUnavailable(dependency=f"{self._handlers.service_name} is not ready: a store or a peer")
        principal: Principal | None = NOBODY
        if not rule.is_public:
            principal = self._handlers.authenticator.recognise(self._authorization)
        if principal is None:
            return False
        self._let_in(principal)
        return True

    async def admit(self) -> None:
        """Lets the call in, or raises why not."""
        if not self.admit_known():
            self._let_in(await self._handlers.authenticator.authenticate(self._authorization))

    def _let_in(self, principal: Principal) -> None:
        self._rule.admit(principal)
        current_call.set(Call(self._rule.method, self._request_id, principal, self._admit_again))

    async def _admit_again(self) -> None:
        if not self._rule.is_public:
            self._rule.admit(await self._handlers.authenticator.authenticate(self._authorization))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self._measures.note(time.perf_counter() - self.started)
        else:
            await self.fail(error)

    async def fail(self, error: BaseException) -> None:
        """Ends the call with what became of it. Raises AbortError, unless the call is over already."""
        failure: Exception | None = None
        code = ""
        if isinstance(error, asyncio.CancelledError) and self._handlers.gate.is_draining:
            failure = DependencyUnavailable(dependency=f"{self._handlers.service_name} is stopping: it")
        elif isinstance(error, asyncio.CancelledError | GeneratorExit):
            code = "CANCELLED"
        elif isinstance(error, Exception) and not isinstance(error, grpc.aio.AbortError):
            failure = error
        else:
            code = "ABORTED"
        if failure is None:
            self._measures.note(time.perf_counter() - self.started, code)
            return
        status = rpc_status.to_status(failure_to_pb(failure, self._rule.method, self._request_id))
        self._measures.note(time.perf_counter() - self.started, status.code.name)
        await self._context.abort_with_status(status)


def _unless_bytes(serialize: Callable[[Any], bytes] | None) -> Callable[[Any], bytes]:
    """A method may answer bytes, too: a message that was serialized before."""

    def serialized(answer: Any) -> bytes:
        return answer if type(answer) is bytes or serialize is None else serialize(answer)

    return serialized


def _seconds_to_bound(context: ServicerContext) -> float | None:
    # gRPC itself ends a call at the client's deadline; this bounds calls that came without one, or with a far one.
    remaining = cast("float | None", context.time_remaining())
    return None if remaining is not None and remaining <= UNARY_DEADLINE_SECONDS_MAX else UNARY_DEADLINE_SECONDS_MAX
