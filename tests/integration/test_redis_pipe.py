"""One connection to a real Redis that many callers share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from kit.redis.client import Script
from kit.redis.embedded import EmbeddedRedis
from kit.redis.pipe import RedisPipe
from kit.testing.stores import free_port


@pytest.fixture
async def pipe(redis_server: EmbeddedRedis) -> AsyncIterator[RedisPipe]:
    async with RedisPipe(redis_server.url, timeout_seconds=5) as pipe:
        yield pipe


@pytest.fixture
async def other(redis_server: EmbeddedRedis) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_server.url) as client:
        yield client


async def test_every_caller_gets_the_answer_to_its_own_command(pipe: RedisPipe) -> None:
    answers = await asyncio.gather(*(pipe.execute_command("ECHO", number) for number in range(500)))
    assert answers == [str(number).encode() for number in range(500)]


async def test_all_callers_share_one_connection(pipe: RedisPipe, other: Redis) -> None:
    await pipe.execute_command("CLIENT", "SETNAME", "shared")
    await asyncio.gather(*(pipe.execute_command("PING") for _ in range(50)))
    assert sum(client["name"] == "shared" for client in await other.client_list()) == 1


async def test_an_error_is_for_the_caller_of_its_command_alone(pipe: RedisPipe) -> None:
    outcomes = await asyncio.gather(
        pipe.execute_command("ECHO", "a"),
        pipe.execute_command("NO_SUCH_COMMAND"),
        pipe.execute_command("ECHO", "b"),
        return_exceptions=True,
    )
    assert outcomes[0] == b"a"
    assert isinstance(outcomes[1], ResponseError)
    assert outcomes[2] == b"b"


async def test_a_cancelled_caller_takes_no_answer_from_others(pipe: RedisPipe) -> None:
    await pipe.execute_command("PING")
    waiting = [asyncio.create_task(pipe.execute_command("ECHO", number)) for number in range(5)]
    await asyncio.sleep(0)
    waiting[1].cancel()
    waiting[3].cancel()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [outcomes[place] for place in (0, 2, 4)] == [b"0", b"2", b"4"]
    assert await pipe.execute_command("ECHO", "after") == b"after"


async def test_a_lost_connection_is_told_and_made_anew(pipe: RedisPipe, other: Redis) -> None:
    number = await pipe.execute_command("CLIENT", "ID")
    hanging = asyncio.create_task(pipe.execute_command("BLPOP", "nothing-comes", 0))
    await asyncio.sleep(0)
    await other.client_kill_filter(_id=str(number))
    with pytest.raises(RedisConnectionError):
        await hanging
    assert await pipe.execute_command("CLIENT", "ID") != number


async def test_what_is_not_answered_in_time_is_given_up_and_the_next_is_answered(
    redis_server: EmbeddedRedis,
) -> None:
    async with RedisPipe(redis_server.url, timeout_seconds=0.05) as pipe:
        with pytest.raises(RedisTimeoutError):
            await pipe.execute_command("BLPOP", "nothing-comes", "0.1")
        async with asyncio.timeout(5):
            while True:
                try:
                    assert await pipe.execute_command("ECHO", "after") == b"after"
                except RedisTimeoutError:
                    continue
                break


async def test_no_server_is_an_error_at_once() -> None:
    async with RedisPipe(f"redis://127.0.0.1:{free_port()}/0", timeout_seconds=5) as pipe:
        outcomes = await asyncio.gather(*(pipe.execute_command("PING") for _ in range(3)), return_exceptions=True)
    assert all(isinstance(outcome, RedisConnectionError) for outcome in outcomes)


async def test_a_wrong_password_is_an_error(redis_server: EmbeddedRedis) -> None:
    url = redis_server.url.replace("redis://:", "redis://:wrong")
    async with RedisPipe(url, timeout_seconds=5) as pipe:
        with pytest.raises(RedisError):
            await pipe.execute_command("PING")


async def test_a_server_that_takes_the_connection_and_says_nothing_costs_the_timeout_once() -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, RedisPipe(f"redis://:secret@127.0.0.1:{port}/0", timeout_seconds=0.05) as pipe:
        outcomes = await asyncio.gather(*(pipe.execute_command("PING") for _ in range(20)), return_exceptions=True)
        assert all(isinstance(outcome, RedisError) for outcome in outcomes)


async def test_a_script_that_the_server_forgot_is_sent_again(pipe: RedisPipe, tmp_path: Path) -> None:
    path = tmp_path / "sum.lua"
    path.write_text("return tonumber(ARGV[1]) + #KEYS")
    script = Script(pipe, path)
    assert await script(keys=["{a}1", "{a}2"], args=[40]) == 42
    await pipe.execute_command("SCRIPT", "FLUSH")
    assert await script(keys=["{a}1"], args=[40]) == 41


async def test_closing_ends_those_who_wait(redis_server: EmbeddedRedis) -> None:
    pipe = RedisPipe(redis_server.url, timeout_seconds=5)
    await pipe.execute_command("PING")
    hanging = asyncio.create_task(pipe.execute_command("BLPOP", "nothing-comes", 0))
    await asyncio.sleep(0)
    await pipe.aclose()
    with pytest.raises(RedisConnectionError):
        await hanging
