"""A TCP proxy that does to a connection what networks and crashes do, at the byte that the test names."""

from __future__ import annotations

import asyncio
import socket
import struct
from enum import Enum
from typing import Self

_CHUNK_BYTES = 64 * 1024
_SLOW_SECONDS = 0.5
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Toxic(Enum):
    """What happens when the client has sent what a rule waits for."""

    HOLD = "hold"
    """It is not passed on until the rule is released."""
    HOLD_ANSWER = "hold the answer"
    """It is passed on; the answer, once it is there, is not until the rule is released."""
    CUT = "cut"
    """It is not passed on: both sides are reset."""
    CUT_ANSWER = "cut the answer"
    """It is passed on and the server answers it; then both sides are reset, and the client does not know."""


class Weather(Enum):
    """What happens to all connections, for as long as it lasts."""

    CLEAR = "clear"
    BLACK_HOLE = "black hole"
    """What is sent is never passed on, and nobody is told. It ends with the connection."""
    SLOW = "slow"
    """What is sent is passed on half a second later."""
    RESET = "reset"
    """Connections are made, and reset at the first byte."""
    DOWN = "down"
    """Nobody listens: a connection is refused, and those that stand are reset."""
    SLICED = "sliced"
    """What is answered comes a byte at a time."""


class Rule:
    """Something that happens to one connection, once."""

    def __init__(self, needles: tuple[bytes, ...], toxic: Toxic) -> None:
        self._needles = needles
        self.toxic = toxic
        self.is_taken = False
        self.reached = asyncio.Event()
        """Set when it has happened; for answers: when the server has answered."""
        self._released = asyncio.Event()
        self._is_dropped = False

    def release(self) -> None:
        """Lets what is held go on."""
        self._released.set()

    def drop(self) -> None:
        """Resets the connection of what is held instead of passing it on."""
        self._is_dropped = True
        self._released.set()

    async def hold(self) -> None:
        """Waits for the release. Raises ConnectionResetError when it is dropped instead."""
        self.reached.set()
        await self._released.wait()
        if self._is_dropped:
            raise ConnectionResetError

    def progress(self, stage: int, data: bytes) -> int:
        """How many of the needles one connection has sent, in order, when it also sends `data`."""
        while stage < len(self._needles) and (place := data.find(self._needles[stage])) >= 0:
            data = data[place + len(self._needles[stage]) :]
            stage += 1
        return stage

    def is_complete(self, stage: int) -> bool:
        """Whether that many are all."""
        return stage == len(self._needles)


class ToxicProxy:
    """Passes connections on to a server on 127.0.0.1, but for what its rules say.

        async with ToxicProxy(server_port) as proxy:
            rule = proxy.when(b"event-7", b"COMMIT", toxic=Toxic.CUT_ANSWER)

    A rule is about the first connection on which its needles are sent one after the other, each within one write.
    """

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._rules: list[Rule] = []
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0
        self.weather = Weather.CLEAR
        self.connections_count = 0
        """Made since it began."""

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def change(self, weather: Weather) -> None:
        """Changes the weather."""
        self.weather = weather
        if weather is Weather.DOWN:
            if self._server is not None:
                self._server.close()
            for connection in self._connections:
                connection.cancel()
        elif self._server is None or not self._server.is_serving():
            await self._listen()

    @property
    def open_count(self) -> int:
        """Connections that stand now."""
        return len(self._connections)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def when(self, *needles: bytes, toxic: Toxic) -> Rule:
        """Adds a rule."""
        rule = Rule(needles, toxic)
        self._rules.append(rule)
        return rule

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self.connections_count += 1
        if task is not None:
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)
        writers = [writer]
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
            writers.append(server_writer)
            connection = _Connection(self._rules, self)
            pumps = [
                asyncio.create_task(connection.to_server(reader, server_writer)),
                asyncio.create_task(connection.to_client(server_reader, writer)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:
            pass  # the server is down: so is the client's connection
        finally:
            for each in writers:
                _reset(each)


class _Connection:
    """The two directions of one connection."""

    def __init__(self, rules: list[Rule], proxy: ToxicProxy) -> None:
        self._rules = rules
        self._proxy = proxy
        self._stages: dict[Rule, int] = {}
        self._of_answer: Rule | None = None

    async def to_server(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK_BYTES):
            match self._proxy.weather:
                case Weather.BLACK_HOLE:
                    await asyncio.Event().wait()
                case Weather.SLOW:
                    await asyncio.sleep(_SLOW_SECONDS)
                case Weather.RESET:
                    return
            rule = self._rule_for(data)
            if rule is not None:
                rule.is_taken = True
                if rule.toxic is Toxic.CUT:
                    rule.reached.set()
                    return
                if rule.toxic is Toxic.HOLD:
                    await rule.hold()
                else:
                    self._of_answer = rule
            writer.write(data)
            await writer.drain()

    async def to_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK_BYTES):
            rule, self._of_answer = self._of_answer, None
            if rule is not None:
                if rule.toxic is Toxic.CUT_ANSWER:
                    rule.reached.set()
                    return
                await rule.hold()
            slices = [data]
            if self._proxy.weather is Weather.SLICED:
                slices = [data[place : place + 1] for place in range(len(data))]
            for each in slices:
                writer.write(each)
                await writer.drain()
                if len(slices) > 1:
                    await asyncio.sleep(0)

    def _rule_for(self, data: bytes) -> Rule | None:
        for rule in self._rules:
            if not rule.is_taken:
                stage = self._stages[rule] = rule.progress(self._stages.get(rule, 0), data)
                if rule.is_complete(stage):
                    return rule
        return None


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    if connection is not None and connection.fileno() >= 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()
