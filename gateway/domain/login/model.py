"""Logins of browsers: attempts, sessions, and why a login fails. Pure."""

from dataclasses import dataclass, field
from typing import Final

from gateway.domain.model import Principal

ATTEMPT_LIFETIME_S: Final = 600.0
"""How long a login may take, from its link to the return from the provider."""
ATTEMPTS_PER_BROWSER_MAX: Final = 5
"""Logins that one browser may have open at once, in several tabs."""


@dataclass(frozen=True, slots=True)
class LoginAttempt:
    """A login that was sent to the provider and has not returned.

    It is found only with the state and the cookie of the browser that began it.
    """

    issuer: str
    """The issuer's name in the config."""
    nonce: str = field(repr=False)
    verifier: str = field(repr=False)
    """Of PKCE (RFC 7636)."""
    return_path: str
    """Where the person goes after the login: a path of the gateway."""
    previous: str
    """ID of the session that the browser had; "" for none. The login ends it."""
    needs_fresh: bool
    """The person must have authenticated within `login.fresh_s`."""


@dataclass(frozen=True, slots=True)
class BrowserSession:
    """The login of a person in one browser."""

    id: str
    """Hex digits of the SHA-256 of the cookie's value; not a secret."""
    person: Principal
    """`expires_at` is the session's absolute limit."""
    provider_subject: str
    """`sub` of the ID token; the person's subject may be another claim."""
    provider_session: str
    """`sid` of the ID token; "" if the provider sent none."""
    csrf_token: str = field(repr=False)
    started_at: float
    """Seconds since the epoch."""
    authenticated_at: float
    """When the person authenticated at the provider, in seconds since the epoch."""
    lineage: str
    """ID of the first of the sessions that the same person had in this browser without a logout.

    Live consoles name it, so that a new login of the same person does not end them.
    """
    id_token: str = field(repr=False)
    """Of the login, as the hint for the logout at the provider."""
    refresh_token: str = field(default="", repr=False)
    refresh_at: float = 0.0
    """From when the tokens are refreshed, in seconds since the epoch; 0 without refresh token."""
    client_address: str = ""
    """The address that logged in, for operators."""


@dataclass(frozen=True, slots=True)
class LoginProblem:
    """Why a login failed: on the page, in the audit log and in metrics."""

    name: str
    status: int
    """Of the response to the browser."""
    title: str
    advice: str


LOST: Final = LoginProblem(
    "lost",
    400,
    "This login has expired or was used already.",
    "Start again. Log in in the browser and the tab in which you began, within 10 minutes.",
)
MIXED_UP: Final = LoginProblem(
    "mixed_up",
    400,
    "The response came from another identity provider.",
    "Start again. If it happens again, report it to your operators as a possible attack.",
)
REFUSED: Final = LoginProblem(
    "refused",
    403,
    "Your identity provider did not log you in.",
    "Start again, and confirm the login at the provider. If it refuses, contact its operators.",
)
CODE_REJECTED: Final = LoginProblem(
    "code_rejected",
    400,
    "Your identity provider rejected the login code.",
    "Start again. A code works once and for a short time: do not reload or go back.",
)
TOKEN_REJECTED: Final = LoginProblem(
    "token_rejected",
    403,
    "The gateway rejected the identity provider's token.",
    "Report the request ID to your operators: the log event login_failed has the reason.",
)
CLOCK_SKEW: Final = LoginProblem(
    "clock_skew",
    403,
    "The clocks of the gateway and the identity provider differ.",
    "Report it to your operators: they must synchronize the clocks.",
)
GROUPS_MISSING: Final = LoginProblem(
    "groups_missing",
    403,
    "The identity provider did not send your groups.",
    "Report it to your operators: the provider must send the groups claim to this client.",
)
GROUPS_OVERAGE: Final = LoginProblem(
    "groups_overage",
    403,
    "You are in too many groups for the identity provider to send them.",
    "Report it to your operators: the provider must send only groups that are assigned to this"
    " client.",
)
CLAIM_MISSING: Final = LoginProblem(
    "claim_missing",
    403,
    "The identity provider's token lacks a claim that the gateway requires.",
    "Report the request ID to your operators. You may need another kind of login, or an account"
    " that has the claim.",
)
NOT_FRESH: Final = LoginProblem(
    "not_fresh",
    403,
    "The identity provider did not ask you to authenticate again.",
    "Log out at the provider, then log in again.",
)
LOCKED: Final = LoginProblem(
    "locked",
    403,
    "Your account is locked or revoked at the gateway.",
    "Contact your operators.",
)
PROVIDER_UNAVAILABLE: Final = LoginProblem(
    "provider_unavailable",
    503,
    "The identity provider does not answer.",
    "Try again in a minute. Until then, a token from the command line still works.",
)
STORE_UNAVAILABLE: Final = LoginProblem(
    "store_unavailable",
    503,
    "Logins are unavailable at the moment.",
    "Try again in a minute. Consoles that are open go on, and tokens still work.",
)
OVERLOADED: Final = LoginProblem(
    "overloaded",
    429,
    "Too many logins from your network.",
    "Wait a moment, then start again.",
)

LOGIN_PROBLEMS: Final = (
    LOST,
    MIXED_UP,
    REFUSED,
    CODE_REJECTED,
    TOKEN_REJECTED,
    CLOCK_SKEW,
    GROUPS_MISSING,
    GROUPS_OVERAGE,
    CLAIM_MISSING,
    NOT_FRESH,
    LOCKED,
    PROVIDER_UNAVAILABLE,
    STORE_UNAVAILABLE,
    OVERLOADED,
)


_PAGE: Final = """# Failed logins

Generated by `make docs` from `gateway/domain/login/model.py`.

Why a login with a browser failed: the status and the text of the page, and the name in the audit
record [`login_rejected`](audit-records.md), the log event [`login_failed`](log-events.md) and the
metric [`gateway_browser_logins_total`](metrics.md). `error` of the log event has the details.

| name | status | the page shows |
|---|---|---|
"""


def render_page() -> str:
    """Return the text of docs/reference/logins.md."""
    rows = (
        f"| `{one.name}` | {one.status} | {one.title} {one.advice} |\n" for one in LOGIN_PROBLEMS
    )
    return _PAGE + "".join(rows)
