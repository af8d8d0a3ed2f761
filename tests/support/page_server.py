"""A server in a thread that serves the real page files: Playwright's synchronous API has this one.

A subclass adds the scripted paths. Each test reads what the page sent.
"""

import asyncio
import threading
from collections.abc import Awaitable
from typing import Any

from aiohttp import web
from multidict import CIMultiDict

from gateway.edge.common_headers import COMMON_HEADERS
from gateway.edge.consoles.page_assets import PageAssets

PREFIX = "/gw"


class PageServer:
    def __init__(self) -> None:
        self._assets = PageAssets.load(PREFIX)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.reset()
        self._thread.start()
        self.origin = self._call(self._start())

    def reset(self) -> None:
        """Restore the script between tests."""
        raise NotImplementedError

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Add the scripted paths."""
        raise NotImplementedError

    def close(self) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, work: Awaitable[Any]) -> Any:
        async def run() -> Any:
            return await work

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(20)

    async def _start(self) -> str:
        app = web.Application()
        self.add_routes(app.router)
        app.router.add_get("/{path:.*}", self._file)
        self._runner = web.AppRunner(app, shutdown_timeout=0.2, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _stop(self) -> None:
        await self._runner.cleanup()

    async def _file(self, request: web.Request) -> web.Response:
        asset = self._assets.find(request.path)
        if asset is None:
            return web.Response(status=404)
        return asset.response(request, CIMultiDict(COMMON_HEADERS))
