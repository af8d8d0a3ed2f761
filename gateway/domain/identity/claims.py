"""Who a verified token speaks for: the claims judged against one issuer's rules. Pure.

The signature is proved before (drivers/signatures.py). What is missing, of the wrong type or
ambiguous is refused, never repaired: a claim that is read loosely here is a permission there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from sys import intern
from typing import Any, Final

from gateway.domain.errors import NotAuthenticated, Rejection
from gateway.domain.model import Principal, VerifiedToken

CALLER_JWT_CHARS_MAX: Final = 16_384
"""The longest token that is looked at. 1,000 groups of 8 letters fit."""

_TEXT_CHARS_MAX: Final = 255
"""OIDC Core 1.0, section 2: `sub` has at most 255 characters; groups and `jti` are held to it."""
_GROUPS_MAX: Final = 1_000
_YEAR_9999: Final = 253_402_300_799
_ACCESS_TYP: Final = "at+jwt"
"""RFC 9068, 2.1."""
_STRANGE_CLAIMS: Final = frozenset({"nonce", "at_hash", "c_hash", "events"})
"""What ID tokens bear (OIDC Core 1.0, 2 and 3.3.2.11), and security events (RFC 8417: `events`),
of which a back-channel logout token is one."""
_KINDS_IN_CLAIMS: Final = ("typ", "token_use")
"""Keycloak and Cognito name the kind in the claims: ID, Refresh, Logout; Bearer, access."""
_ACCESS_KINDS: Final = ("bearer", "access", "dpop", "jwt", "at+jwt")


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What one issuer's tokens must say."""

    issuer: str
    """The issuer's name in our config."""
    iss: str
    """Compared with the claim character by character (RFC 7519, 4.1.1)."""
    audiences: frozenset[str]
    """One of them must stand in `aud`."""
    leeway_s: float
    """How far the issuer's clock may be from ours, either way."""
    token_age_max_s: float
    """How long after `iat` a token may be used, however late its `exp`."""
    token_type: str | None
    """The `typ` that is required; None: any that does not tell of another kind of token."""
    subject_claim: str
    groups_claim: str
    """Both: a claim's name, or a path into objects with dots (`realm_access.roles`)."""


def principal_of(verified: VerifiedToken, rules: TokenRules, now: float) -> Principal:
    """Judge header and claims at `now` (seconds since the epoch); raise NotAuthenticated.

    `exp` and `iat` are required (RFC 9068, 2.2): without them neither end nor age is known.
    """
    claims = verified.claims
    try:
        _check_header(verified.header, rules)
        _check_kind(claims, rules)
        _check_parties(claims, rules)
        issued_at, expires_at = _check_times(claims, rules, now)
        return Principal(
            issuer=rules.issuer,
            subject=_text(_required(claims, rules.subject_claim), "subject"),
            groups=_groups(claims, rules.groups_claim),
            issued_at=issued_at,
            expires_at=expires_at,
            token_id=_text(claims["jti"], "jti") if "jti" in claims else None,
        )
    except NotAuthenticated as refusal:
        refusal.issuer = rules.issuer
        raise


def good_until(principal: Principal, rules: TokenRules) -> float:
    """Return the instant (seconds since the epoch) from which on the token is refused."""
    return ends_at(principal, rules) + rules.leeway_s


def ends_at(principal: Principal, rules: TokenRules) -> float:
    """Return the instant that may be told to callers: they should not count on the leeway."""
    return min(principal.expires_at, principal.issued_at + rules.token_age_max_s)


def _check_header(header: Mapping[str, Any], rules: TokenRules) -> None:
    if "crit" in header:
        # RFC 7515, 4.1.11: whoever does not know an extension must refuse. We know none.
        raise NotAuthenticated(Rejection.CRITICAL_HEADER, "crit is not supported")
    kind = _media_type(header.get("typ", ""))
    if rules.token_type is not None:
        if kind != _media_type(rules.token_type):
            raise NotAuthenticated(Rejection.TOKEN_TYPE, "typ is not the one that is required")
    elif "+" in kind and kind != _ACCESS_TYP:
        # RFC 8725, 3.11: `logout+jwt`, `dpop+jwt`, `secevent+jwt`... each is for something else.
        raise NotAuthenticated(Rejection.TOKEN_TYPE, "typ tells of another kind of token")


def _check_kind(claims: Mapping[str, Any], rules: TokenRules) -> None:
    """Refuse what is signed by the right issuer for us, but as no access token."""
    strange = _STRANGE_CLAIMS.intersection(claims)
    if rules.token_type is not None:
        # Some issuers put `nonce` into access tokens: they set token_type, which decides then.
        strange -= {"nonce"}
    if strange:
        raise NotAuthenticated(Rejection.TOKEN_TYPE, f"{min(strange)}: not an access token")
    for claim in _KINDS_IN_CLAIMS:
        if claim in claims and _media_type(claims[claim]) not in _ACCESS_KINDS:
            raise NotAuthenticated(Rejection.TOKEN_TYPE, f"{claim}: not an access token")


def _media_type(value: object) -> str:
    """Normalise by RFC 7515, 4.1.9: case does not count, `application/` may be left out."""
    if not isinstance(value, str):
        raise NotAuthenticated(Rejection.TOKEN_TYPE, "typ is not a string")
    return value.lower().removeprefix("application/")


def _check_parties(claims: Mapping[str, Any], rules: TokenRules) -> None:
    if claims.get("iss") != rules.iss:
        raise NotAuthenticated(Rejection.ISSUER_UNKNOWN, "iss is not this issuer's")
    audience = claims.get("aud")
    named = [audience] if isinstance(audience, str) else audience
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise NotAuthenticated(Rejection.AUDIENCE, "aud is no string and no list of strings")
    if rules.audiences.isdisjoint(named):
        raise NotAuthenticated(Rejection.AUDIENCE, "the token is meant for others")


def _check_times(claims: Mapping[str, Any], rules: TokenRules, now: float) -> tuple[float, float]:
    issued_at, expires_at = _instant(claims, "iat"), _instant(claims, "exp")
    # RFC 7519, 4.1.4: good before `exp`, no longer at `exp`. The sums are those of good_until.
    if now >= expires_at + rules.leeway_s:
        raise NotAuthenticated(Rejection.EXPIRED, "exp has passed")
    if now >= issued_at + rules.token_age_max_s + rules.leeway_s:
        raise NotAuthenticated(Rejection.TOO_OLD, "iat is too long ago")
    starts_at = max(issued_at, _instant(claims, "nbf") if "nbf" in claims else issued_at)
    if now < starts_at - rules.leeway_s:
        raise NotAuthenticated(Rejection.NOT_YET_VALID, "nbf or iat is still to come")
    return issued_at, expires_at


def _instant(claims: Mapping[str, Any], claim: str) -> float:
    value = _required(claims, claim)
    # bool is an int in Python; the comparison is False for NaN, and exact for endless integers.
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise NotAuthenticated(Rejection.CLAIMS, f"{claim} is not a number")
    if not 0 <= value <= _YEAR_9999:
        raise NotAuthenticated(Rejection.CLAIMS, f"{claim} is out of range")
    return float(value)


def _groups(claims: Mapping[str, Any], path: str) -> frozenset[str]:
    found = _reach(claims, path)
    if found is None:
        return frozenset()
    groups = [found] if isinstance(found, str) else found
    if not isinstance(groups, list) or len(groups) > _GROUPS_MAX:
        raise NotAuthenticated(Rejection.CLAIMS, "groups is no list, or too long a one")
    # Interned: ten thousand remembered people share some dozens of group names.
    return frozenset(intern(_text(group, "a group")) for group in groups)


def _required(claims: Mapping[str, Any], path: str) -> Any:
    value = _reach(claims, path)
    if value is None:
        raise NotAuthenticated(Rejection.CLAIMS, f"{path} is missing")
    return value


def _reach(claims: Mapping[str, Any], path: str) -> Any:
    """Follow the path; None where nothing is. A claim of just that name (a URL) comes first."""
    value: Any = claims
    for step in (path,) if path in claims else path.split("."):
        if not isinstance(value, dict):
            raise NotAuthenticated(Rejection.CLAIMS, f"{path} leads through what is no object")
        _refuse_elsewhere(value, step)
        if step not in value:
            return None
        value = value[step]
    if value is None:
        raise NotAuthenticated(Rejection.CLAIMS, f"{path} is null")
    return value


def _refuse_elsewhere(claims: Mapping[str, Any], claim: str) -> None:
    # OIDC Core 1.0, 5.6.2: the claim is to be fetched elsewhere (issuers do so when a person has
    # many groups). Reading it as "no groups" would slip past every denial of a group.
    elsewhere = claims.get("_claim_names", {})
    if not isinstance(elsewhere, dict) or claim in elsewhere:
        raise NotAuthenticated(Rejection.CLAIMS, f"{claim} is not in the token itself")


def _text(value: object, what: str) -> str:
    # isprintable() is False for control and format characters (a name that reads like another's)
    # and for lone surrogates, which no log or store could encode.
    if isinstance(value, str) and 0 < len(value) <= _TEXT_CHARS_MAX and value.isprintable():
        return value
    raise NotAuthenticated(Rejection.CLAIMS, f"{what} is not a short printable text")
