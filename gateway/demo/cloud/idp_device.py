"""Logins with a code on another device, at the simulated identity provider (RFC 8628)."""

import html
import secrets
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from gateway.demo.cloud.clock import now
from gateway.demo.cloud.idp_login import (
    Form,
    LoginEndpoints,
    OAuthProblem,
    ProviderLogin,
    people_page,
    text_page,
)

_GRANT: Final = "urn:ietf:params:oauth:grant-type:device_code"
_LETTERS: Final = "BCDFGHJKLMNPQRSTVWXZ"
"""No vowels, so that no code is a word (RFC 8628, 6.1)."""


@dataclass(slots=True)
class _Device:
    client: str
    scopes: frozenset[str]
    expires_at: float
    polled_at: float
    login: ProviderLogin | None = None
    is_denied: bool = False


class DeviceEndpoints:
    """`/device_authorization` for the client, `/device` for the person."""

    def __init__(self, app: web.Application, logins: LoginEndpoints) -> None:
        self._logins = logins
        self._by_device_code: dict[str, _Device] = {}
        self._by_user_code: dict[str, _Device] = {}
        logins.grants[_GRANT] = self._redeem
        app.router.add_post("/device_authorization", self._authorize)
        app.router.add_get("/device", self._show)

    def metadata(self, url: str) -> dict[str, Any]:
        return {"device_authorization_endpoint": f"{url}/device_authorization"}

    async def _authorize(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        try:
            client = self._logins.client_of(request, form)
        except OAuthProblem as problem:
            return web.json_response({"error": problem.code}, status=problem.status)
        life_s = self._logins.device_code_life_s
        scopes = frozenset(form.get("scope", "").split())
        device = _Device(client, scopes, now() + life_s, now())
        device_code = secrets.token_urlsafe(24)
        letters = "".join(secrets.choice(_LETTERS) for _ in range(8))
        user_code = f"{letters[:4]}-{letters[4:]}"
        self._by_device_code[device_code] = self._by_user_code[user_code] = device
        address = str(request.url.origin() / "device")
        answer = {
            "device_code": device_code,
            "user_code": user_code,
            "verification_uri": address,
            "verification_uri_complete": f"{address}?user_code={user_code}",
            "expires_in": life_s,
            "interval": self._logins.device_interval_s,
        }
        return web.json_response(answer, headers={"Cache-Control": "no-store"})

    async def _show(self, request: web.Request) -> web.Response:
        """Show a field for the code, then the people, then that the device is logged in."""
        code = request.query.get("user_code", "").strip().upper()
        if not code:
            return text_page('<form><label>Code <input name="user_code"></label></form>')
        device = self._by_user_code.get(code)
        if device is None or now() >= device.expires_at or device.login or device.is_denied:
            return text_page("<p>This code is unknown or has expired.</p>")
        name = request.query.get("person", "")
        person = self._logins.people.get(name)
        if name == "nobody":
            device.is_denied = True
        elif person is None:
            title = f"Log in the device that shows {code} as:"
            return people_page({"user_code": code}, self._logins.people.values(), title)
        else:
            device.login = ProviderLogin(
                person.subject, device.client, device.scopes, auth_time=int(now())
            )
        return text_page(f"<p>Done: {html.escape(name)}. Return to your device.</p>")

    async def _redeem(self, form: Form, client: str) -> ProviderLogin:
        device = self._by_device_code.get(form.get("device_code", ""))
        if device is None or device.client != client:
            raise OAuthProblem("invalid_grant")
        before, device.polled_at = device.polled_at, now()
        if device.is_denied:
            raise OAuthProblem("access_denied")
        if now() >= device.expires_at:
            raise OAuthProblem("expired_token")
        if now() - before < 0.9 * self._logins.device_interval_s:
            raise OAuthProblem("slow_down")
        if device.login is None:
            raise OAuthProblem("authorization_pending")
        del self._by_device_code[form["device_code"]]
        self._logins.logins[device.login.sid] = device.login
        return device.login
