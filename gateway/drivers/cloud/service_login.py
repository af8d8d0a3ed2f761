"""Three ways in which an account proves itself to the cloud (ports.ServiceCredential)."""

import asyncio
import hashlib
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

from gateway.config.settings import KeyPairLogin, PasswordLogin, TokenFileLogin
from gateway.domain.errors import (
    BudgetExhausted,
    GatewayError,
    ServiceLoginFailed,
    UpstreamBroken,
    UpstreamSlow,
    UpstreamUnreachable,
)
from gateway.domain.model import (
    BudgetClass,
    Demand,
    Headers,
    LinkSource,
    Secret,
    UpstreamAnswer,
    UpstreamRequest,
)
from gateway.domain.upstream.signing import sign
from gateway.domain.upstream.verdicts import Throttled, error_of, judge
from gateway.flow import context
from gateway.flow.ports import Budget, Clock, Fetched, Shared, Telemetry, Upstream

log = logging.getLogger("gateway.login")


_REFUSED_PAUSE_S = (300.0, 600.0, 1_800.0)
"""IAM locks a login at 5 failures within 15 min (dossier 3.2); this makes 3 at most."""
_AWAY_PAUSE_S = (1.0, 2.0, 4.0, 8.0)
"""No longer: nobody gets a console meanwhile, and IAM may be back."""
_LOGIN_TIMEOUT_S = 15.0
_LOGIN_WITHIN_S = 60.0
"""With the wait for other projects' logins."""
_TOKEN = re.compile(r"[!-~]{16,65536}")
_REMAINING_MIN_S = 60.0
"""A token with less left is not sent: it might end on its way."""
_HEALS_AGAIN_AFTER_S = 30.0
"""A token that is refused so soon after a renewal is not what is wrong (dossier, conclusion 3)."""
_OPEN = b"open"
_OPEN_SHOWN_S = 0.05
"""Only so long that the lease ends by it; nobody takes it for an answer."""
_LOOK_AT_FILE_EVERY_S = 1.0
_REFUSALS = {
    "401": "user, domain or password is wrong",  # as Keystone has it, with no code of IAM's
    "IAM.0004": "it has no such project",
    "IAM.0061": "the account is locked for 15 minutes",
    "IAM.0062": "user, domain or password is wrong",
    "IAM.0081": "the user has no programmatic access",
}
"""What its status or code means (dossier 3.2); its text may quote what was sent."""


@dataclass(frozen=True, slots=True)
class _ServiceToken:
    secret: Secret
    expires_at: float
    """Seconds since the epoch."""
    value: bytes = field(repr=False)
    """As it is shared with the other replicas."""


class PasswordCredential:
    """An X-Auth-Token of one project, from `POST /v3/auth/tokens`, shared by all replicas."""

    def __init__(  # noqa: PLR0913 - each part is told what it needs
        self,
        account: str,
        project: str,
        login: PasswordLogin,
        *,
        iam: Upstream,
        shared: Shared,
        budget: Budget,
        clock: Clock,
        telemetry: Telemetry,
        jitter: Callable[[], float],
    ) -> None:
        self._account = account
        self._project = project
        self._login = login
        self._iam = iam
        self._shared = shared
        self._budget = budget
        self._clock = clock
        self._telemetry = telemetry
        self._jitter = jitter
        self._token: _ServiceToken | None = None
        # A changed password is another login: it is tried at once, whatever became of the old.
        identity = f"{login.user}\0{login.domain}\0{login.password.reveal()}"
        self._fingerprint = hashlib.sha256(identity.encode()).hexdigest()[:16]
        self._failures = 0
        self._refusals = 0
        self._closed_until = 0.0
        self._closed_by = ""
        self._life_s = 0.0
        self._renewed_at = float("-inf")
        telemetry.service_login_refused(account, project, refused=False)
        telemetry.service_credential_expires(account, project, 0.0)

    async def log_in(self, *, deadline: float) -> str:
        """Get a token and say whose; raise ServiceLoginFailed, DeadlineExceeded."""
        _, source = await self._obtain(deadline, unusable=None)
        if source is LinkSource.UPSTREAM:
            return f"{self._login.iam_endpoint} gave a token"
        return f"Redis holds a token, so {self._login.iam_endpoint} was not asked"

    async def headers(self, request: UpstreamRequest, *, deadline: float) -> Headers:
        del request  # a token is the same for every request
        token = self._token
        if token is None or self._left_s(token) < _spare_s(self._life_s):
            token, _ = await self._obtain(deadline, unusable=token)
        return (("X-Auth-Token", token.secret.reveal()),)

    async def renew(self, refused: Headers, *, deadline: float) -> bool:
        token = self._token
        if token is not None and refused != (("X-Auth-Token", token.secret.reveal()),):
            return True  # another request has renewed it meanwhile
        if self._clock.monotonic() - self._renewed_at < _HEALS_AGAIN_AFTER_S:
            return False
        await self._obtain(deadline, unusable=token)
        self._renewed_at = self._clock.monotonic()
        return True

    async def run(self) -> None:
        """Renew well before the end, for ever; the old token serves until there is a new one."""
        while True:
            token = self._token
            wait_s = (
                0.0
                if token is None
                else self._left_s(token) - self._renew_before_s() * (1.0 + 0.1 * self._jitter())
            )
            if wait_s > 0:
                # A hair of a second may be too little to move the wall clock at all.
                await self._clock.sleep(min(max(wait_s, 0.1), 60.0))
                continue
            try:
                await self._obtain(self._clock.monotonic() + _LOGIN_WITHIN_S, unusable=token)
            except GatewayError as error:
                pause_s = error.retry_after_s if isinstance(error, ServiceLoginFailed) else 5.0
                await self._clock.sleep(max(1.0, pause_s))

    async def _obtain(
        self, deadline: float, *, unusable: _ServiceToken | None
    ) -> tuple[_ServiceToken, LinkSource]:
        self._raise_if_closed()
        held = await self._shared.obtain(
            f"token:{self._account}:{self._project}:{self._fingerprint}",
            self._log_in,
            deadline=deadline,
            unusable=unusable.value if unusable is not None else None,
            # Of a login that is given up nobody knows whether IAM counts it as a failure.
            to_the_end=True,
        )
        token = _token_from(held.value)
        if token is None:
            raise ServiceLoginFailed("the shared token is unreadable", retry_after_s=5.0)
        self._token, self._life_s = token, self._left_s(token)
        self._failures = self._refusals = 0  # also where another replica logged in
        self._telemetry.service_login_refused(self._account, self._project, refused=False)
        self._telemetry.service_credential_expires(self._account, self._project, token.expires_at)
        return token, held.source

    async def _log_in(self) -> Fetched:
        """Try to log in, one at a time over all projects of the account and all replicas.

        Together they would lock the account: a refusal closes it for all before the next tries.
        """
        deadline = self._clock.monotonic() + _LOGIN_WITHIN_S
        brought: list[Fetched] = []

        async def attempt() -> Fetched:
            self._raise_if_closed()
            outcome = await self._try()
            if isinstance(outcome, str):
                return Fetched(outcome.encode(), self._closed_until)
            brought.append(outcome)
            return Fetched(_OPEN, self._clock.monotonic() + _OPEN_SHOWN_S)

        key = f"refused:{self._account}:{self._fingerprint}"
        while not brought:
            gate = await self._shared.obtain(key, attempt, deadline=deadline, unusable=_OPEN)
            if gate.value != _OPEN:  # also where another was refused
                self._close(_refusal(gate.value.decode()), until=gate.good_until)
                self._telemetry.service_login_refused(self._account, self._project, refused=True)
                self._raise_if_closed()
        return brought[0]

    async def _try(self) -> Fetched | str:
        """Return a token, or with what IAM refuses us. Raises ServiceLoginFailed: it is away."""
        deadline = self._clock.monotonic() + _LOGIN_TIMEOUT_S
        try:
            await self._budget.admit(self._account, BudgetClass.IAM, Demand(""), deadline=deadline)
            answer = await self._ask_iam()
        except (UpstreamUnreachable, UpstreamSlow, UpstreamBroken, BudgetExhausted) as error:
            raise self._away(type(error).__name__, str(error)) from None
        token = _token_of(answer)
        left_s = 0.0 if token is None else self._left_s(token)
        if token is None or left_s <= 0:
            return self._refused(answer)
        self._telemetry.service_login(self._account, "ok")
        log.info(
            "service_login_succeeded", extra={"account": self._account, "project": self._project}
        )
        return Fetched(token.value, self._clock.monotonic() + left_s - _spare_s(left_s))

    async def _ask_iam(self) -> UpstreamAnswer:
        request = _login_request(self._login, self._project)
        trace = context.trace.get()
        if trace is None:
            return await self._iam.send(request, credential=(), timeout_s=_LOGIN_TIMEOUT_S)
        # A login serves all, so IAM is told of no caller's trace: the span's headers stay here.
        with trace.call("login", method=request.method, account=self._account) as call:
            answer = await self._iam.send(request, credential=(), timeout_s=_LOGIN_TIMEOUT_S)
            call.answered(answer.status)
            return answer

    def _refused(self, answer: UpstreamAnswer) -> str:
        """Note a refusal and return its status and code; raise ServiceLoginFailed if it is none."""
        verdict = judge(answer)
        if isinstance(verdict, Throttled):
            self._budget.throttled(
                self._account, BudgetClass.IAM, pause_s=verdict.pause_s, told=verdict.rate
            )
            raise self._away("throttled", "it takes no more logins for now")
        code, _ = error_of(answer.body)
        told = f"{answer.status} {code}".rstrip() if code != str(answer.status) else code
        if answer.status not in (400, 401, 403, 404):
            raise self._away(str(answer.status), f"it answered {told}")
        pause_s = _REFUSED_PAUSE_S[min(self._refusals, len(_REFUSED_PAUSE_S) - 1)]
        self._refusals += 1
        self._close(_refusal(told), until=self._clock.monotonic() + pause_s)
        self._telemetry.service_login(self._account, "refused")
        log.error(
            "service_login_refused",
            extra={"account": self._account, "status": answer.status, "error_code": code},
        )
        return told

    def _away(self, error: str, why: str) -> ServiceLoginFailed:
        pause_s = _AWAY_PAUSE_S[min(self._failures, len(_AWAY_PAUSE_S) - 1)]
        pause_s *= 0.75 + 0.5 * self._jitter()
        self._failures += 1
        self._close(why, until=self._clock.monotonic() + pause_s)
        self._telemetry.service_login(self._account, "unavailable")
        log.warning(
            "service_login_failed",
            extra={"account": self._account, "error": error, "reason": why},
        )
        return self._closed(pause_s)

    def _close(self, why: str, *, until: float) -> None:
        self._closed_by, self._closed_until = why, until

    def _raise_if_closed(self) -> None:
        left_s = self._closed_until - self._clock.monotonic()
        if left_s > 0:
            raise self._closed(left_s)

    def _closed(self, left_s: float) -> ServiceLoginFailed:
        return ServiceLoginFailed(
            f"{self._login.iam_endpoint}: {self._closed_by}; the next try is due in {left_s:.0f} s",
            retry_after_s=left_s,
        )

    def _left_s(self, token: _ServiceToken) -> float:
        return token.expires_at - self._clock.now()

    def _renew_before_s(self) -> float:
        # A token that lives shorter than that would be renewed without end.
        return min(self._login.renew_before_s, self._life_s / 2)


class KeyPairCredential:
    """AK/SK: each request is signed; nothing expires and nothing can be renewed."""

    def __init__(self, login: KeyPairLogin, endpoint: str, *, clock: Clock) -> None:
        self._login = login
        self._host = urlsplit(endpoint).netloc
        self._clock = clock

    async def log_in(self, *, deadline: float) -> str:
        del deadline
        return "requests are signed, and IAM is not asked"

    async def headers(self, request: UpstreamRequest, *, deadline: float) -> Headers:
        del deadline  # signing waits for nothing
        return sign(
            method=request.method,
            target=request.path,
            headers={"Host": self._host},
            body=request.body,
            access_key=self._login.access_key,
            secret_key=self._login.secret_key,
            at=self._clock.now(),
        )

    async def renew(self, refused: Headers, *, deadline: float) -> bool:
        del refused, deadline
        return False


class TokenFileCredential:
    """A token that another agent keeps fresh in a file."""

    def __init__(
        self, account: str, login: TokenFileLogin, *, clock: Clock, telemetry: Telemetry
    ) -> None:
        self._account = account
        self._file = login.token_file
        self._clock = clock
        self._telemetry = telemetry
        self._token: Secret | None = None
        self._looked_at = float("-inf")
        self._told_at = float("-inf")

    async def log_in(self, *, deadline: float) -> str:
        del deadline
        await self._held()
        return f"{self._file} holds a token, and IAM is not asked"

    async def headers(self, request: UpstreamRequest, *, deadline: float) -> Headers:
        del request, deadline
        token = await self._held()
        return (("X-Auth-Token", token.reveal()),)

    async def _held(self) -> Secret:
        if self._clock.monotonic() - self._looked_at >= _LOOK_AT_FILE_EVERY_S:
            await self._read()
        if self._token is None:
            raise ServiceLoginFailed(f"{self._file} holds no token", retry_after_s=5.0)
        return self._token

    async def renew(self, refused: Headers, *, deadline: float) -> bool:
        del deadline
        await self._read()
        return self._token is not None and refused != (("X-Auth-Token", self._token.reveal()),)

    async def _read(self) -> None:
        self._looked_at = self._clock.monotonic()
        text = await asyncio.to_thread(_text_of, self._file)
        if _TOKEN.fullmatch(text):
            self._token = Secret(text)
        else:  # half written or gone: the last good one may still serve
            self._tell_unreadable()

    def _tell_unreadable(self) -> None:
        now = self._clock.monotonic()
        if now - self._told_at < _LOOK_AT_FILE_EVERY_S:
            return  # each request that the cloud refuses looks, too
        self._told_at = now
        self._telemetry.service_login(self._account, "unavailable")
        extra = {"account": self._account, "file": str(self._file)}
        log.warning("token_file_unreadable", extra=extra)


def _refusal(told: str) -> str:
    meaning = _REFUSALS.get(told.rsplit(maxsplit=1)[-1])
    return f"it refused the login: {told}" + (f", {meaning}" if meaning else "")


Credential = PasswordCredential | KeyPairCredential | TokenFileCredential


def _spare_s(life_s: float) -> float:
    return min(_REMAINING_MIN_S, life_s / 10)


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _login_request(login: PasswordLogin, project: str) -> UpstreamRequest:
    user = {
        "name": login.user,
        "password": login.password.reveal(),
        "domain": {"name": login.domain},
    }
    body = {
        "auth": {
            "identity": {"methods": ["password"], "password": {"user": user}},
            "scope": {"project": {"id": project}},
        }
    }
    return UpstreamRequest(
        method="POST",
        # Without the service catalogue, which is larger than all the rest (dossier 3.1).
        path="/v3/auth/tokens?nocatalog=1",
        headers=(("Content-Type", "application/json;charset=utf8"),),
        body=orjson.dumps(body),
        repeatable=False,
    )


def _token_of(answer: UpstreamAnswer) -> _ServiceToken | None:
    if answer.status != 201:
        return None
    text = answer.headers.get("x-subject-token", "")
    try:
        expires = orjson.loads(answer.body)["token"]["expires_at"]
    except (ValueError, TypeError, KeyError):
        return None
    return _token_from(orjson.dumps({"token": text, "expires_at": expires}))


def _token_from(value: bytes) -> _ServiceToken | None:
    try:
        kept: dict[str, Any] = orjson.loads(value)
        text, expires = kept["token"], kept["expires_at"]
        at = datetime.fromisoformat(expires)
    except (ValueError, TypeError, KeyError):
        return None
    if at.tzinfo is None or not _TOKEN.fullmatch(text):
        return None
    return _ServiceToken(Secret(text), at.timestamp(), value)
