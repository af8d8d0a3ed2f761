"""The peers of the benchmarks, each on one core with uvloop."""

import json
import os
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import jwt
import uvloop
from aiohttp import web
from redis.asyncio import Redis

_URL = "https://cn-east-3-console.huaweicloud.com:443/vnc/x/vnc_auto.html?token=0"
_SESSION = web.AppKey("session", aiohttp.ClientSession)
_PATH = "/v1/{project}/physicalservers/{id}/remote-console-address"


async def _bare(_: web.Request) -> web.Response:
    return web.json_response({"url": _URL})


def _plain() -> web.Application:
    """A minimal handler: verify the token, look the link up in Redis, respond."""
    key = os.environ["PEER_PUBLIC_KEY"]
    redis = Redis.from_url(os.environ["PEER_REDIS"])

    async def handler(request: web.Request) -> web.Response:
        token = request.headers["Authorization"].removeprefix("Bearer ")
        claims = jwt.decode(token, key, algorithms=["RS256"], audience="console-gateway")
        link = await redis.get(f"link:{claims['sub']}:{request.match_info['id']}")
        return web.json_response({"url": _URL if link is None else link.decode()})

    app = web.Application()
    app.router.add_get(_PATH, handler)
    return app


def _misses(*, remembers: bool) -> web.Application:
    """Fetch each link from the cloud; Redis is asked before, and gets the link.

    `remembers`: a verified token is not verified again, and Redis has one connection.
    """
    key, project = os.environ["PEER_PUBLIC_KEY"], os.environ["PEER_PROJECT"]
    redis = Redis.from_url(os.environ["PEER_REDIS"], single_connection_client=remembers)
    verified: dict[str, dict[str, Any]] = {}

    def claims_of(token: str) -> dict[str, Any]:
        claims = verified.get(token)
        if claims is None or claims["exp"] <= time.time():
            claims = jwt.decode(token, key, algorithms=["RS256"], audience="console-gateway")
            if remembers:
                verified[token] = claims
        return claims

    async def session(app: web.Application) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(os.environ["PEER_UPSTREAM"]) as opened:
            app[_SESSION] = opened
            yield

    async def handler(request: web.Request) -> web.Response:
        try:
            claims = claims_of(request.headers["Authorization"].removeprefix("Bearer "))
        except (KeyError, jwt.InvalidTokenError):
            return web.json_response({"error": "unauthorized"}, status=401)
        if request.match_info["project"] != project:
            return web.json_response({"error": "forbidden"}, status=403)
        name = f"never:{claims['sub']}:{request.match_info['id']}"
        await redis.get(name)
        headers = {"X-Auth-Token": "0123456789abcdef"}
        async with request.app[_SESSION].get(request.raw_path, headers=headers) as answer:
            url = (await answer.json())["url"]
        await redis.set(name + ":stored", url, ex=270)
        return web.json_response({"url": url})

    app = web.Application()
    app.cleanup_ctx.append(session)
    app.router.add_get(_PATH, handler)
    return app


def _forward() -> web.Application:
    """Forward each request to the cloud with a fixed token, without any other step."""
    headers = {"X-Auth-Token": os.environ["PEER_TOKEN"]}

    async def session(app: web.Application) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(os.environ["PEER_UPSTREAM"]) as opened:
            app[_SESSION] = opened
            yield

    async def handler(request: web.Request) -> web.Response:
        async with request.app[_SESSION].request(
            request.method, request.raw_path, headers=headers, data=await request.read()
        ) as answer:
            body = await answer.read()
            return web.Response(status=answer.status, body=body, content_type=answer.content_type)

    app = web.Application()
    app.cleanup_ctx.append(session)
    app.router.add_route("*", "/{path:.*}", handler)
    return app


def main() -> None:
    kind, port = sys.argv[1], int(sys.argv[2])
    if kind == "bare":
        app = web.Application()
        app.router.add_get(_PATH, _bare)
    elif kind == "forward":
        app = _forward()
    elif kind in {"plain-misses", "lean-misses"}:
        app = _misses(remembers=kind == "lean-misses")
    else:
        app = _plain()
    print(json.dumps({"kind": kind}), flush=True)
    loop = uvloop.new_event_loop()
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None, loop=loop)


if __name__ == "__main__":
    main()
