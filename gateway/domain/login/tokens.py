"""The claims of ID tokens and of logout tokens, whose signatures are verified already. Pure.

OpenID Connect Core 1.0, 3.1.3.7 and 12.2; Back-Channel Logout 1.0, 2.4 and 2.6.
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from gateway.domain.errors import LoginFailed, NotAuthenticated, Rejection
from gateway.domain.identity.claims import TokenKind, TokenRules, principal_of
from gateway.domain.login import model
from gateway.domain.login.model import LoginProblem
from gateway.domain.model import Principal, VerifiedToken

_LOGOUT_EVENT: Final = "http://schemas.openid.net/event/backchannel-logout"
_LOGOUT_TYPES: Final = ("logout+jwt", "jwt", "")
"""The specification recommends the first; many providers send the second."""
LOGOUT_AGE_MAX_S: Final = 300.0
"""How long after `iat` a logout token is accepted: as long as its `jti` is remembered at least."""
_ID_CHARS_MAX: Final = 255
_HASHES: Final = {"256": hashlib.sha256, "384": hashlib.sha384, "512": hashlib.sha512}
_PROBLEMS: Final[dict[Rejection, LoginProblem]] = {
    Rejection.EXPIRED: model.CLOCK_SKEW,
    Rejection.TOO_OLD: model.CLOCK_SKEW,
    Rejection.NOT_YET_VALID: model.CLOCK_SKEW,
    Rejection.GROUPS_MISSING: model.GROUPS_MISSING,
    Rejection.REVOKED: model.LOCKED,
    Rejection.LOCKED: model.LOCKED,
}
"""A token that the provider has just made is expired only by its clock or ours."""


@dataclass(frozen=True, slots=True)
class LoginRules:
    """The rules for the tokens that one issuer makes for the gateway as its client."""

    client_id: str
    token: TokenRules
    """Claims of the person, as of callers' tokens."""
    acr_values: tuple[str, ...]
    """The ID token's `acr` must be one of them; empty: any."""

    @property
    def id_token(self) -> TokenRules:
        return replace(
            self.token,
            kind=TokenKind.ID,
            audiences=frozenset({self.client_id}),
            audience_claim="aud",
            token_type=None,
        )


@dataclass(frozen=True, slots=True)
class IdTokenFacts:
    person: Principal
    provider_subject: str
    provider_session: str
    authenticated_at: float
    """`auth_time`; 0 if the token has none."""
    expires_at: float


@dataclass(frozen=True, slots=True)
class LogoutFacts:
    token_id: str
    provider_subject: str
    """"": the token names a session only."""
    provider_session: str
    """"": all sessions of the subject."""


def login_problem(refusal: NotAuthenticated) -> LoginProblem:
    """Return what the page says about a rejected token."""
    if refusal.reason is Rejection.CLAIMS and refusal.is_overage:
        return model.GROUPS_OVERAGE
    if refusal.reason is Rejection.CLAIMS and refusal.principal is not None:
        return model.CLAIM_MISSING
    return _PROBLEMS.get(refusal.reason, model.TOKEN_REJECTED)


def check_id_token(
    verified: VerifiedToken,
    rules: LoginRules,
    *,
    nonce: str | None,
    access_token: str,
    more_claims: Mapping[str, Any],
    now: float,
) -> IdTokenFacts:
    """Return the person of an ID token; raise LoginFailed.

    `nonce` is None for a refreshed token, which may repeat the nonce of the login.
    `more_claims` come from the access token or from userinfo; those of the ID token win.
    """
    claims = verified.claims
    merged = replace_claims(verified, {**more_claims, **claims})
    try:
        person = principal_of(merged, rules.id_token, now)
    except NotAuthenticated as refusal:
        raise LoginFailed(login_problem(refusal), f"ID token: {refusal}") from None
    _check_parties(claims, rules.client_id)
    if nonce is not None and not _equal(claims.get("nonce"), nonce):
        raise LoginFailed(model.TOKEN_REJECTED, "ID token: nonce is not the one of this login")
    _check_hash(verified, access_token)
    if rules.acr_values and claims.get("acr") not in rules.acr_values:
        raise LoginFailed(model.CLAIM_MISSING, "ID token: acr is not one of `acr_values`")
    authenticated_at = claims.get("auth_time")
    is_number = isinstance(authenticated_at, int | float) and not isinstance(authenticated_at, bool)
    return IdTokenFacts(
        person,
        _identifier(claims, "sub") or _reject("ID token: sub is missing"),
        _identifier(claims, "sid"),
        float(authenticated_at) if is_number and authenticated_at is not None else 0.0,
        person.expires_at,
    )


def check_logout_token(verified: VerifiedToken, rules: LoginRules, now: float) -> LogoutFacts:
    """Return whose sessions a logout token ends; raise LoginFailed."""
    claims = verified.claims
    kind = verified.header.get("typ", "")
    if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in _LOGOUT_TYPES:
        _reject("logout token: typ is that of another token")
    if "crit" in verified.header:
        _reject("logout token: crit is not supported")
    if "nonce" in claims:
        _reject("logout token: it has a nonce, so it is an ID token")
    events = claims.get("events")
    if not isinstance(events, dict) or not isinstance(events.get(_LOGOUT_EVENT), dict):
        _reject("logout token: events has no back-channel logout")
    _check_parties(claims, rules.client_id, has_azp=False)
    leeway_s = rules.token.leeway_s
    issued_at, expires_at = _number(claims, "iat"), claims.get("exp")
    if not now - LOGOUT_AGE_MAX_S - leeway_s < issued_at <= now + leeway_s:
        _reject("logout token: iat is too old or in the future")
    if expires_at is not None and now >= _number(claims, "exp") + leeway_s:
        _reject("logout token: exp has passed")
    subject, session = _identifier(claims, "sub"), _identifier(claims, "sid")
    if not subject and not session:
        _reject("logout token: neither sub nor sid")
    token_id = _identifier(claims, "jti") or _reject("logout token: jti is missing")
    return LogoutFacts(token_id, subject, session)


def replace_claims(verified: VerifiedToken, claims: dict[str, Any]) -> VerifiedToken:
    return VerifiedToken(verified.issuer, verified.header, claims)


def _reject(detail: str) -> str:
    raise LoginFailed(model.TOKEN_REJECTED, detail)


def _check_parties(claims: Mapping[str, Any], client_id: str, *, has_azp: bool = True) -> None:
    audience = claims.get("aud")
    named = [audience] if isinstance(audience, str) else audience
    if not isinstance(named, list) or client_id not in named:
        _reject("aud is not this client")
    if not has_azp:
        return
    # Core 3.1.3.7: with several audiences `azp` must name this client, and so it must if present.
    party = claims.get("azp")
    if (isinstance(named, list) and len(named) > 1 and party is None) or (
        party is not None and party != client_id
    ):
        _reject("azp is not this client")


def _check_hash(verified: VerifiedToken, access_token: str) -> None:
    """Check `at_hash` if the token has one and its algorithm names a hash (Core 3.1.3.6)."""
    expected = verified.claims.get("at_hash")
    make = _HASHES.get(str(verified.header.get("alg", ""))[-3:])
    if expected is None or make is None:
        return
    digest = make(access_token.encode("utf-8", "surrogatepass")).digest()
    half = base64.urlsafe_b64encode(digest[: len(digest) // 2]).rstrip(b"=").decode()
    if not _equal(expected, half):
        _reject("ID token: at_hash is not of this access token")


def _equal(value: object, expected: str) -> bool:
    return isinstance(value, str) and hmac.compare_digest(
        value.encode("utf-8", "surrogatepass"), expected.encode()
    )


def _identifier(claims: Mapping[str, Any], name: str) -> str:
    """Return an identifier, "" if it is absent."""
    value = claims.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or not 0 < len(value) <= _ID_CHARS_MAX:
        _reject(f"{name} is not a short text")
    return str(value)


def _number(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**53:
        _reject(f"{name} is not a time")
    assert isinstance(value, int | float)
    return float(value)
