"""A scripted gateway for the pages of a person: it serves the real shell, and decides nothing."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import orjson
from aiohttp import web
from multidict import CIMultiDict

from gateway.edge.common_headers import COMMON_HEADERS
from gateway.edge.etag import etag_of
from gateway.edge.listener.request import ListenerRequest
from gateway.edge.people.people_page import PeoplePage
from tests.support.page_server import PREFIX, PageServer

PROJECT = "0e3f5c7a9b1d4e6f8a0b2c4d6e8f0a1b"
CONTACT = {"text": "Platform on-call", "url": "mailto:on-call@example.com"}
PERSON = {"subject": "anna", "issuer": "corp"}
LISTED_AT = "2026-11-30T09:00:00.000000Z"
ALL = ["console:open", "console:view", "server:power", "server:read"]
OK = 200

Json = dict[str, Any]


def server(number: int, **changes: Any) -> Json:
    return {
        "id": f"7c1d2e3f-0000-4000-8000-{number:012x}",
        "name": f"web-{number:05d}",
        "location": {"dc": f"dc-{number % 3}", "rack": f"r{number % 40}", "unit": f"u{number % 7}"},
        "model": "B1",
        "power_state": "off" if number % 5 == 4 else "on",
        "health_state": "Warning" if number % 8 == 7 else "OK",
        "tags": [{"key": "env", "value": "prod" if number % 2 else "test"}],
        "permissions": ALL,
    } | changes


def session(number: int, subject: str) -> Json:
    """Return what the state has of a person on the console of a server."""
    return {
        "project_id": PROJECT,
        "server_id": server(number)["id"],
        "person": {"subject": subject, "issuer": "corp"},
        "mode": "control",
        "since": LISTED_AT,
    }


def project(servers: Sequence[Json], **changes: Any) -> Json:
    return {
        "project_id": PROJECT,
        "project_name": "web",
        "account": "prod",
        "region": "cn-east-3",
        "delivery": "proxied",
        "servers": list(servers),
    } | changes


class PeopleSite(PageServer):
    def reset(self) -> None:
        self.projects = [project([server(one) for one in range(40)])]
        self.is_current = True
        self.power_read: list[Json] = []
        self.sessions: list[Json] = []
        self.person = PERSON
        self.session_status = OK
        self.servers_status = OK
        self.answers = asyncio.Event()
        """Requests for a console wait while it is cleared."""
        self.answers.set()
        self.console: tuple[int, Json] = (
            OK,
            {"url": f"{self.address}login#a-ticket", "expires_in": 60, "delivery": "proxied"},
        )
        self.power: tuple[int, Json] = (OK, {})
        self.requests: list[tuple[str, str, Json | None]] = []
        """Method, path below the prefix, and body of each request for data."""
        self.activity: list[bool] = []
        """Of each request for the state: whether the person caused it."""

    @property
    def address(self) -> str:
        return f"{getattr(self, 'origin', '')}{PREFIX}/"

    @property
    def posts(self) -> list[tuple[str, Json | None]]:
        """Path and body of each write so far."""
        return [(path, body) for method, path, body in self.requests if method == "POST"]

    def answer(self) -> None:
        """Answer the requests for a console that wait."""
        self._loop.call_soon_threadsafe(self.answers.set)

    def server_page(self, number: int) -> str:
        return f"{self.address}page/servers/{PROJECT}/{server(number)['id']}"

    def add_routes(self, router: web.UrlDispatcher) -> None:
        self._page = PeoplePage(self._assets, PREFIX, ["servers"], CONTACT)
        router.add_get(f"{PREFIX}/", self._shell)
        router.add_get(f"{PREFIX}/page/{{path:.*}}", self._shell)
        router.add_get(f"{PREFIX}/login", self._login)
        router.add_get(f"{PREFIX}/ui/session", self._session)
        router.add_get(f"{PREFIX}/ui/servers", self._servers)
        router.add_get(f"{PREFIX}/ui/servers/state", self._state)
        router.add_post(f"{PREFIX}/ui/servers/{{project}}/{{server}}/console", self._console)
        router.add_post(f"{PREFIX}/ui/servers/{{project}}/{{server}}/power", self._power)
        router.add_post(f"{PREFIX}/logout", self._log_out)

    async def _shell(self, request: web.Request) -> web.Response:
        page = self._page.find_asset(cast("ListenerRequest", request))
        return page.response(request, CIMultiDict(COMMON_HEADERS))

    async def _login(self, request: web.Request) -> web.Response:
        page = '<!doctype html><title>Login</title><link rel="icon" href="data:,">'
        return web.Response(text=page, content_type="text/html")

    async def _session(self, request: web.Request) -> web.Response:
        if self.session_status != OK:
            return self._refusal(self.session_status)
        return self._json({"person": self.person, "csrf_token": "csrf"})

    async def _servers(self, request: web.Request) -> web.Response:
        self.requests.append(("GET", "/ui/servers", None))
        return self._conditional(request, self._list)

    async def _state(self, request: web.Request) -> web.Response:
        self.requests.append(("GET", "/ui/servers/state", None))
        self.activity.append("X-Activity" in request.headers)
        facts = {"listed_at": LISTED_AT, "is_current": self.is_current, "problem": None}
        projects = [
            {name: one[name] for name in ("project_id", "account", "region")} | facts
            for one in self.projects
        ]
        state = {
            "list": etag_of(orjson.dumps(self._list)),
            "projects": projects,
            "power": self.power_read,
            "consoles": {"age_max_s": 5.0, "complete": True, "sessions": self.sessions},
        }
        return self._conditional(request, state)

    @property
    def _list(self) -> Json:
        return {"projects": self.projects}

    def _conditional(self, request: web.Request, body: Json) -> web.Response:
        if self.servers_status != OK:
            return self._refusal(self.servers_status)
        response = self._json(body)
        etag = f'"{etag_of(orjson.dumps(body))}"'
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers={"ETag": etag})
        response.headers["ETag"] = etag
        response.enable_compression()
        return response

    async def _console(self, request: web.Request) -> web.Response:
        await self._note(request)
        await self.answers.wait()
        return self._answer(self.console)

    async def _power(self, request: web.Request) -> web.Response:
        await self._note(request)
        return self._answer(self.power)

    async def _log_out(self, request: web.Request) -> web.Response:
        await self._note(request)
        return self._json({"location": f"{PREFIX}/login"})

    async def _note(self, request: web.Request) -> None:
        assert request.headers["Origin"] == self.origin
        assert request.headers["X-CSRF-Token"] == "csrf"
        path = request.path.removeprefix(PREFIX)
        self.requests.append((request.method, path, await request.json()))

    def _answer(self, answer: tuple[int, Json]) -> web.Response:
        status, body = answer
        return self._json(body, status)

    def _refusal(self, status: int) -> web.Response:
        code = {401: "CGW.4011", 503: "CGW.5031"}[status]
        return self._json({"error_code": code, "error_msg": "Words of the gateway."}, status)

    @staticmethod
    def _json(body: Json, status: int = OK) -> web.Response:
        headers = {"X-Request-Id": "request-1", "Cache-Control": "private, no-cache"}
        if status in (429, 503):
            headers["Retry-After"] = "1"
        return web.json_response(body, status=status, headers=headers)
