"""The paths of a person's servers.

GET P/servers         those that the caller may see or open, over all accounts
GET P/servers/state   the age of each list, changed power states, people on consoles

A caller without `server:read` gets the name only, which `gateway console` needs.
"""

import re
from http import HTTPStatus
from typing import Final

from gateway.domain.catalogue.headers import accepts_gzip
from gateway.domain.catalogue.json_body import JSON_MEDIA_TYPE
from gateway.domain.errors import BadRequest
from gateway.edge.etag import matches_etag
from gateway.edge.json_endpoint import Action, IdentifyCaller, JsonReply, Paths
from gateway.edge.listener.request import ListenerRequest
from gateway.flow.request import RequestContext
from gateway.flow.servers.encoded_body import EncodedBody
from gateway.flow.servers.server_lists import ServerLists
from gateway.flow.servers.server_states import ServerStates

PATH: Final = "/servers"
_HEADERS: Final = (
    ("Cache-Control", "private, no-cache"),
    ("Vary", "Authorization, X-Auth-Token, Cookie, Accept-Encoding"),
)
_GZIP_ETAG: Final = "-gzip"
"""The bytes differ by coding, so each coding has a separate validator (RFC 9110, 8.8.1)."""


class ServersHandler:
    def __init__(self, lists: ServerLists, states: ServerStates, identify: IdentifyCaller) -> None:
        self._lists = lists
        self._states = states
        self._identify = identify
        self.paths: Paths = (
            (re.compile(""), {"GET": Action("ListVisibleServers", self._list)}),
            (re.compile("/state"), {"GET": Action("ShowServersState", self._state)}),
        )

    async def _list(self, request: ListenerRequest, context: RequestContext, _: str) -> JsonReply:
        person = await self._identify(request, context)
        _require_no_query(request)
        shown = await self._lists.of(person, deadline=context.deadline)
        return await conditional_reply(request, shown.body)

    async def _state(self, request: ListenerRequest, context: RequestContext, _: str) -> JsonReply:
        person = await self._identify(request, context)
        _require_no_query(request)
        state = await self._states.of(person, deadline=context.deadline)
        return await conditional_reply(request, state)


def _require_no_query(request: ListenerRequest) -> None:
    if "?" in request.raw_path:
        raise BadRequest("This path takes no query.")


async def conditional_reply(request: ListenerRequest, body: EncodedBody) -> JsonReply:
    """Return the body in the coding that the caller accepts, or 304 if the caller has it."""
    headers = request.headers
    is_coded = body.is_gzipped and accepts_gzip(headers.getall("Accept-Encoding", ()))
    conditions = ",".join(headers.getall("If-None-Match", ()))
    etag = body.etag + _GZIP_ETAG if is_coded else body.etag
    # A caller that has the content in the other coding needs no copy in this one.
    other = body.etag if is_coded else body.etag + _GZIP_ETAG
    for one in (etag, other):
        if conditions and matches_etag(one, conditions):
            return JsonReply(HTTPStatus.NOT_MODIFIED, b"", (*_HEADERS, ("ETag", f'"{one}"')))
    fields = (("Content-Type", JSON_MEDIA_TYPE), *_HEADERS, ("ETag", f'"{etag}"'))
    if is_coded:
        return JsonReply(HTTPStatus.OK, body.data, (*fields, ("Content-Encoding", "gzip")))
    return JsonReply(HTTPStatus.OK, await body.plain(), fields)
