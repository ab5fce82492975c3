from __future__ import annotations

import asyncio
import time

import pytest

from kit.redis.budget import answered_within


async def test_an_answer_that_does_not_come_is_given_up() -> None:
    async with asyncio.timeout(5):
        with pytest.raises(TimeoutError):
            async with answered_within(0.01):
                await asyncio.Event().wait()


async def test_an_answer_that_came_while_our_own_loop_was_busy_counts() -> None:
    loop = asyncio.get_running_loop()
    answer = loop.create_future()
    loop.call_soon(time.sleep, 0.05)
    # It came after 1 ms, but nobody looked before 50 ms.
    loop.call_later(0.02, answer.set_result, "here")
    async with answered_within(0.01):
        assert await answer == "here"


async def test_a_caller_that_is_cancelled_stays_cancelled() -> None:
    async def wait() -> None:
        async with answered_within(5):
            await asyncio.Event().wait()

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_budget_that_was_kept_leaves_nothing_behind() -> None:
    async with answered_within(0.001):
        pass
    await asyncio.sleep(0.005)
