"""A minimal peer: a token bucket per process and links in Redis.

`python -m tests.benchmarks.storm_peer PORT`; the environment has the rest.
"""

import asyncio
import os
import sys
import time

import jwt
import uvloop
from aiohttp import ClientSession, web
from redis.asyncio import Redis

_PATH = "/v1/{project}/physicalservers/{id}/remote-console-address"
_RATE, _BURST = 10.0, 10.0
_WAIT_S_MAX = 30.0
_LINK_S = 300


class _Bucket:
    """A local bucket with the account's whole rate in each process."""

    def __init__(self) -> None:
        self._level = _BURST
        self._at = time.monotonic()

    def take(self) -> float | None:
        """Take a token; return the wait for it, or None if the wait is too long."""
        now = time.monotonic()
        self._level = min(_BURST, self._level + (now - self._at) * _RATE)
        self._at = now
        wait_s = max(0.0, (1.0 - self._level) / _RATE)
        if wait_s >= _WAIT_S_MAX:
            return None
        self._level -= 1.0
        return wait_s


class _Peer:
    def __init__(self, session: ClientSession) -> None:
        self._session = session
        self._key = os.environ["PEER_PUBLIC_KEY"]
        self._redis = Redis.from_url(os.environ["PEER_REDIS"])
        self._cloud = os.environ["PEER_CLOUD"]
        self._bucket = _Bucket()
        self._token = ""

    async def log_in(self) -> None:
        url = os.environ["PEER_IAM"] + "/v3/auth/tokens?nocatalog=1"
        headers = {"Content-Type": "application/json"}
        login = os.environ["PEER_LOGIN"]
        async with self._session.post(url, data=login, headers=headers) as answer:
            self._token = answer.headers["X-Subject-Token"]

    async def __call__(self, request: web.Request) -> web.Response:
        token = request.headers["Authorization"].removeprefix("Bearer ")
        claims = jwt.decode(token, self._key, algorithms=["RS256"], audience="console-gateway")
        key = f"link:{claims['sub']}:{request.match_info['id']}"
        link = await self._redis.get(key)
        if link is not None:
            return web.Response(body=link, content_type="application/json")
        wait_s = self._bucket.take()
        if wait_s is None:
            return _too_many()
        await asyncio.sleep(wait_s)
        return await self._fetch(request, key)

    async def _fetch(self, request: web.Request, key: str) -> web.Response:
        headers = {"X-Auth-Token": self._token}
        async with self._session.get(self._cloud + request.path, headers=headers) as answer:
            link = await answer.read()
        if answer.status == 429:
            return _too_many()
        if answer.status != 200:
            return web.Response(status=502)
        await self._redis.set(key, link, ex=_LINK_S)
        return web.Response(body=link, content_type="application/json")


def _too_many() -> web.Response:
    return web.Response(status=429, headers={"Retry-After": "1"})


async def _application() -> web.Application:
    peer = _Peer(ClientSession())
    await peer.log_in()
    app = web.Application()
    app.router.add_get(_PATH, peer)
    return app


def main() -> None:
    loop = uvloop.new_event_loop()
    port = int(sys.argv[1])
    web.run_app(_application(), host="127.0.0.1", port=port, access_log=None, print=None, loop=loop)


if __name__ == "__main__":
    main()
