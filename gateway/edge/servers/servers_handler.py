"""The path of a person's servers.

GET P/servers   those that the caller may see or open, over all accounts

A caller without `server:read` gets the name only, which `gateway console` needs.
"""

import asyncio
import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

import orjson

from gateway.domain.catalogue.json_body import JSON_MEDIA_TYPE
from gateway.domain.errors import BadRequest
from gateway.domain.timestamps import rfc3339
from gateway.edge.etag import etag_of, matches_etag
from gateway.edge.json_endpoint import Action, IdentifyCaller, JsonReply, Paths
from gateway.edge.listener.request import ListenerRequest
from gateway.flow.request import RequestContext
from gateway.flow.visible_servers import VisibleProject, VisibleServer, VisibleServers

PATH: Final = "/servers"
_HEADERS: Final = (
    ("Cache-Control", "private, no-cache"),
    ("Vary", "Authorization, X-Auth-Token, Cookie"),
)


class ServersHandler:
    def __init__(self, servers: VisibleServers, identify: IdentifyCaller) -> None:
        self._servers = servers
        self._identify = identify
        self.paths: Paths = ((re.compile(""), {"GET": Action("ListVisibleServers", self._list)}),)

    async def _list(self, request: ListenerRequest, context: RequestContext, _: str) -> JsonReply:
        person = await self._identify(request, context)
        if "?" in request.raw_path:
            raise BadRequest("This path takes no query.")
        found = await self._servers.of(person, deadline=context.deadline)
        body = await asyncio.to_thread(encode_projects, found)
        etag = etag_of(body)
        headers = (*_HEADERS, ("ETag", f'"{etag}"'))
        conditions = request.headers.getall("If-None-Match", ())
        if conditions and matches_etag(etag, ",".join(conditions)):
            return JsonReply(HTTPStatus.NOT_MODIFIED, b"", headers)
        return JsonReply(HTTPStatus.OK, body, (("Content-Type", JSON_MEDIA_TYPE), *headers))


def encode_projects(found: Sequence[VisibleProject]) -> bytes:
    return orjson.dumps({"projects": [_project_fields(one) for one in found]})


def _project_fields(found: VisibleProject) -> dict[str, Any]:
    project = found.project
    return {
        "project_id": project.id,
        "project_name": project.name,
        "account": project.account,
        "region": project.region,
        "delivery": project.delivery,
        "listed_at": None if found.listed_at is None else rfc3339(int(found.listed_at)),
        "is_current": found.is_current,
        "servers": [_server_fields(one) for one in found.servers],
    }


def _server_fields(server: VisibleServer) -> dict[str, Any]:
    known = server.known
    fields: dict[str, Any] = {"id": server.id, "name": known.name or None}
    if server.is_readable:
        fields |= {
            "location": {name: getattr(known, name) or None for name in ("dc", "rack", "unit")},
            "model": known.model or None,
            "power_state": known.power or None,
            "health_state": known.health or None,
            "tags": None
            if known.tags is None
            else [{"key": key, "value": value} for key, value in sorted(known.tags)],
        }
    return {**fields, "permissions": server.permissions}
