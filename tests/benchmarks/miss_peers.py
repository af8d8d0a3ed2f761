"""The peers of the miss path: a cloud that costs little, and a plain handler that calls it."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import jwt
import uvloop
from aiohttp import web
from redis.asyncio import Redis

_SESSION = web.AppKey("session", aiohttp.ClientSession)
_PATH = "/v1/{project}/physicalservers/{id}/remote-console-address"
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
_LINK_S = 270


class _Cloud(asyncio.Protocol):
    """Answers every call with a console link, and every list with an empty page."""

    def __init__(self) -> None:
        self._buffer = b""
        self._count = 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            body = b'{"servers": [], "count": 0}'
            if b"/remote-console-address" in head.partition(b"\r\n")[0]:
                self._count += 1
                token = b"%x-%x" % (id(self), self._count)
                body = (
                    b'{"url": "https://cn-east-3-console.huaweicloud.com:443/vnc/'
                    b'x/vnc_auto.html?token=%b"}' % token
                )
            self._transport.write(_HEAD % (len(body), body))


def _plain() -> web.Application:
    """Verify the token, look the link up in Redis, call the cloud, store the link, respond."""
    key = os.environ["PEER_PUBLIC_KEY"]
    headers = {"X-Auth-Token": os.environ["PEER_TOKEN"]}
    redis = Redis.from_url(os.environ["PEER_REDIS"])

    async def session(app: web.Application) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(os.environ["PEER_UPSTREAM"]) as opened:
            app[_SESSION] = opened
            yield

    async def handler(request: web.Request) -> web.Response:
        token = request.headers["Authorization"].removeprefix("Bearer ")
        claims = jwt.decode(token, key, algorithms=["RS256"], audience="console-gateway")
        name = f"link:{claims['sub']}:{request.match_info['id']}"
        link = await redis.get(name)
        if link is None:
            async with request.app[_SESSION].get(request.raw_path, headers=headers) as answer:
                link = (await answer.json())["url"]
            await redis.set(name, link, ex=_LINK_S)
        return web.json_response({"url": link if isinstance(link, str) else link.decode()})

    app = web.Application()
    app.cleanup_ctx.append(session)
    app.router.add_get(_PATH, handler)
    return app


async def _serve_cloud(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Cloud, "127.0.0.1", port)
    await server.serve_forever()


def main() -> None:
    kind, port = sys.argv[1], int(sys.argv[2])
    print(json.dumps({"kind": kind}), flush=True)
    if kind == "cloud":
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve_cloud(port))
    loop = uvloop.new_event_loop()
    web.run_app(_plain(), host="127.0.0.1", port=port, access_log=None, print=None, loop=loop)


if __name__ == "__main__":
    main()
