from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from typing import Any, ClassVar

import pytest

from tollbook.metering.v1 import metering_pb2
from tollbook.metering.v1.metering_pb2 import ProviderCall
from tollbook_sdk.model_calls import ANTHROPIC, OPENAI, ModelCall, Shape, watched
from tollbook_sdk.token_usage import TokenUsage

SUCCESS, FAILURE, CANCELLED = (
    metering_pb2.OUTCOME_SUCCESS,
    metering_pb2.OUTCOME_FAILURE,
    metering_pb2.OUTCOME_CANCELLED,
)


class Ledger:
    """Keeps calls; every look at the time is a quarter of a second later."""

    def __init__(self) -> None:
        self.calls: list[ProviderCall] = []
        self._seconds = 0.0

    def record_call(self, call: ProviderCall) -> None:
        self.calls.append(call)

    def running(self) -> float:
        self._seconds += 0.25
        return self._seconds

    def begin(self, shape: Shape | None = OPENAI) -> ModelCall:
        return ModelCall(self, "openai", model="asked-for", operation="chat", shape=shape)

    @property
    def only(self) -> ProviderCall:
        (call,) = self.calls
        return call


class Private:
    """An answer that notes what of it is looked at; whatever is not on the list may hold a prompt or an answer."""

    looked_at: ClassVar[set[str]] = set()

    def __init__(self, **public: Any) -> None:
        self.__dict__["_public"] = public

    def __getattr__(self, name: str) -> Any:
        # Whether it is a stream is asked of its type's methods, and no text has those names.
        if not name.startswith("__"):
            self.looked_at.add(name)
        if name not in self._public:
            raise AttributeError(name)
        return self._public[name]

    def __str__(self) -> str:
        self.looked_at.add("all of it, as text")
        return ""

    __repr__ = __str__


@pytest.fixture(autouse=True)
def nothing_private_is_looked_at() -> Iterator[None]:
    """Whatever a test does, no text is touched."""
    Private.looked_at.clear()
    yield
    assert Private.looked_at <= {"usage", "model", "type", "message", "response"}


def answer(tokens_in: int = 10, tokens_out: int = 5) -> Private:
    return Private(model="gpt-5", usage={"prompt_tokens": tokens_in, "completion_tokens": tokens_out})


def test_a_call_is_recorded_with_its_tokens_model_time_and_outcome() -> None:
    ledger = Ledger()
    found = answer()
    assert watched(ledger.begin, lambda: found)() is found
    call = ledger.only
    assert (call.provider, call.model, call.operation, call.outcome) == ("openai", "gpt-5", "chat", SUCCESS)
    assert (call.tokens_input_uncached, call.tokens_output) == (10, 5)
    assert call.latency.ToMilliseconds() == 250


async def test_a_coroutine_is_recorded_when_it_is_done() -> None:
    ledger = Ledger()

    async def create() -> Private:
        assert ledger.calls == []
        return answer()

    await watched(ledger.begin, create)()
    assert ledger.only.outcome == SUCCESS


async def test_a_plain_function_that_returns_an_awaitable_is_recorded_when_that_is_done() -> None:
    ledger = Ledger()

    async def create() -> Private:
        return answer()

    waiting = watched(ledger.begin, lambda: create())()  # noqa: PLW0108 - no coroutine function on purpose
    assert ledger.calls == []
    await waiting
    assert ledger.only.tokens_output == 5


def test_a_failed_call_is_recorded_by_the_class_of_its_error_and_never_its_text() -> None:
    ledger = Ledger()

    def create() -> None:
        raise ValueError("the prompt was: secret")

    with pytest.raises(ValueError, match="secret"):
        watched(ledger.begin, create)()
    assert (ledger.only.outcome, ledger.only.error_code, ledger.only.model) == (FAILURE, "ValueError", "asked-for")
    assert b"secret" not in ledger.only.SerializeToString()


def test_a_providers_own_error_code_is_kept() -> None:
    class RateLimited(Exception):
        code = "rate_limit_exceeded"

    ledger = Ledger()
    with pytest.raises(RateLimited), ledger.begin():
        raise RateLimited
    assert ledger.only.error_code == "rate_limit_exceeded"


async def test_a_cancelled_call_is_recorded_as_cancelled() -> None:
    ledger = Ledger()
    never = asyncio.get_running_loop().create_future()

    async def create() -> None:
        await never

    calling = asyncio.ensure_future(watched(ledger.begin, create)())
    await asyncio.sleep(0)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert (ledger.only.outcome, ledger.only.error_code) == (CANCELLED, "")


def openai_chunks() -> Iterator[Private]:
    yield Private(model="gpt-5", usage=None)
    yield Private(model="gpt-5", usage=None)
    yield Private(model="gpt-5", usage={"prompt_tokens": 10, "completion_tokens": 5})


def anthropic_events() -> Iterator[Private]:
    usage = {"input_tokens": 7, "cache_read_input_tokens": 3, "output_tokens": 1}
    yield Private(type="message_start", message=Private(model="claude", usage=usage))
    yield Private(type="content_block_delta")
    yield Private(type="message_delta", usage={"output_tokens": 20})
    yield Private(type="message_delta", usage={"output_tokens": 44})
    yield Private(type="message_stop")


async def asynchronous(events: Iterator[Private]) -> AsyncIterator[Private]:
    for event in events:
        yield event


def test_a_stream_is_handed_on_whole_and_recorded_when_it_ends() -> None:
    ledger = Ledger()
    stream = watched(ledger.begin, openai_chunks)()
    assert ledger.calls == []
    assert len(list(stream)) == 3
    assert (ledger.only.tokens_input_uncached, ledger.only.tokens_output, ledger.only.outcome) == (10, 5, SUCCESS)


async def test_an_async_stream_alike() -> None:
    ledger = Ledger()

    async def create() -> AsyncIterator[Private]:
        return asynchronous(openai_chunks())

    events = [event async for event in await watched(ledger.begin, create)()]
    assert (len(events), ledger.only.tokens_output, ledger.only.outcome) == (3, 5, SUCCESS)


def test_of_a_running_count_the_last_counts() -> None:
    ledger = Ledger()
    list(watched(lambda: ledger.begin(ANTHROPIC), anthropic_events)())
    call = ledger.only
    assert (call.model, call.tokens_input_uncached, call.tokens_cache_read, call.tokens_output) == ("claude", 7, 3, 44)


def test_a_stream_that_is_closed_or_dropped_in_the_middle_is_recorded_as_cancelled_with_what_is_known() -> None:
    for leave in (lambda stream: stream.close(), lambda _: None):
        ledger = Ledger()
        stream = watched(lambda ledger=ledger: ledger.begin(ANTHROPIC), anthropic_events)()  # type: ignore[misc]
        next(stream)
        leave(stream)
        del stream
        gc.collect()
        assert (ledger.only.outcome, ledger.only.tokens_input_uncached) == (CANCELLED, 7)


async def test_an_async_stream_that_is_left_in_the_middle_alike() -> None:
    ledger = Ledger()
    async with watched(ledger.begin, lambda: asynchronous(openai_chunks()))() as stream:  # type: ignore[attr-defined]
        await anext(stream)
    assert ledger.only.outcome == CANCELLED


def test_a_stream_that_fails_is_recorded_as_failed_with_what_is_known() -> None:
    ledger = Ledger()

    def broken() -> Iterator[Private]:
        yield next(anthropic_events())
        raise ConnectionError

    with pytest.raises(ConnectionError):
        list(watched(lambda: ledger.begin(ANTHROPIC), broken)())
    assert (ledger.only.outcome, ledger.only.tokens_cache_read) == (FAILURE, 3)


def test_what_a_stream_has_besides_its_events_is_still_there() -> None:
    class Stream(Iterator[int]):
        response = "the raw response"

        def __next__(self) -> int:
            raise StopIteration

    assert watched(Ledger().begin, Stream)().response == "the raw response"


def test_tokens_that_are_said_go_before_those_observed_and_a_call_is_recorded_once() -> None:
    ledger = Ledger()
    with ledger.begin() as call:
        call.observe(answer())
        call.tokens = TokenUsage(output=99)
    call.give_up()
    assert (ledger.only.tokens_output, ledger.only.tokens_input_uncached) == (99, 0)


def test_an_answer_that_cannot_be_read_is_handed_on_all_the_same() -> None:
    class Odd:
        @property
        def usage(self) -> int:
            raise RuntimeError

    ledger, odd = Ledger(), Odd()
    assert watched(ledger.begin, lambda: odd)() is odd
    assert (ledger.only.outcome, ledger.only.tokens_output) == (SUCCESS, 0)
