"""Reading large messages beside the event loop."""

from __future__ import annotations

import asyncio
import threading

import pytest

from services.metering.domain import limits
from services.metering.rpc.large_messages import LargeMessages

LARGE = limits.READ_AT_ONCE_BYTES_MAX + 1


async def test_what_is_small_is_read_at_once_and_what_is_large_elsewhere() -> None:
    messages = LargeMessages()
    assert await messages.read(limits.READ_AT_ONCE_BYTES_MAX, threading.get_ident) == threading.get_ident()
    assert await messages.read(LARGE, threading.get_ident) != threading.get_ident()


async def test_what_reading_raises_reaches_the_caller() -> None:
    def convert() -> None:
        raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        await LargeMessages().read(LARGE, convert)


async def test_a_large_message_whose_caller_gave_up_is_still_the_only_one_that_is_read() -> None:
    messages, may_end, loop = LargeMessages(), threading.Event(), asyncio.get_running_loop()
    begun = asyncio.Event()
    read: list[str] = []

    def first() -> None:
        loop.call_soon_threadsafe(begun.set)
        may_end.wait()
        read.append("first")

    given_up = asyncio.create_task(messages.read(LARGE, first))
    await begun.wait()
    given_up.cancel()
    never = asyncio.create_task(messages.read(LARGE, lambda: read.append("never")))
    second = asyncio.create_task(messages.read(LARGE, lambda: read.append("second")))
    for _ in range(100):
        await asyncio.sleep(0)
    never.cancel()
    await asyncio.wait({never})
    may_end.set()
    await second
    assert read == ["first", "second"]
