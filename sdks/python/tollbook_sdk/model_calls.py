"""Records calls to model providers: how many tokens, how long, how it ended. Never what was said."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ParamSpec, Protocol, Self, TypeVar, cast

from tollbook.metering.v1 import metering_pb2
from tollbook.metering.v1.metering_pb2 import Outcome, ProviderCall
from tollbook_sdk.token_usage import (
    Reading,
    TokenUsage,
    anthropic_reading,
    anthropic_usage,
    openai_reading,
    openai_usage,
)

log = logging.getLogger("tollbook_sdk")

P = ParamSpec("P")
R = TypeVar("R")

_NAME_BYTES_MAX = 128
_NS_PER_SECOND = 1_000_000_000


class Recorder(Protocol):
    """Where finished calls go, and what time it is."""

    def record_call(self, call: ProviderCall) -> None:
        """Takes it; never raises and never waits."""
        ...

    def running(self) -> float:
        """As Clock."""
        ...


@dataclass(frozen=True, slots=True)
class Shape:
    """How a provider's answers are read."""

    read: Callable[[Any], Reading]
    usage: Callable[[Mapping[str, int]], TokenUsage]


OPENAI = Shape(openai_reading, openai_usage)
OPENAI_REASONING_APART = Shape(openai_reading, functools.partial(openai_usage, reasoning_is_apart=True))
ANTHROPIC = Shape(anthropic_reading, anthropic_usage)


class ModelCall:
    """One call, from when it is made until it ends; then it is recorded, once, however it ended.

    with tollbook.model_call("anthropic", model="claude-sonnet-4-5") as call:
        message = anthropic.messages.create(...)
        call.tokens = TokenUsage(...)        # or call.observe(message) with a shape
    """

    def __init__(
        self, recorder: Recorder, provider: str, *, model: str = "", operation: str = "", shape: Shape | None = None
    ) -> None:
        self._recorder = recorder
        self._provider = provider
        self._operation = operation
        self._shape = shape
        self._started = recorder.running()
        self._counts: dict[str, int] = {}
        self._is_recorded = False
        self.model = model
        """The model; what the provider answers replaces what was asked for."""
        self.tokens: TokenUsage | None = None
        """Set it where there is no shape; it goes before what was observed."""

    def observe(self, answer: Any) -> None:
        """Reads the numbers of an answer, or of one event of a stream. Later ones replace earlier ones, by name."""
        if self._shape is None:
            return
        try:
            reading = self._shape.read(answer)
        except Exception as error:  # noqa: BLE001 - an odd answer is its reader's to use; only its numbers are lost
            log.warning("answer_not_read provider=%s error=%s", self._provider, type(error).__name__)
            return
        self.model = reading.model or self.model
        self._counts.update(reading.counts)

    def succeed(self) -> None:
        """It was answered."""
        self._record(metering_pb2.OUTCOME_SUCCESS, "")

    def fail(self, error: BaseException) -> None:
        """It ended with this error, of which only the class and a code are recorded: its text may quote the prompt."""
        is_cancelled = isinstance(error, (asyncio.CancelledError, KeyboardInterrupt, GeneratorExit))
        code = getattr(error, "code", None)
        text = code if isinstance(code, str) and code.isascii() and code.isprintable() else type(error).__name__
        outcome = metering_pb2.OUTCOME_CANCELLED if is_cancelled else metering_pb2.OUTCOME_FAILURE
        self._record(outcome, "" if is_cancelled else text)

    def give_up(self) -> None:
        """The caller went away before the answer was complete."""
        self._record(metering_pb2.OUTCOME_CANCELLED, "")

    def __enter__(self) -> Self:
        self._started = self._recorder.running()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.succeed()
        else:
            self.fail(error)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def _record(self, outcome: Outcome.ValueType, error_code: str) -> None:
        if self._is_recorded:
            return
        self._is_recorded = True
        tokens = self.tokens
        if tokens is None:
            tokens = self._shape.usage(self._counts) if self._shape is not None else TokenUsage()
        call = ProviderCall(
            provider=self._provider,
            model=_cut(self.model),
            operation=self._operation,
            tokens_input_uncached=tokens.input_uncached,
            tokens_cache_read=tokens.cache_read,
            tokens_cache_write=tokens.cache_write,
            tokens_output=tokens.output,
            tokens_reasoning=tokens.reasoning,
            outcome=outcome,
            error_code=_cut(error_code),
        )
        call.latency.FromNanoseconds(max(0, round((self._recorder.running() - self._started) * _NS_PER_SECOND)))
        self._recorder.record_call(call)


def _cut(text: str) -> str:
    return text.encode()[:_NAME_BYTES_MAX].decode(errors="ignore")


def watched(begin: Callable[[], ModelCall], function: Callable[P, R]) -> Callable[P, R]:
    """The function, with every call of it recorded: plain or coroutine, with an answer or a stream of events.

    What it returns is handed on as it is, but for a stream, which is wrapped: it is recorded when it ends, fails, is
    closed, or is dropped. Everything else of the stream object is still there.
    """
    if inspect.iscoroutinefunction(function):

        async def call_async(*args: P.args, **kwargs: P.kwargs) -> Any:
            return await _awaited(begin(), function(*args, **kwargs))

        return cast("Callable[P, R]", functools.wraps(function)(call_async))

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        model_call = begin()
        try:
            answer = function(*args, **kwargs)
        except BaseException as error:
            model_call.fail(error)
            raise
        # A method of an async client need not be a coroutine function to return an awaitable.
        if inspect.isawaitable(answer):
            return cast("R", _awaited(model_call, answer))
        return cast("R", _answered(model_call, answer))

    return call


async def _awaited(call: ModelCall, answer: Any) -> Any:
    try:
        found = await answer
    except BaseException as error:
        call.fail(error)
        raise
    return _answered(call, found)


def _answered(call: ModelCall, answer: Any) -> Any:
    if hasattr(answer, "__anext__") or (hasattr(answer, "__aiter__") and not isinstance(answer, Mapping)):
        return WatchedAsyncStream(call, answer)
    if hasattr(answer, "__next__"):
        return WatchedStream(call, answer)
    call.observe(answer)
    call.succeed()
    return answer


class _Watched:
    def __init__(self, call: ModelCall, stream: Any) -> None:
        self._call = call
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __del__(self) -> None:
        call = self.__dict__.get("_call")
        if call is not None:
            call.give_up()


class WatchedStream(_Watched, Iterator[Any]):
    """A stream of a model's answer."""

    def __next__(self) -> Any:
        try:
            event = next(self._stream)
        except StopIteration:
            self._call.succeed()
            raise
        except BaseException as error:
            self._call.fail(error)
            raise
        self._call.observe(event)
        return event

    def close(self) -> None:
        """Closes the stream; what was read of it is recorded."""
        self._call.give_up()
        close = getattr(self._stream, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class WatchedAsyncStream(_Watched, AsyncIterator[Any]):
    """The same of an async client."""

    def __init__(self, call: ModelCall, stream: Any) -> None:
        super().__init__(call, stream)
        self._events = aiter(stream)

    async def __anext__(self) -> Any:
        try:
            event = await anext(self._events)
        except StopAsyncIteration:
            self._call.succeed()
            raise
        except BaseException as error:
            self._call.fail(error)
            raise
        self._call.observe(event)
        return event

    async def aclose(self) -> None:
        """Closes the stream; what was read of it is recorded."""
        self._call.give_up()
        close = getattr(self._stream, "aclose", None) or getattr(self._stream, "close", None)
        if close is not None:
            await close()

    close = aclose

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
