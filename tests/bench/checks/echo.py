"""The baseline E: `python -m tests.bench.checks.echo ADDRESS ANSWER_BYTES`.

An empty unary method on grpc.aio and uvloop that parses its request as a message and answers one of a given size: no
interceptor, no key, no deadline of its own, no log, no metric. Everything that Check does above it is what a ratio to E
shows.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys

import grpc
import uvloop
from google.protobuf.wrappers_pb2 import BytesValue

METHOD = "/tollbook.bench.Echo/Answer"


async def _serve(address: str, answer_bytes: int) -> None:
    # Two bytes of tag and one or two of length are on the wire besides the bytes.
    answer = BytesValue(value=b"=" * max(0, answer_bytes - 3))

    async def behaviour(_request: BytesValue, _context: object) -> BytesValue:
        return answer

    method: grpc.RpcMethodHandler[BytesValue, BytesValue] = grpc.unary_unary_rpc_method_handler(
        behaviour,
        request_deserializer=BytesValue.FromString,
        response_serializer=BytesValue.SerializeToString,
    )
    server = grpc.aio.server(options=[("grpc.so_reuseport", 1)])
    handler = grpc.method_handlers_generic_handler("tollbook.bench.Echo", {"Answer": method})
    server.add_generic_rpc_handlers((handler,))
    server.add_insecure_port(address)
    await server.start()
    # As kit's server does.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await server.stop(1.0)


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1], int(sys.argv[2])))
