"""A minimal cloud in one function, for FakeExchange: the simulated cloud is too slow for it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from gateway.domain.errors import UpstreamRefused
from gateway.domain.model import UpstreamRequest


@dataclass(frozen=True, slots=True)
class SmallServer:
    tags: Mapping[str, str]
    instance: str | None = None
    records: int = 1
    """Alarms and events."""
    name: str = ""
    """In the inventory, as `power`."""
    power: str = ""


class SmallCloud:
    """Responds like the cloud: regardless of the caller, with the name of unknown IDs."""

    def __init__(self, servers: Mapping[str, SmallServer], *, page_max: int = 1000) -> None:
        self.servers = dict(sorted(servers.items()))
        self._page_max = page_max
        self.done: list[tuple[str, tuple[str, ...]]] = []
        """Writes: the end of the path and the affected servers."""

    def __call__(self, request: UpstreamRequest) -> bytes:
        parts = urlsplit(request.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        steps = parts.path.split("/")[3:]
        match [request.method, *steps]:
            case ["GET", "physicalservers"]:
                return self._page("servers", [self._server(one) for one in self.servers], query)
            case ["GET", "physicalservers", "alarms"]:
                return self._records("alarms", query)
            case ["GET", "physicalservers", "events"]:
                return self._records("events", query)
            case ["GET", "physicalservers", server]:
                self._known([server])
                return json.dumps(self._server(server)).encode()
            case ["PUT", "physicalservers", "power-state"]:
                ids = json.loads(request.body)["server_id_set"]
                self._known(ids)
                return self._do("power-state", ids)
            case ["GET", "instances"]:
                return self._instances(query)
            case ["GET", "instances", instance, "status"]:
                self._located([instance])
                return json.dumps({"status": "running", "id": instance}).encode()
            case ["POST", "instances", "batch-delete"]:
                ids = json.loads(request.body)["instance_id_set"]
                self._located(ids)
                return self._do("batch-delete", ids)
            case _:
                raise AssertionError(f"{request.method} {request.path}")

    def _do(self, what: str, ids: Sequence[str]) -> bytes:
        self.done.append((what, tuple(ids)))
        return b"{}"

    def _server(self, server: str) -> dict[str, Any]:
        tags = [{"key": key, "value": value} for key, value in self.servers[server].tags.items()]
        return {"id": server, "name": f"bms-{server[:4]}", "tags": tags}

    def _records(self, entries: str, query: Mapping[str, str]) -> bytes:
        wanted = query.get("resource_id", "")
        found = [
            {"n": n, "resource_id": one, "metric": {"dimensions": [{"value": one}]}}
            for n in range(max((server.records for server in self.servers.values()), default=0))
            for one, server in self.servers.items()
            if n < server.records and (not wanted or one in wanted.split(","))
        ]
        start, limit = int(query.get("offset", "0")), int(query.get("limit", "10"))
        return json.dumps({entries: found[start : start + limit], "count": len(found)}).encode()

    def _instances(self, query: Mapping[str, str]) -> bytes:
        found = [
            {"id": server.instance, "server_id": one}
            for one, server in self.servers.items()
            if server.instance is not None
        ]
        if "instance_id" in query:
            requested = query["instance_id"].split(",")
            self._located(requested)
            found = [one for one in found if one["id"] in requested]
        return self._page("instances", found, query)

    def _page(self, entries: str, found: list[dict[str, Any]], query: Mapping[str, str]) -> bytes:
        marker = query.get("marker", "")
        ids = [one["id"] for one in found]
        if marker and marker not in ids:
            raise UpstreamRefused(400, "iMetal.0001", "Invalid parameter: marker.")
        start = ids.index(marker) + 1 if marker else 0
        limit = min(self._page_max, max(10, int(query.get("limit", "10"))))
        page = found[start : start + limit]
        more = page[-1]["id"] if start + limit < len(found) else None
        info = {"next_marker": more, "previous_marker": None, "current_count": len(page)}
        around = {"count": len(found), "page_info": info, "extra": len(found)}
        return json.dumps({entries: page, **around}).encode()

    def _known(self, ids: Sequence[str]) -> None:
        missing = [one for one in ids if one not in self.servers]
        if missing:
            raise UpstreamRefused(404, "iMetal.0100", f"not found: {missing}")

    def _located(self, ids: Sequence[str]) -> None:
        there = {server.instance for server in self.servers.values()}
        missing = [one for one in ids if one not in there]
        if missing:
            raise UpstreamRefused(404, "iMetal.0200", f"not found: {missing}")
