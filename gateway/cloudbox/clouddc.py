"""The physical-servers API, in a box: a front that authenticates and throttles, and the service.

Another operation of the dossier's table is one more row in `_OPERATIONS` and its method.
"""

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

from aiohttp import web

from gateway.cloudbox import refusals
from gateway.cloudbox.faults import Answer, Fault
from gateway.cloudbox.front import Front
from gateway.cloudbox.iam import Iam
from gateway.cloudbox.listener import Handler, Listener
from gateway.cloudbox.throttle import SHAPES, TokenBucket, too_many

REGION = "cn-east-3"
CONSOLE_BASE = f"https://{REGION}-console.huaweicloud.com:443"

# Literal segments stand before {id}: the first row that fits is taken (dossier 1.1).
_OPERATIONS = (
    ("GET", "/physicalservers", "list_servers"),
    ("GET", "/physicalservers/{id}", "show_server"),
    ("GET", "/physicalservers/{id}/remote-console-address", "show_remote_console"),
)
_PAGE_MIN, _PAGE_MAX = 10, 1000


class CloudDc(Listener):
    settable: ClassVar[tuple[str, ...]] = ("console_base", "latency_s", "not_ready")

    def __init__(
        self,
        iam: Iam,
        *,
        projects: dict[str, list[str]],
        rate: float = 10.0,
        burst: float = 10.0,
        port: int = 0,
    ) -> None:
        """`projects`: each project's server ids; `rate` in calls a second, for all together."""
        super().__init__("cloud", port=port, answers=self._own_faults())
        self.projects = projects
        self.bucket = TokenBucket(rate, burst)
        self.throttled_shape = "apigw"
        self.retry_after: str | None = None
        self.latency_s: Sequence[float] = (0.05, 0.15)
        self.console_base = CONSOLE_BASE
        """Scheme and host of the console URLs."""
        self.not_ready: Sequence[str] = ()
        """Servers whose console answers iMetal.0101."""
        self.consoles: Counter[str] = Counter()
        """How many console URLs were made for each server."""
        self._front = Front(iam)
        self._jitter = random.Random()
        self.app.middlewares.append(self._come_in)
        for method, template, operation in _OPERATIONS:
            path = "/v1/{project}" + template
            # GET alone: a HEAD must not open a console.
            self.app.router.add_route(method, path, getattr(self, operation))
        self.app.router.add_post("/_box/rate", self._set_rate)
        self.app.router.add_get("/_box/consoles", self._list_consoles)

    @property
    def throttled(self) -> int:
        """How many calls were answered 429."""
        return self.statuses[429]

    @property
    def duplicates(self) -> dict[str, int]:
        """How many console URLs more than one were made for a server."""
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

    async def list_servers(self, request: web.Request) -> web.Response:
        servers = sorted(self.projects.get(request.match_info["project"], ()))
        try:
            asked = int(request.query.get("limit", _PAGE_MIN))
        except ValueError:
            return refusals.PARAMETER_INVALID.about("Invalid parameter: limit.").response()
        limit = min(_PAGE_MAX, max(_PAGE_MIN, asked))
        marker = request.query.get("marker", "")
        if marker and marker not in servers:
            return refusals.PARAMETER_INVALID.about("Invalid parameter: marker.").response()
        described = [_describe(request, server) for server in servers]
        state = request.query.get("manage_state")
        fitting = [one for one in described if state in (None, one["manage_state"])]
        after = [one for one in fitting if one["id"] > marker]
        page = after[:limit]
        before = [one["id"] for one in fitting if one["id"] <= marker]
        more = len(after) > len(page)
        info = {
            "next_marker": page[-1]["id"] if more else None,
            "previous_marker": before[-limit] if len(before) >= limit else None,
            "current_count": len(page),
        }
        return web.json_response({"servers": page, "page_info": info, "count": len(fitting)})

    async def show_server(self, request: web.Request) -> web.Response:
        if not self._exists(request):
            return _unknown(request)
        return web.json_response(_describe(request, request.match_info["id"]))

    async def show_remote_console(self, request: web.Request) -> web.Response:
        server = request.match_info["id"]
        if not self._exists(request):
            return _unknown(request)
        if server in self.not_ready:
            return refusals.SERVER_NOT_READY.response()
        self.consoles[server] += 1
        url = (
            f"{self.console_base}/vnc/{_name(server)}.{REGION}/vnc_auto.html"
            f"?token={uuid.uuid4()}&compression=9&quality=0&resize=scale"
        )
        return web.json_response({"url": url})

    @web.middleware
    async def _come_in(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Do what the front does before the service: throttle, authenticate, route."""
        if request.path.startswith("/_box/"):
            return await handler(request)
        request_id = uuid.uuid4().hex
        response = await self._answer(request, handler, request_id)
        response.headers["X-Request-Id"] = request_id
        return response

    async def _answer(
        self, request: web.Request, handler: Handler, request_id: str
    ) -> web.StreamResponse:
        if not self.bucket.take():
            return too_many(self.throttled_shape, self.bucket.rate, request_id, self.retry_after)
        if (missing := request.match_info.http_exception) is not None:
            refusal = refusals.METHOD_WRONG if missing.status == 405 else refusals.API_UNKNOWN
            return refusal.response(request_id)
        refused = await self._front.authenticate(request)
        if refused is not None:
            return refused.response(request_id)
        await asyncio.sleep(self._jitter.uniform(*self.latency_s))
        return await handler(request)

    def _exists(self, request: web.Request) -> bool:
        return request.match_info["id"] in self.projects.get(request.match_info["project"], ())

    def _own_faults(self) -> dict[str, Answer]:
        return refusals.as_faults(refusals.CLOUD) | {
            "throttled": self._throttled,
            "url_missing": lambda _: web.json_response({"link": CONSOLE_BASE}),
            "url_number": lambda _: web.json_response({"url": 7}),
            "url_null": lambda _: web.json_response({"url": None}),
            "url_http": lambda _: _linking("http://cn-east-3-console.huaweicloud.com/vnc"),
            "url_foreign": lambda _: _linking("https://huaweicloud.com.elsewhere.example/vnc"),
            "url_javascript": lambda _: _linking("javascript:alert(document.domain)//"),
        }

    def _throttled(self, fault: Fault) -> web.Response:
        retry_after = fault.headers.get("Retry-After")
        return too_many(fault.shape, self.bucket.rate, uuid.uuid4().hex, retry_after)

    async def _set_rate(self, request: web.Request) -> web.Response:
        asked = await request.json()
        shape = asked.get("shape", self.throttled_shape)
        if shape not in SHAPES:
            raise ValueError(f"unknown shape {shape!r}; known: {', '.join(SHAPES)}")
        rate = float(asked.get("rate", self.bucket.rate))
        self.bucket.change(rate, float(asked.get("burst", self.bucket.burst)))
        self.throttled_shape = shape
        self.retry_after = asked.get("retry_after", self.retry_after)
        return web.json_response({"rate": self.bucket.rate, "burst": self.bucket.burst})

    async def _list_consoles(self, _: web.Request) -> web.Response:
        return web.json_response(dict(self.consoles))


def _linking(base: str) -> web.Response:
    return web.json_response({"url": f"{base}/vnc_auto.html?token={uuid.uuid4()}"})


def _unknown(request: web.Request) -> web.Response:
    text = f"The physical servers [{request.match_info['id']}] are not found."
    return refusals.SERVER_UNKNOWN.about(text).response()


def _name(server: str) -> str:
    return f"bms-{server[:8]}"


def _describe(request: web.Request, server: str) -> dict[str, Any]:
    """Say about a server what ShowServer says (dossier 1.5)."""
    number = int(server[:4], 16)
    return {
        "id": server,
        "name": _name(server),
        "project_id": request.match_info["project"],
        "domain_id": "d78cbac186b744899480f25bd022f468",
        "manage_state": "in-use",
        "power_state": "on",
        "operation_state": "power-on-succeed",
        "health_state": "OK",
        "onboard_time": "2026-03-02T09:30:00Z",
        "location": {"dc": "dc-1", "rack": f"r{number % 8}", "unit": f"u{number % 42 + 1}"},
        "hardware_attributes": {"sn": server[-12:], "manufacturer": "Box", "model": "B1"},
        "tags": [{"key": "env", "value": "prod" if number % 2 else "test"}],
    }
