"""A browser that logs in: cookies as browsers send them, the provider's page, our own page."""

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from gateway.demo.cloud.idp_login import ADMIN_CLIENT, ADMIN_SECRET, WEB_CLIENT, WEB_SECRET
from tests.support.stack import TIMEOUT_S, RunningGateway, fetch

SESSION_COOKIE = "gateway-session"
LOGIN: dict[str, Any] = {
    "client_id": WEB_CLIENT,
    "client_secret": {"env": "LOGIN_SECRET"},
    "scopes": ["openid", "groups"],
}
ADMIN_LOGIN: dict[str, Any] = {
    "issuer": "corp",
    "client_id": ADMIN_CLIENT,
    "client_secret": {"env": "ADMIN_LOGIN_SECRET"},
    "scopes": ["openid", "groups"],
}
ADMIN_API: dict[str, Any] = {
    "audience": "gateway-admin",
    "groups": {"console-admins": "all", "helpdesk": ["read", "audit"]},
}
"""Of the provider's people, `ada` may do everything and `rita` may look."""
ENVIRON = {"LOGIN_SECRET": WEB_SECRET, "ADMIN_LOGIN_SECRET": ADMIN_SECRET}


def enable_login(gateway: RunningGateway, **login: Any) -> None:
    """Let people log in at the first issuer; call it before the gateway starts."""
    gateway.config["issuers"][0]["login"] = {**LOGIN, **login}
    gateway.config["listen"].setdefault("public_url", gateway.url)
    gateway.write_config()


def enable_admin_login(gateway: RunningGateway, *, url: str = "", **login: Any) -> None:
    """Let administrators log in at the admin listener; call it before the gateway starts."""
    admin = gateway.config["admin"]
    admin["api"] = {**ADMIN_API, **admin.get("api", {})}
    admin["public_url"] = url or gateway.admin
    admin["login"] = {**ADMIN_LOGIN, **login}
    gateway.write_config()


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def location(self) -> str:
        assert self.status == 302, (self.status, self.body)
        return dict(self.headers)["Location"]

    @property
    def config(self) -> dict[str, Any]:
        """Return the JSON block of a page."""
        _, _, rest = self.body.decode().partition('id="config">')
        found: dict[str, Any] = json.loads(rest.partition("</script>")[0])
        return found


@dataclass
class LoginBrowser:
    base: str
    """Address of the gateway, `listen.public_url`."""
    issuer: str = "corp"
    cookies: dict[str, str] = field(default_factory=dict)
    strict: set[str] = field(default_factory=set)
    """Names of cookies that are not sent with requests of another site."""
    csrf_token: str = ""

    def send(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | None = None,
        body: str = "",
        *,
        is_cross_site: bool = False,
    ) -> Answer:
        parts = urlsplit(self.base)
        sent = {
            name: value
            for name, value in self.cookies.items()
            if not (is_cross_site and name in self.strict)
        }
        all_headers = dict(headers or {})
        if sent:
            all_headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in sent.items())
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
        try:
            connection.request(method, target, body or None, all_headers)
            response = connection.getresponse()
            answer = Answer(response.status, response.getheaders(), response.read())
        finally:
            connection.close()
        for name, value in answer.headers:
            if name.lower() == "set-cookie":
                self._set_cookie(value)
        return answer

    def begin(self, **query: str) -> str:
        """Return the address of the provider."""
        target = f"/login/{self.issuer}"
        return self.send("GET", f"{target}?{urlencode(query)}" if query else target).location

    @staticmethod
    def at_provider(address: str, person: str = "olga", **changes: str) -> str:
        """Log in at the provider; return the address that it sends the browser back to."""
        parts = urlsplit(address)
        query = {**dict(parse_qsl(parts.query)), "person": person, **changes}
        answer = fetch(
            f"{parts.scheme}://{parts.netloc}", "GET", f"{parts.path}?{urlencode(query)}"
        )
        assert answer.status == 302, answer.body
        return answer.headers["location"]

    def come_back(self, address: str, **changes: str | None) -> Answer:
        """Follow the redirect of the provider, with changed parameters of its query."""
        parts = urlsplit(address)
        query: dict[str, str | None] = {**dict(parse_qsl(parts.query)), **changes}
        sent = urlencode({name: value for name, value in query.items() if value is not None})
        return self.send("GET", f"{parts.path}?{sent}", is_cross_site=True)

    def log_in(self, person: str = "olga", **query: str) -> Answer:
        answer = self.come_back(self.at_provider(self.begin(**query), person))
        assert answer.status == 200, answer.body
        return answer

    def session(self) -> Answer:
        """Load the session as our own page does."""
        answer = self.ui("GET", "/ui/session")
        if answer.status == 200:
            self.csrf_token = answer.json["csrf_token"]
        return answer

    def ui(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send a request as a script of our own page does."""
        sent = {"Sec-Fetch-Site": "same-origin"}
        if method != "GET":
            sent |= {
                "Origin": self.base,
                "Content-Type": "application/json",
                "X-CSRF-Token": self.csrf_token,
            }
        text = "" if method == "GET" else json.dumps(body or {})
        return self.send(method, path, {**sent, **(headers or {})}, text)

    def _set_cookie(self, header: str) -> None:
        pair, *attributes = (one.strip() for one in header.split(";"))
        name, _, value = pair.partition("=")
        assert "HttpOnly" in attributes, header
        assert "Path=/" in attributes or "/console/" in header, header
        if "Max-Age=0" in attributes:
            self.cookies.pop(name, None)
        else:
            self.cookies[name] = value
        if "SameSite=Strict" in attributes:
            self.strict.add(name)


def set_claims(gateway: RunningGateway, claims: dict[str, Any]) -> None:
    """Replace claims of the ID tokens of the next logins at the provider."""
    provider = LoginBrowser(gateway.cloud.issuer)
    headers = {"Content-Type": "application/json"}
    body = json.dumps({"id_token_claims": claims})
    assert provider.send("POST", "/_box/login", headers, body).status == 200
