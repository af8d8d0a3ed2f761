"""The simulated IAM: Keystone v3 tokens for user name and password (upstream-api.md#3)."""

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

from aiohttp import web

from gateway.demo.cloud import cloud_errors
from gateway.demo.cloud.agency import AgencyLogin, parse_agency_login
from gateway.demo.cloud.clock import now
from gateway.demo.cloud.cloud_errors import CloudError
from gateway.demo.cloud.listener import Listener

USER, DOMAIN, PASSWORD = "console-gateway", "example-corp", "correct horse battery staple"
AGENCY_DOMAIN, AGENCY_NAME = "partner-corp", "console-gateway-agency"
"""An agency of another account, which USER may assume."""
ACCESS_KEY, SECRET_KEY = "BOXACCESSKEY0000", "box-secret-key"
TOKEN_BYTES_MAX = 61_440

_METADATA_TOKEN = "box-metadata-token"  # noqa: S105 - of the simulated cloud
_FAILURES_MAX = 5
_FAILURES_WITHIN_S = 900.0
_LOCKED_S = 900.0
_CATALOG_BYTES = 40_000
_DAY_S = 86_400.0


@dataclass(slots=True)
class IssuedToken:
    project: str | None
    """None for a token with domain scope."""
    expires_at: float
    revoked: bool = False
    is_of_agency: bool = False


@dataclass(slots=True)
class _LoginFailures:
    failed_at: list[float] = field(default_factory=list)
    locked_until: float = 0.0


class Iam(Listener):
    settable: ClassVar[tuple[str, ...]] = (
        "agency_projects",
        "agent_operator",
        "clock_ahead_s",
        "no_role",
        "password",
        "token_bytes",
        "token_life_s",
    )

    def __init__(
        self,
        *,
        projects: Mapping[str, str],
        port: int = 0,
        token_bytes: int = 2_048,
        token_life_s: float = _DAY_S,
    ) -> None:
        """`projects` maps project ID to name."""
        super().__init__("iam", port=port, response_faults=cloud_errors.as_faults(cloud_errors.IAM))
        self.password = PASSWORD
        self.token_bytes = token_bytes
        self.token_life_s = token_life_s
        self.clock_ahead_s = 0.0
        """Difference of IAM's clock, as its responses show it."""
        self.no_role: Sequence[str] = ()
        """IDs of projects in which the user has no role."""
        self.agency_projects: Sequence[str] = ()
        """IDs of projects that belong to AGENCY_DOMAIN: only tokens of the agency reach them."""
        self.agent_operator = True
        """The user has the permission to assume agencies."""
        self.access_keys = {ACCESS_KEY: SECRET_KEY}
        self.security_tokens: dict[str, str] = {}
        """The security token of each temporary access key."""
        self.tokens: dict[str, IssuedToken] = {}
        self.logins = 0
        self.failures = 0
        self._projects = projects
        self._login_failures: dict[tuple[str, str], _LoginFailures] = {}
        self.app.router.add_post("/v3/auth/tokens", self._log_in)
        self.app.router.add_post("/_box/revoke", self._revoke)
        # The metadata endpoint of an ECS server with an agency; no source gives its error bodies.
        self.app.router.add_get("/openstack/latest/securitykey", self._show_security_key)
        self.app.router.add_put("/meta-data/latest/api/token", self._issue_metadata_token)
        self.app.router.add_post("/_box/temporary_key", self._add_temporary_key)
        self.app.router.add_post("/_box/unlock", self._unlock)

    def revoke_all(self) -> None:
        """Revoke every token, as a permission change of any group does (upstream-api.md#3.1)."""
        for token in self.tokens.values():
            token.revoked = True

    def expire_all(self, ago_s: float = 1.0) -> None:
        """Set the expiry of every token to `ago_s` ago; over 24 h the error is a different one."""
        for token in self.tokens.values():
            token.expires_at = now() - ago_s

    def unlock(self) -> None:
        """Clear failed logins. The real cloud has no equivalent: a lock lasts 15 minutes."""
        self._login_failures.clear()

    def issue(self, project: str | None) -> tuple[str, IssuedToken]:
        """Create a token in IAM's format: base64 of CMS, so it starts with MII."""
        size = min(self.token_bytes, TOKEN_BYTES_MAX)
        text = ("MII" + base64.b64encode(os.urandom(size)).decode())[:size]
        token = self.tokens[text] = IssuedToken(project, now() + self.token_life_s)
        return text, token

    def counters(self) -> dict[str, Any]:
        locked = sum(one.locked_until > now() for one in self._login_failures.values())
        own = {"logins": self.logins, "failures": self.failures, "locked": locked}
        return {**super().counters(), **own, "tokens": len(self.tokens)}

    async def _log_in(self, request: web.Request) -> web.Response:
        agency = await parse_agency_login(request)
        if agency is not None:
            return self._assume(request, agency)
        login = await _parse_login(request)
        if login is None:
            return cloud_errors.BODY_WRONG.response()
        record = self._login_failures.setdefault((login.domain, login.user), _LoginFailures())
        if record.locked_until > now():
            return cloud_errors.ACCOUNT_LOCKED.response()
        if (login.user, login.domain, login.password) != (USER, DOMAIN, self.password):
            return self._reject(record, cloud_errors.PASSWORD_WRONG)
        project = self._find_project(login)
        if project in (
            *self.no_role,
            *self.agency_projects,
        ):  # Keystone does not say whether it is the password
            return self._reject(record, cloud_errors.ROLE_MISSING)
        record.failed_at.clear()
        if login.wants_project and project is None:
            return cloud_errors.PROJECT_UNKNOWN.response()
        self.logins += 1
        text, token = self.issue(project)
        body = self._describe(token, login.user, login.domain, "password")
        return _issued(request, text, body)

    def _assume(self, request: web.Request, agency: AgencyLogin) -> web.Response:
        """Issue a token of the agency to a user whose own token is valid (upstream-api.md#3.5)."""
        token = self.tokens.get(request.headers.get("X-Auth-Token", ""))
        if token is None or token.revoked or token.expires_at <= now() or token.is_of_agency:
            return cloud_errors.IAM_TOKEN_INVALID.response()
        if not self.agent_operator:
            return cloud_errors.AGENT_OPERATOR_MISSING.response()
        if (agency.domain, agency.name) != (AGENCY_DOMAIN, AGENCY_NAME):
            return cloud_errors.AGENCY_UNKNOWN.response()
        if agency.project not in self.agency_projects:
            return cloud_errors.PROJECT_UNKNOWN.response()
        self.logins += 1
        text, issued = self.issue(agency.project)
        issued.is_of_agency = True
        body = self._describe(issued, AGENCY_NAME, AGENCY_DOMAIN, "assume_role")
        body["token"]["assumed_by"] = {"user": {"name": USER, "domain": {"name": DOMAIN}}}
        return _issued(request, text, body)

    def _reject(self, record: _LoginFailures, error: CloudError) -> web.Response:
        self.failures += 1
        record.failed_at = [at for at in record.failed_at if now() - at < _FAILURES_WITHIN_S]
        record.failed_at.append(now())
        if len(record.failed_at) >= _FAILURES_MAX:
            record.failed_at.clear()
            record.locked_until = now() + _LOCKED_S
        return error.response()

    def _find_project(self, login: "_LoginRequest") -> str | None:
        if login.project_id is not None:
            return login.project_id if login.project_id in self._projects else None
        named = (one for one, name in self._projects.items() if name == login.project_name)
        return next(named, None)

    def _describe(self, token: IssuedToken, user: str, domain: str, method: str) -> dict[str, Any]:
        described: dict[str, Any] = {
            "expires_at": _zulu(token.expires_at + self.clock_ahead_s),
            "issued_at": _zulu(now() + self.clock_ahead_s),
            "methods": [method],
            "roles": [{"id": "0", "name": "op_gated_clouddc"}],
            "user": {
                "id": "5f3d1c0e9a8b4c7d8e6f0a1b2c3d4e5f",
                "name": user,
                "domain": {"id": "d78cbac186b744899480f25bd022f468", "name": domain},
                "password_expires_at": "",
            },
        }
        if token.project is not None:
            name = self._projects[token.project]
            described["project"] = {
                "id": token.project,
                "name": name,
                "domain": described["user"]["domain"],
            }
        else:
            described["domain"] = described["user"]["domain"]
        return {"token": described}

    async def _revoke(self, request: web.Request) -> web.Response:
        """Revoke all tokens for `{}`; expire them for `{"expired_ago_s": 5}`."""
        login = await request.json() if request.can_read_body else {}
        if "expired_ago_s" in login:
            self.expire_all(float(login["expired_ago_s"]))
        else:
            self.revoke_all()
        return web.json_response({"revoked": len(self.tokens)})

    async def _issue_metadata_token(self, _: web.Request) -> web.Response:
        return web.Response(text=_METADATA_TOKEN)

    async def _show_security_key(self, request: web.Request) -> web.Response:
        """Return a new temporary key; require a token of the metadata endpoint."""
        if request.headers.get("X-Metadata-Token") != _METADATA_TOKEN:
            return web.Response(status=401, text="Unauthorized")
        access, secret, token = (os.urandom(12).hex() for _ in range(3))
        self.access_keys[access], self.security_tokens[access] = secret, token
        expires_at = _zulu(now() + self.token_life_s)
        key = {"access": access, "secret": secret, "securitytoken": token}
        return web.json_response({"credential": {**key, "expires_at": expires_at}})

    async def _add_temporary_key(self, request: web.Request) -> web.Response:
        """Accept a temporary key: `{"access", "secret", "securitytoken"}`."""
        key = await request.json()
        self.access_keys[key["access"]] = key["secret"]
        self.security_tokens[key["access"]] = key["securitytoken"]
        return web.json_response({"access": key["access"]})

    async def _unlock(self, _: web.Request) -> web.Response:
        self.unlock()
        return web.json_response({"locked": 0})


def _issued(request: web.Request, token: str, body: dict[str, Any]) -> web.Response:
    if not request.query.get("nocatalog"):
        body["token"]["catalog"] = [{"type": "filler", "name": "x" * _CATALOG_BYTES}]
    return web.json_response(body, status=201, headers={"X-Subject-Token": token})


@dataclass(frozen=True, slots=True)
class _LoginRequest:
    user: str
    domain: str
    password: str
    project_id: str | None
    project_name: str | None

    @property
    def wants_project(self) -> bool:
        return self.project_id is not None or self.project_name is not None


async def _parse_login(request: web.Request) -> _LoginRequest | None:
    """Parse the documented body (upstream-api.md#3.1); return None if it does not match."""
    if request.content_type != "application/json":
        return None
    try:
        auth = (await request.json())["auth"]
        by = auth["identity"]["password"]["user"]
        scope = auth["scope"]
        project = scope.get("project")  # if both scopes are present, the project wins
        texts = [by["name"], by["domain"]["name"], by["password"]]
        if auth["identity"]["methods"] != ["password"] or not all(map(_is_text, texts)):
            return None
        user, domain, password = texts
        if project is None:
            scoped = _is_text(scope["domain"]["name"])
            return _LoginRequest(user, domain, password, None, None) if scoped else None
        if not _is_text(project.get("id", project.get("name"))):
            return None
        return _LoginRequest(user, domain, password, project.get("id"), project.get("name"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _zulu(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
