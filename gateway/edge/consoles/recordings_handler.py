"""The paths of recordings: list, tickets, the player's WebSocket, export.

    GET  P/console/recordings            those that the caller may view
    GET  P/console/recordings/ID         one
    POST P/console/recordings/ID/views   a one-time address of the player
    POST P/console/recordings/ID/export  one HTML file that plays offline
    GET  P/console/player/socket         the WebSocket of a view

The first four need the JWT and also exist without P, for callers of the API. Below `/ui` they
take the session of a browser; `login.fresh_s` applies to exports and keystrokes.
"""

import asyncio
import math
import re
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import parse_qsl

from aiohttp import web
from multidict import CIMultiDict

from gateway.domain.errors import BadRequest, GatewayError
from gateway.domain.recordings.model import RecordingInfo, RecordingQuery
from gateway.domain.recordings.view_messages import SUBPROTOCOL, opened_fields, recording_fields
from gateway.domain.timestamps import parse_instant, rfc3339
from gateway.edge.consoles.browser_sockets import BrowserSockets
from gateway.edge.consoles.recording_file import RecordingFile
from gateway.edge.json_endpoint import (
    Action,
    IdentifyCaller,
    JsonReply,
    Paths,
    PublicOrigin,
    json_reply,
    read_json,
    recheck_session,
    require_fresh_login,
    require_own_origin,
)
from gateway.edge.listener.request import ListenerRequest
from gateway.flow.clock import Clock
from gateway.flow.recordings.view_tickets import VIEW_TICKET_LIFETIME_S
from gateway.flow.recordings.views import RecordingViews
from gateway.flow.request import RequestContext

_ID: Final = r"([0-9a-f]{32})"
_BODY_BYTES_MAX: Final = 1_024
_LIMIT: Final = re.compile(r"[0-9]{1,4}")
_LIMIT_MAX: Final = 1_000
_RECHECK_EVERY_S: Final = 1.0
"""How often an export in progress looks at the browser's session."""
_NAMES: Final = ("project", "server", "subject", "since", "until", "limit")


class RecordingsHandler:
    def __init__(  # noqa: PLR0913 - what serves, and what it needs of the network
        self,
        origin: PublicOrigin,
        *,
        views: RecordingViews,
        file: RecordingFile,
        identify: IdentifyCaller,
        sockets: BrowserSockets,
        clock: Clock,
        drop_connection: Callable[[asyncio.WriteTransport], None],
    ) -> None:
        self._origin = origin
        self._views = views
        self._file = file
        self._identify = identify
        self._sockets = sockets
        self._clock = clock
        self._drop_connection = drop_connection
        self.paths: Paths = (
            (re.compile("/recordings"), {"GET": Action("ListRecordings", self._list)}),
            (re.compile(f"/recordings/{_ID}"), {"GET": Action("ShowRecording", self._show)}),
            (
                re.compile(f"/recordings/{_ID}/views"),
                {"POST": Action("ViewRecording", self._issue, gives_access=True)},
            ),
            (
                re.compile(f"/recordings/{_ID}/export"),
                {
                    "POST": Action("ExportRecording", serve=self._export, needs_fresh_login=True),
                },
            ),
        )
        self.socket_paths: Paths = (
            (
                re.compile("/player/socket"),
                {"GET": Action("OpenPlayerSocket", serve=self._open_socket)},
            ),
        )

    async def _open_socket(
        self, request: ListenerRequest, context: RequestContext, _: str, __: CIMultiDict[str]
    ) -> web.StreamResponse:
        """Serve a player's WebSocket to its end; raise CrossSiteRequest before the upgrade."""
        require_own_origin(self._origin, request)
        return await self._sockets.serve(
            request, context, SUBPROTOCOL, lambda channel: self._views.serve(channel, context)
        )

    async def _export(
        self,
        request: ListenerRequest,
        context: RequestContext,
        recording: str,
        headers: CIMultiDict[str],
    ) -> web.StreamResponse:
        """Stream a recording as one file. It ends early, without its end, if the right ends.

        Or if the browser's session ends: the wait for the body, and the stream, may take long.
        """
        await self._identify(request, context)
        await self._body(request, context)
        export = await self._views.export(recording, context)
        try:
            await recheck_session(context)
            checked_at = self._clock.monotonic()
            # Not a page of this origin: it is to be saved.
            headers["Content-Type"] = "application/octet-stream"
            name = f"recording-{recording}.html"
            headers["Content-Disposition"] = f'attachment; filename="{name}"'
            response = web.StreamResponse(headers=headers)
            response.enable_chunked_encoding()
            opened = opened_fields(export.info, export.reader.parts)
            await response.prepare(request)
            transport = request.transport
            if transport is not None:  # a client that does not read must not outlast the right
                export.on_right_ended(lambda: self._drop_connection(transport))
            try:
                await response.write(self._file.head(opened))
                for part in export.reader.parts:
                    for index in range(len(part.chunks)):
                        if self._clock.monotonic() - checked_at >= _RECHECK_EVERY_S:
                            await recheck_session(context)
                            checked_at = self._clock.monotonic()
                        records = await export.chunk(part.info.number, index)
                        packed = await asyncio.to_thread(
                            self._file.chunk, part.info.number, index, records
                        )
                        await response.write(packed)
                await response.write(self._file.tail())
                await response.write_eof()
            except (GatewayError, ConnectionError):
                if request.transport is not None:
                    self._drop_connection(
                        request.transport
                    )  # the client sees that the file is not complete
        finally:
            export.close()
        return response

    async def _list(self, request: ListenerRequest, context: RequestContext, _: str) -> JsonReply:
        await self._identify(request, context)
        query, limit = _query(request.raw_path.partition("?")[2])
        page = await self._views.list(query, limit, context)
        # Rounded up, to the microsecond: no recording is left out.
        until = None if page.until is None else rfc3339(math.ceil(page.until * 1e6) / 1e6)
        return json_reply(
            {
                "recordings": [self._fields(one, context) for one in page.recordings],
                "more": until is not None,
                "until": until,
                "complete": page.is_complete,
            }
        )

    async def _show(
        self, request: ListenerRequest, context: RequestContext, recording: str
    ) -> JsonReply:
        await self._identify(request, context)
        return json_reply(self._fields(await self._views.find(recording, context), context))

    def _fields(self, info: RecordingInfo, context: RequestContext) -> dict[str, Any]:
        """Return a recording that the caller may view, with what else the caller may do."""
        may = ["view", "keys"] if self._views.may_show_keys(info, context) else ["view"]
        return {**recording_fields(info), "may": may}

    async def _issue(
        self, request: ListenerRequest, context: RequestContext, recording: str
    ) -> JsonReply:
        await self._identify(request, context)
        with_keystrokes = (await self._body(request, context)).get("keys", False)
        if not isinstance(with_keystrokes, bool):
            raise BadRequest("`keys` must be true or false.")
        if with_keystrokes:
            require_fresh_login(context)
        ticket = await self._views.issue(recording, context, with_keystrokes=with_keystrokes)
        address = f"{self._origin.origin}{self._origin.prefix}/console/player#{ticket.reveal()}"
        return json_reply({"url": address, "expires_in": int(VIEW_TICKET_LIFETIME_S)})

    async def _body(self, request: ListenerRequest, context: RequestContext) -> dict[str, Any]:
        within_s = context.deadline - self._clock.monotonic()
        return await read_json(request, bytes_max=_BODY_BYTES_MAX, within_s=within_s)


def _query(text: str) -> tuple[RecordingQuery, int]:
    """Return the query and the largest number of recordings; raise BadRequest."""
    pairs = parse_qsl(text, keep_blank_values=True)
    values = dict(pairs)
    if len(values) != len(pairs) or not values.keys() <= set(_NAMES):
        raise BadRequest(f"The query may have each of these once: {', '.join(_NAMES)}.")
    limit = values.get("limit", "100")
    if not _LIMIT.fullmatch(limit) or not 1 <= int(limit) <= _LIMIT_MAX:
        raise BadRequest(f"`limit` must be from 1 to {_LIMIT_MAX}.")
    times = {}
    for name in ("since", "until"):
        if name in values:
            try:
                times[name] = parse_instant(values[name])
            except ValueError as error:
                raise BadRequest(f"`{name}` {error}. Write `+` as %2B.") from None
    return (
        RecordingQuery(
            project=values.get("project"),
            server=values.get("server"),
            subject=values.get("subject"),
            **times,
        ),
        int(limit),
    )
