"""The admin listener: metrics and health. It never stands beside the public one."""

import asyncio
from collections.abc import Callable, Mapping

import orjson
from aiohttp import web

Exposition = Callable[[str], tuple[bytes, str]]
Readiness = Callable[[], tuple[bool, Mapping[str, str]]]


def admin_app(exposition: Exposition, readiness: Readiness) -> web.Application:
    async def metrics(request: web.Request) -> web.Response:
        # In a thread: a page of a thousand lines would hold up the callers' requests.
        accept = request.headers.get("Accept", "")
        body, content_type = await asyncio.to_thread(exposition, accept)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def alive(_: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def ready(_: web.Request) -> web.Response:
        is_ready, parts = readiness()
        body = orjson.dumps({"ready": is_ready, "parts": dict(parts)})
        return web.Response(
            status=200 if is_ready else 503, body=body, content_type="application/json"
        )

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/healthz", alive)
    app.router.add_get("/readyz", ready)
    return app
