"""The floor under an invoke: a bare grpc.aio server that echoes bytes, in a process of its own."""

from __future__ import annotations

import asyncio
import sys

import grpc

from plexspaces_node.api.options import server_options

METHOD = "/bench.Floor/Echo"


class _Echo(grpc.GenericRpcHandler):
    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        return grpc.unary_unary_rpc_method_handler(_echo)


async def _echo(request: bytes, context: object) -> bytes:
    return request


async def main() -> None:
    """Serve until stdin ends; the first line on stdout is the port."""
    server = grpc.aio.server(options=server_options())
    server.add_generic_rpc_handlers((_Echo(),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)


if __name__ == "__main__":
    asyncio.run(main())
