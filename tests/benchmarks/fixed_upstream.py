"""A cloud that answers each request for a console link at once, with one fixed link.

The simulated cloud is slower than the proxies that are compared.
"""

import asyncio
import sys
from typing import cast

import uvloop

_BODY = b'{"url":"https://cn-east-3-console.huaweicloud.com/vnc?token=0123456789abcdef0123"}'
_RESPONSE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(_BODY)
) + _BODY


class _Fixed(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._head = b""

    def data_received(self, data: bytes) -> None:
        self._head += data
        requests = self._head.count(b"\r\n\r\n")
        if requests:
            self._head = self._head.rpartition(b"\r\n\r\n")[2]
            self._transport.write(_RESPONSE * requests)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Fixed, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
