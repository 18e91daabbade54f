"""A proxy before a Redis server that can hold back the replies to reads, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class HoldingProxy:
    """While `is_holding`, what the server replies after an MGET waits here for `release`."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._released = asyncio.Event()
        self.is_holding = False
        self.held_count = 0
        self.port = 0
        self.serving: set[asyncio.Task[None]] = set()

    def hold(self) -> None:
        """Hold the replies to reads from now on."""
        self.is_holding = True
        self._released.clear()

    def release(self) -> None:
        """Let all replies through, now and from now on."""
        self.is_holding = False
        self._released.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on one client's connection."""
        task = asyncio.current_task()
        assert task is not None
        self.serving.add(task)
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._server_port)
        is_read = False

        async def ask() -> None:
            nonlocal is_read
            while sent := await reader.read(65536):
                is_read = b"MGET" in sent
                to_server.write(sent)

        async def answer() -> None:
            while reply := await from_server.read(65536):
                if is_read and self.is_holding:
                    self.held_count += 1
                    await self._released.wait()
                writer.write(reply)

        ways = [asyncio.create_task(ask()), asyncio.create_task(answer())]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)  # an end of one is the other's
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        for end in (writer, to_server):
            end.close()
            with suppress(OSError):
                await end.wait_closed()


@asynccontextmanager
async def holding_proxy(server_port: int) -> AsyncIterator[HoldingProxy]:
    """Run a proxy before a server on this machine. Whoever uses it closes his connections first."""
    proxy = HoldingProxy(server_port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    async with server:
        yield proxy
    await asyncio.wait(proxy.serving)
