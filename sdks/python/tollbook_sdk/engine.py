"""The one event loop that everything runs on, in a thread of its own, for callers on other loops and on none.

So there is one implementation for asyncio and for threads, heartbeats go on while an application's own loop is busy,
and a client may be used from any loop or thread.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from tollbook_sdk.errors import ClientClosed, UsedAcrossFork

log = logging.getLogger("tollbook_sdk")

T = TypeVar("T")


class Engine:
    """Starts with its first use, so that a client made before a fork and used only after it is fine."""

    def __init__(self, on_start: Callable[[], None]) -> None:
        self._on_start = on_start
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._is_closed = False

    @property
    def is_running(self) -> bool:
        """Whether it was started, in this process, and not stopped."""
        return self._loop is not None and self._pid == os.getpid() and not self._is_closed

    def submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Runs it on the loop. Cancelling the future cancels it. Raises ClientClosed, UsedAcrossFork."""
        try:
            return asyncio.run_coroutine_threadsafe(work, self._running())
        except BaseException:
            work.close()
            raise

    def post(self, callback: Callable[..., object], *arguments: object) -> None:
        """Calls it on the loop soon, without anybody waiting. Raises as `submit`."""
        self._running().call_soon_threadsafe(callback, *arguments)

    def nudge(self, callback: Callable[[], object]) -> None:
        """Calls it on the loop soon if that runs, while the farewell is under way too; else does nothing."""
        loop = self._loop
        if loop is not None and not self.is_foreign:
            with contextlib.suppress(RuntimeError):  # closed in the meantime
                loop.call_soon_threadsafe(callback)

    @property
    def is_foreign(self) -> bool:
        """Whether it was started by the process that this one was forked from."""
        return self._pid not in {0, os.getpid()}

    def stop(self, farewell: Callable[[], Coroutine[Any, Any, None]] | None, seconds: float) -> None:
        """Runs the farewell if anything ever ran, for at most so long, and ends the thread, for good."""
        with self._lock:
            loop, self._is_closed = self._loop, True
        if loop is None or self._pid != os.getpid() or loop.is_closed():
            return
        if farewell is not None:
            work = asyncio.run_coroutine_threadsafe(farewell(), loop)
            try:
                work.result(seconds)
            except TimeoutError:
                log.warning("closed_before_all_was_sent")
            except Exception:
                log.exception("farewell_failed")
        loop.call_soon_threadsafe(loop.stop)
        if self._thread is not None:
            self._thread.join(seconds)

    def _running(self) -> asyncio.AbstractEventLoop:
        loop = self._loop
        if loop is None or self._is_closed or self._pid != os.getpid():
            loop = self._start()
        return loop

    def _start(self) -> asyncio.AbstractEventLoop:
        # A lock that another thread held at the fork would never be let go in the child: look before taking it.
        if self.is_foreign:
            raise UsedAcrossFork(UsedAcrossFork.__doc__)
        with self._lock:
            if self._is_closed:
                raise ClientClosed(ClientClosed.__doc__)
            if self._loop is None:
                loop = asyncio.new_event_loop()
                self._pid = os.getpid()
                self._thread = threading.Thread(target=self._run, args=(loop,), name="tollbook-sdk", daemon=True)
                self._thread.start()
                self._loop = loop
            return self._loop

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        loop.call_soon(self._on_start)
        try:
            loop.run_forever()
        finally:
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            loop.close()
