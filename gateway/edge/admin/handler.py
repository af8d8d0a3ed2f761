"""The handler of the admin listener: metrics, health checks, and the paths of the admin API."""

import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping

import orjson
from aiohttp import web
from multidict import CIMultiDict

from gateway.domain.errors import GatewayError, MethodNotAllowed, OperationUnknown
from gateway.edge.admin.api import REQUEST_ID, AdminApi, IsCurrent
from gateway.edge.admin.ui import AdminUi
from gateway.edge.common_headers import COMMON_HEADERS
from gateway.edge.error_response import INTERNAL_ERROR_RESPONSE, ErrorResponse, render_error
from gateway.edge.listener.request import ListenerRequest

log = logging.getLogger("gateway.admin")

Exposition = Callable[[str], Awaitable[tuple[bytes, str]]]
Readiness = Callable[[], tuple[bool, Mapping[str, str]]]
_Respond = Callable[[ListenerRequest], Awaitable[web.Response]]

_PATH_UNKNOWN = (
    "Unknown path. The admin listener has /metrics, /healthz and /readyz. If `admin.api` is"
    " configured, /admin/openapi.json lists the other paths."
)


class AdminHandler:
    def __init__(
        self,
        exposition: Exposition,
        readiness: Readiness,
        api: AdminApi | None,
        is_current: IsCurrent,
        ui: AdminUi | None = None,
    ) -> None:
        """`ui`: None without pages."""
        self._ui = ui
        self._exposition = exposition
        self._readiness = readiness
        self._paths: dict[str, dict[str, _Respond]] = {
            "/metrics": {"GET": self._metrics},
            "/healthz": {"GET": self._alive},
            "/readyz": {"GET": self._ready},
        }
        if api is not None:
            for method, path, respond in api.routes(is_current):
                self._paths.setdefault(path, {})[method] = respond
        if ui is not None:
            for method, path, respond in ui.routes():
                self._paths.setdefault(path, {})[method] = respond
        for methods in self._paths.values():
            if "GET" in methods:
                methods["HEAD"] = methods["GET"]

    async def __call__(self, request: ListenerRequest) -> web.StreamResponse:
        request[REQUEST_ID] = secrets.token_hex(8)
        if request.rejection is not None:
            return self.reject(request, request.rejection, request.rejection)
        mount = None if self._ui is None else self._ui.mount_of(request)
        try:
            if self._ui is not None and mount is not None:
                headers = _common_headers(request[REQUEST_ID])
                return await self._ui.serve(mount, request, headers)
            response = await self._find(request)(request)
        except GatewayError as error:
            response = _error_response(render_error(error))
        except Exception:
            log.exception("admin_request_failed", extra={"request_id": request[REQUEST_ID]})
            response = _error_response(INTERNAL_ERROR_RESPONSE)
        return _with_common_headers(response, request[REQUEST_ID])

    def reject(
        self, request: ListenerRequest, error: GatewayError | None, cause: BaseException | None
    ) -> web.Response:
        rendered = INTERNAL_ERROR_RESPONSE if error is None else render_error(error)
        request_id = secrets.token_hex(8)
        log.info(
            "admin_request",
            extra={
                "request_id": request_id,
                "action": "",
                "issuer": "",
                "subject": "",
                "client_address": request.peer,
                "status": rendered.status,
                "error_code": rendered.error_code,
                "error": type(cause).__name__,  # its text may quote a credential
            },
        )
        return _with_common_headers(_error_response(rendered), request_id)

    def _find(self, request: ListenerRequest) -> _Respond:
        methods = self._paths.get(request.path)
        if methods is None:
            raise OperationUnknown(_PATH_UNKNOWN)
        if request.method not in methods:
            raise MethodNotAllowed(allowed=tuple(sorted(methods)))
        return methods[request.method]

    async def _metrics(self, request: ListenerRequest) -> web.Response:
        body, content_type = await self._exposition(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _alive(self, _: ListenerRequest) -> web.Response:
        return web.json_response({"status": "alive"})

    async def _ready(self, _: ListenerRequest) -> web.Response:
        is_ready, components = self._readiness()
        body = orjson.dumps({"ready": is_ready, "components": dict(components)})
        return web.Response(
            status=200 if is_ready else 503, body=body, content_type="application/json"
        )


def _error_response(rendered: ErrorResponse) -> web.Response:
    return web.Response(
        body=rendered.body,
        status=rendered.status,
        content_type="application/json",
        headers=rendered.headers,
    )


def _with_common_headers(response: web.Response, request_id: str) -> web.Response:
    response.headers.update(_common_headers(request_id))
    return response


def _common_headers(request_id: str) -> CIMultiDict[str]:
    return CIMultiDict({"X-Request-Id": request_id, "Cache-Control": "no-store", **COMMON_HEADERS})
