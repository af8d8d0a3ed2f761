"""The simulated physical-servers API: a front that authenticates and throttles, and the service.

`_OPERATIONS` is the table of upstream-api.md#1.1; each operation is in the module of its subject.
Control paths in addition to those of every listener: POST /_box/rate, /_box/servers and
/_box/real_console, GET /_box/consoles and /_box/fleet.
"""

import asyncio
import json
import random
import uuid
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

from aiohttp import web

from gateway.demo.cloud import alarms, cloud_errors, instances, logs, racks_and_tags, servers
from gateway.demo.cloud.faults import Fault, ResponseFactory
from gateway.demo.cloud.fleet import REGION, CloudProject
from gateway.demo.cloud.fleet_control import FleetControl
from gateway.demo.cloud.front import REVOKED_FORMS, ApiFront
from gateway.demo.cloud.iam import Iam
from gateway.demo.cloud.listener import Handler, Listener
from gateway.demo.cloud.logs import LogDownload
from gateway.demo.cloud.operation_call import (
    Operation,
    OperationCall,
    OperationFailed,
    invalid_parameter,
)
from gateway.demo.cloud.screen.console_listener import ConsoleListener
from gateway.demo.cloud.screen.real_console import RealConsole
from gateway.demo.cloud.throttle import SHAPES, TokenBucket, throttled_response

CONSOLE_BASE = f"https://{REGION}-console.huaweicloud.com:443"

_SERVERS = "/physicalservers"
_SERVER = f"{_SERVERS}/{{id}}"
_EXPORTS = f"{_SERVER}/logs/exports"
_EXPORT = f"{_EXPORTS}/{{export_id}}"
_INSTANCES = "/instances"
_INSTANCE = f"{_INSTANCES}/{{id}}"
_TAGGED = "/{resource_type}/{resource_id}/tags"

# Literal segments come before {id}, because the first matching row wins (upstream-api.md#1.1).
# A string names a method of CloudDc, for an operation that depends on its settings.
_OPERATIONS: tuple[tuple[str, str, Operation | str], ...] = (
    ("GET", _SERVERS, servers.list_servers),
    ("PUT", f"{_SERVERS}/power-state", servers.change_power_state),
    ("GET", f"{_SERVERS}/status", servers.show_status),
    ("GET", f"{_SERVERS}/alarms", alarms.list_alarms),
    ("GET", f"{_SERVERS}/alarms/summary", alarms.show_summary),
    ("GET", f"{_SERVERS}/alarms/trend", alarms.show_trend),
    ("GET", f"{_SERVERS}/events", alarms.list_events),
    ("GET", f"{_SERVERS}/events/{{event_id}}", alarms.show_event),
    ("GET", _SERVER, servers.show_server),
    ("GET", f"{_SERVER}/remote-console-address", "show_remote_console"),
    ("GET", f"{_SERVER}/hardware-attributes", servers.show_hardware),
    ("GET", f"{_SERVER}/firmware-attributes", servers.show_firmware),
    ("POST", _EXPORTS, logs.start_export),
    ("GET", _EXPORT, "show_export"),
    ("GET", f"{_EXPORT}/content", "download_logs"),
    ("GET", _INSTANCES, instances.list_instances),
    ("POST", _INSTANCES, instances.create),
    ("POST", f"{_INSTANCES}/batch-create", instances.run),
    ("POST", f"{_INSTANCES}/batch-delete", instances.delete_set),
    ("PUT", f"{_INSTANCES}/reinstall", instances.reinstall),
    ("PUT", f"{_INSTANCES}/password", instances.change_password),
    ("GET", f"{_INSTANCE}/status", instances.show_status),
    ("PUT", f"{_INSTANCE}/ip", instances.modify_ip),
    ("DELETE", _INSTANCE, instances.delete),
    ("GET", "/idcs", racks_and_tags.list_rooms),
    ("PUT", "/idcs", racks_and_tags.update_rooms),
    ("GET", "/iracks", racks_and_tags.list_racks),
    ("PUT", "/iracks/{irack_id}", racks_and_tags.update_rack),
    ("POST", "/iracks/{id}/tags/create", racks_and_tags.create_rack_tags),
    ("POST", "/iracks/{id}/tags/delete", racks_and_tags.delete_rack_tags),
    ("POST", f"{_TAGGED}/create", racks_and_tags.create_tags),
    ("POST", f"{_TAGGED}/delete", racks_and_tags.delete_tags),
)
_EXTRA = {"since": "a later version", "values": [1, None]}
"""The member that the setting `extra` adds: unknown to every client."""
_REQUEST_ID = web.RequestKey("request_id", str)


class CloudDc(Listener):
    settable: ClassVar[tuple[str, ...]] = (
        "console_base",
        "export_polls",
        "extra",
        "gzip",
        "latency_s",
        "live_projects",
        "log_bytes",
        "not_ready",
        "revoked_form",
    )

    def __init__(
        self,
        iam: Iam,
        *,
        projects: dict[str, list[str]],
        rate: float = 10.0,
        burst: float = 10.0,
        port: int = 0,
    ) -> None:
        """`projects` maps project to server IDs; `rate` is in calls per second for all callers."""
        super().__init__("cloud", port=port, response_faults=self._make_response_faults())
        self.projects = {project: CloudProject(project, ids) for project, ids in projects.items()}
        self.bucket = TokenBucket(rate, burst)
        self.throttled_shape = "apigw"
        self.retry_after: str | None = None
        self.latency_s: Sequence[float] = (0.05, 0.15)
        self.console_base = CONSOLE_BASE
        """Scheme and host of console URLs that lead to no live console."""
        self.console_host = ConsoleListener(self.projects)
        self.live_projects: Sequence[str] = ()
        """Projects whose console URLs lead to `console_host`."""
        self.real_consoles: dict[str, RealConsole] = {}
        """By server: another program that serves its console."""
        self.not_ready: Sequence[str] = ()
        """IDs of servers whose console returns iMetal.0101."""
        self.consoles: Counter[str] = Counter()
        """Number of console URLs issued, by server."""
        self.log_bytes = 65_536
        """File size of a log export."""
        self.export_polls = 0
        """Number of status requests that report an export as unfinished."""
        self.gzip = False
        """Compress responses for callers that accept gzip."""
        self.extra = False
        """Add an unknown member to each response and its entries."""
        self._front = ApiFront(iam)
        self._jitter = random.Random()
        self.app.middlewares.append(self._pass_front)
        for method, template, operation in _OPERATIONS:
            function = getattr(self, operation) if isinstance(operation, str) else operation
            # GET only: a HEAD must not open a console.
            self.app.router.add_route(
                method, "/v1/{project}" + template, partial(self._serve, function)
            )
        FleetControl(self.app, self.projects)
        self.app.router.add_post("/_box/rate", self._set_rate)
        self.app.router.add_get("/_box/consoles", self._list_consoles)
        self.app.router.add_post("/_box/real_console", self._add_real_console)

    @property
    def revoked_form(self) -> str:
        """The 401 to a revoked token: a key of REVOKED_FORMS."""
        return self._front.revoked_form

    @revoked_form.setter
    def revoked_form(self, form: str) -> None:
        if form not in REVOKED_FORMS:
            raise ValueError(f"unknown form {form!r}; known: {', '.join(REVOKED_FORMS)}")
        self._front.revoked_form = form

    @property
    def throttled(self) -> int:
        """Number of calls answered with 429."""
        return self.statuses[429]

    @property
    def duplicates(self) -> dict[str, int]:
        """Number of console URLs beyond the first, by server."""
        return {server: count - 1 for server, count in self.consoles.items() if count > 1}

    def counters(self) -> dict[str, Any]:
        return {
            **super().counters(),
            "throttled": self.throttled,
            "consoles": dict(self.consoles),
            "duplicates": self.duplicates,
        }

    def forget_calls(self) -> None:
        super().forget_calls()
        self.consoles.clear()

    def show_remote_console(self, call: OperationCall) -> dict[str, str]:
        server = call.server()
        if server.id in self.not_ready:
            raise OperationFailed(cloud_errors.SERVER_NOT_READY)
        self.consoles[server.id] += 1
        base, token = self._open_console(call.project.id, server.id)
        return {
            "url": f"{base}/vnc/{server.name}.{REGION}/vnc_auto.html"
            f"?token={token}&compression=9&quality=0&resize=scale"
        }

    def _open_console(self, project: str, server: str) -> tuple[str, str]:
        """Return scheme and host of a server's console, and a fresh token for it."""
        token = self.console_host.tokens.issue(project, server)
        real = self.real_consoles.get(server)
        if real is not None:
            real.admit(token)
            return real.base, token
        is_live = project in self.live_projects
        return self.console_host.url if is_live else self.console_base, token

    def show_export(self, call: OperationCall) -> dict[str, Any]:
        return logs.show_export(call, polls=self.export_polls)

    def download_logs(self, call: OperationCall) -> web.Response | LogDownload:
        return logs.download(call, size=self.log_bytes, polls=self.export_polls)

    async def _serve(self, operation: Operation, request: web.Request) -> web.StreamResponse:
        try:
            result = operation(await self._read(request))
        except OperationFailed as refused:
            return refused.error.response()
        if isinstance(result, LogDownload):
            return await result.send(request, {"X-Request-Id": request[_REQUEST_ID]})
        if isinstance(result, web.Response):
            return result
        if not _accepts_json(request.headers.get("Accept", "*/*")):
            return web.Response(status=406)
        return web.json_response(_add_unknown_members(result) if self.extra else result)

    async def _read(self, request: web.Request) -> OperationCall:
        project = request.match_info["project"]
        body = None
        if request.method != "GET" and (text := await request.read()):
            try:
                body = json.loads(text.decode(request.charset or "utf-8"))
            except (ValueError, RecursionError, LookupError) as error:
                raise invalid_parameter("body") from error
        owned = self.projects.get(project) or CloudProject(project)
        return OperationCall(owned, request.match_info, request.query, request.headers, body)

    @web.middleware
    async def _pass_front(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Throttle, authenticate and route, as the API front does before the service."""
        if request.path.startswith("/_box/"):
            return await handler(request)
        request_id = request[_REQUEST_ID] = uuid.uuid4().hex
        response = await self._respond(request, handler, request_id)
        if response.prepared:
            return response
        response.headers["X-Request-Id"] = request_id
        takes_gzip = "gzip" in request.headers.get("Accept-Encoding", "").lower()
        if self.gzip and takes_gzip and isinstance(response, web.Response) and response.body:
            response.enable_compression(web.ContentCoding.gzip)
            response.headers["Vary"] = "Accept-Encoding"
        return response

    async def _respond(
        self, request: web.Request, handler: Handler, request_id: str
    ) -> web.StreamResponse:
        if not self.bucket.take():
            return throttled_response(
                self.throttled_shape, self.bucket.rate, request_id, self.retry_after
            )
        if (missing := request.match_info.http_exception) is not None:
            error = cloud_errors.METHOD_WRONG if missing.status == 405 else cloud_errors.API_UNKNOWN
            return error.response(request_id)
        refused = await self._front.authenticate(request)
        if refused is not None:
            return refused.response(request_id)
        await asyncio.sleep(self._jitter.uniform(*self.latency_s))
        return await handler(request)

    def _make_response_faults(self) -> dict[str, ResponseFactory]:
        return cloud_errors.as_faults(cloud_errors.CLOUD) | {
            "throttled": self._throttled,
            "url_missing": lambda _: web.json_response({"link": CONSOLE_BASE}),
            "url_number": lambda _: web.json_response({"url": 7}),
            "url_null": lambda _: web.json_response({"url": None}),
            "url_http": lambda _: _link_response("http://cn-east-3-console.huaweicloud.com/vnc"),
            "url_foreign": lambda _: _link_response(
                "https://huaweicloud.com.elsewhere.example/vnc"
            ),
            "url_javascript": lambda _: _link_response("javascript:alert(document.domain)//"),
        }

    def _throttled(self, fault: Fault) -> web.Response:
        retry_after = fault.headers.get("Retry-After")
        return throttled_response(fault.shape, self.bucket.rate, uuid.uuid4().hex, retry_after)

    async def _set_rate(self, request: web.Request) -> web.Response:
        call = await request.json()
        shape = call.get("shape", self.throttled_shape)
        if shape not in SHAPES:
            raise ValueError(f"unknown shape {shape!r}; known: {', '.join(SHAPES)}")
        rate = float(call.get("rate", self.bucket.rate))
        self.bucket.change(rate, float(call.get("burst", self.bucket.burst)))
        self.throttled_shape = shape
        self.retry_after = call.get("retry_after", self.retry_after)
        return web.json_response({"rate": self.bucket.rate, "burst": self.bucket.burst})

    async def _add_real_console(self, request: web.Request) -> web.Response:
        details = await request.json()
        server = details.pop("server")
        self.real_consoles[server] = RealConsole(**details)
        return web.json_response({})

    async def _list_consoles(self, _: web.Request) -> web.Response:
        return web.json_response(dict(self.consoles))


def _accepts_json(accept: str) -> bool:
    return any(media in accept for media in ("application/json", "application/*", "*/*"))


def _link_response(base: str) -> web.Response:
    return web.json_response({"url": f"{base}/vnc_auto.html?token={uuid.uuid4()}"})


def _add_unknown_members(body: Any) -> Any:
    """Add an unknown member to the response and to each entry of its lists."""
    if not isinstance(body, dict):
        return body
    entries = {
        name: [{**one, "box_extra": _EXTRA} if isinstance(one, dict) else one for one in value]
        for name, value in body.items()
        if isinstance(value, list)
    }
    return {**body, **entries, "box_extra": _EXTRA}
