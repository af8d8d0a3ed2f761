"""A TCP proxy to Redis that a test can redirect, slow down, or turn into one that swallows data."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(eq=False)
class ProxiedConnection:
    """One client's connection."""

    subscribes: bool = False
    """The client has subscribed to a channel on it."""
    swallows: bool = False
    """The proxy reads and acknowledges what both sides send, and forwards nothing."""
    pumps: set[asyncio.Task[None]] = field(default_factory=set)


class TcpProxy:
    def __init__(self, target_port: int, *, refused: tuple[bytes, ...] = ()) -> None:
        """Forward to `target_port`; commands in `refused` are answered as unknown."""
        self.target_port = target_port
        self.delay_s = 0.0
        """Per direction: the round trip takes twice as long."""
        self.connect_delay_s = 0.0
        """Before a new connection is forwarded."""
        self.port = 0
        self.connections: set[ProxiedConnection] = set()
        self._refused = refused

    @asynccontextmanager
    async def serve(self, port: int = 0) -> AsyncIterator["TcpProxy"]:
        listening = await asyncio.start_server(self._accept, "127.0.0.1", port)
        self.port = listening.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            listening.close()
            pumps = [pump for one in self.connections for pump in one.pumps]
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = ProxiedConnection()
        await asyncio.sleep(self.connect_delay_s)
        try:
            to_server = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            writer.close()
            return
        self.connections.add(connection)
        for source, sink, back in (
            (reader, to_server[1], writer),
            (to_server[0], writer, None),
        ):
            pump = asyncio.create_task(self._pump(connection, source, sink, back))
            connection.pumps.add(pump)
            pump.add_done_callback(lambda _: self.connections.discard(connection))

    async def _pump(
        self,
        connection: ProxiedConnection,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        back: asyncio.StreamWriter | None,
    ) -> None:
        try:
            while data := await source.read(65_536):
                await asyncio.sleep(self.delay_s)
                if back is not None and b"SUBSCRIBE" in data:
                    connection.subscribes = True
                if connection.swallows:
                    continue
                if back is not None and any(one in data for one in self._refused):
                    back.write(b"-ERR unknown command\r\n")
                    continue
                sink.write(data)
        except ConnectionError:
            pass
        finally:
            sink.close()
