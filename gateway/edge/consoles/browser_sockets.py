"""WebSockets of the gateway's own pages."""

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final

from aiohttp import web

from gateway.domain.errors import BadRequest, CallerLimited
from gateway.edge.json_endpoint import address_key
from gateway.edge.listener.request import ListenerRequest
from gateway.flow.caller_limits import CallerLimits
from gateway.flow.consoles.frame_channel import FrameChannel
from gateway.flow.request import RequestContext
from gateway.flow.shielded_tasks import ShieldedTasks

TRY_AGAIN_LATER: Final = 1013
"""Close code of the WebSocket protocol itself; the pages connect again after a while."""

AcceptBrowser = Callable[
    [web.BaseRequest, str, Mapping[str, str]], Awaitable[tuple[web.StreamResponse, FrameChannel]]
]
"""Upgrades a request with a subprotocol and headers; returns the response and its channel."""


class BrowserSockets:
    """Accepts the WebSockets of the gateway's own pages, and serves each to its end."""

    def __init__(
        self, accept: AcceptBrowser, limits: CallerLimits, on_limited: Callable[[], object]
    ) -> None:
        self._accept = accept
        self._limits = limits
        self._on_limited = on_limited
        self._serving = ShieldedTasks()

    async def serve(
        self,
        request: ListenerRequest,
        context: RequestContext,
        subprotocol: str,
        work: Callable[[FrameChannel], Coroutine[Any, Any, None]],
    ) -> web.StreamResponse:
        """Run `work` with the page's channel; raise BadRequest before the upgrade.

        Above the limit of the client's address the WebSocket closes at once with TRY_AGAIN_LATER:
        a browser would hide the status of a refused upgrade from the page.
        """
        offered = request.headers.get("Sec-WebSocket-Protocol", "")
        if subprotocol not in (one.strip() for one in offered.split(",")):
            raise BadRequest(f"The WebSocket must offer the subprotocol {subprotocol}.")
        try:
            headers = {"X-Request-Id": context.request_id}
            response, channel = await self._accept(request, subprotocol, headers)
        except web.HTTPException:
            raise BadRequest("This path is a WebSocket; the upgrade is malformed.") from None
        try:
            self._limits.admit(address_key(context))
        except CallerLimited:
            self._on_limited()
            await channel.close(TRY_AGAIN_LATER, "limit")
            return response
        # A lost connection cancels the request's handler. The work ends by itself: it reads the
        # end of the channel, and a session still has to record why it ended.
        await self._serving.run(work(channel))
        return response
