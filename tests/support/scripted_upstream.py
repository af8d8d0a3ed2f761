"""A cloud on a real socket that sends exactly the bytes of a test's script."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

HANG = b"\0hang"
"""Stop sending and keep the connection open."""
RESET = b"\0reset"
CLOSE = b"\0close"
PAUSE = b"\0pause"
"""Send the rest a little later."""

Script = list[bytes]


@dataclass
class Received:
    head: str
    body: bytes
    connection: int

    @property
    def line(self) -> str:
        return self.head.split("\r\n", 1)[0]

    def header(self, name: str) -> list[str]:
        rows = (row.partition(":") for row in self.head.split("\r\n")[1:])
        return [value.strip() for found, _, value in rows if found.lower() == name.lower()]


@dataclass
class ScriptedUpstream:
    """Each request takes the next script; the last one serves all later requests."""

    url: str = ""
    scripts: list[Script] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    connections: int = 0
    sent: int = 0
    """Parts of scripts that are in the client's socket."""

    def next_script(self) -> Script:
        return self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]


def ok(body: bytes = b"{}", *headers: str, status: str = "200 OK") -> Script:
    rows = "".join(f"{row}\r\n" for row in headers)
    return [f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{rows}\r\n".encode() + body]


@asynccontextmanager
async def scripted_upstream(*scripts: Script) -> AsyncIterator[ScriptedUpstream]:
    upstream = ScriptedUpstream(scripts=list(scripts))
    open_writers: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.connections += 1
        open_writers.add(writer)
        try:
            await _converse(upstream, reader, writer, upstream.connections)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            open_writers.discard(writer)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1_048_576)
    upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield upstream
    finally:
        server.close()
        for writer in list(open_writers):
            writer.transport.abort()
        await server.wait_closed()


async def _converse(
    upstream: ScriptedUpstream,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    connection: int,
) -> None:
    while True:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        request = Received(head.rstrip("\r\n"), b"", connection)
        size = int((request.header("Content-Length") or ["0"])[0])
        request.body = await reader.readexactly(size)
        upstream.received.append(request)
        for part in upstream.next_script():
            match part:
                case b"\0hang":
                    await reader.read(1)  # until the caller disconnects or the test ends
                    return
                case b"\0reset":
                    writer.transport.abort()
                    return
                case b"\0close":
                    return
                case b"\0pause":
                    await asyncio.sleep(0.05)
                case _:
                    writer.write(part)
                    await writer.drain()
                    upstream.sent += 1
