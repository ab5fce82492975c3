"""Futures made of futures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def transformed(future: asyncio.Future[A], function: Callable[[A], B]) -> asyncio.Future[B]:
    """A future of `function` of the other one's result. It fails as the other or the function does, and cancelling it
    cancels the other at once, which a task that awaits it would not do before its first step.
    """
    result: asyncio.Future[B] = future.get_loop().create_future()

    def finish(done: asyncio.Future[A]) -> None:
        error = None if done.cancelled() else done.exception()
        if result.done():
            return
        if done.cancelled():
            result.cancel()
        elif error is not None:
            result.set_exception(error)
        else:
            try:
                result.set_result(function(done.result()))
            except Exception as problem:  # noqa: BLE001 - whoever awaits the result is to see it
                result.set_exception(problem)

    def pass_on_cancellation(done: asyncio.Future[B]) -> None:
        if done.cancelled():
            future.cancel()

    future.add_done_callback(finish)
    result.add_done_callback(pass_on_cancellation)
    return result
