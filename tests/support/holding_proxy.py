"""A proxy before a Redis server that can hold back what some connections are sent, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class HoldingProxy:
    """Holds what the server sends on connections whose last command was a certain one."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._released = asyncio.Event()
        self._held_command: bytes | None = None
        self.held_count = 0
        self.port = 0
        self.serving: set[asyncio.Task[None]] = set()

    def hold(self, command: bytes) -> None:
        """Hold what comes after a command, from now on."""
        self._held_command = command
        self._released.clear()

    def release(self) -> None:
        """Let all replies through, now and from now on."""
        self._held_command = None
        self._released.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on one client's connection."""
        task = asyncio.current_task()
        assert task is not None
        self.serving.add(task)
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._server_port)
        sent = b""

        async def ask() -> None:
            nonlocal sent
            while sent := await reader.read(65536):
                to_server.write(sent)

        async def answer() -> None:
            while reply := await from_server.read(65536):
                if self._held_command is not None and self._held_command in sent:
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
