"""Validates the claims of a verified token against one issuer's rules. Pure.

The signature is verified before (drivers/issuers). A claim that is missing, ambiguous or of the
wrong type is rejected, never repaired, because permissions depend on it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from sys import intern
from typing import Any, Final
from unicodedata import category

from gateway.domain.errors import NotAuthenticated, Rejection
from gateway.domain.model import Principal, VerifiedToken
from gateway.domain.quoted import quoted

CALLER_JWT_CHARS_MAX: Final = 16_384
"""The longest accepted token. 1,000 groups of 8 letters fit."""

_TEXT_CHARS_MAX: Final = 255
"""Bound of `sub` in OIDC Core 1.0, section 2; applied to groups and `jti` as well."""
_GROUPS_MAX: Final = 1_000
_YEAR_9999: Final = 253_402_300_799
_ACCESS_TYP: Final = "at+jwt"
"""RFC 9068, 2.1."""
_ID_CLAIMS: Final = frozenset({"nonce", "at_hash", "c_hash"})
"""Claims of ID tokens (OIDC Core 1.0, 2 and 3.3.2.11)."""
_FOREIGN_CLAIMS: Final = _ID_CLAIMS | {"events"}
"""`events` is in security events (RFC 8417), such as back-channel logout tokens."""
_VERIFIED_BY: Final = {"email": "email_verified", "phone_number": "phone_number_verified"}
"""Claims that a person may set at some issuers, with the claim that says whether the issuer
verified them (OIDC Core 1.0, 5.1)."""
_SPACE_SEPARATED: Final = frozenset({"scp", "scope"})
"""RFC 6749, 3.3: scopes are separated by spaces."""
_TYPE_CLAIMS: Final = ("typ", "token_use")
"""Keycloak and Cognito put the type in a claim: ID, Refresh, Logout; Bearer, access."""
_ACCESS_TYPES: Final = ("bearer", "access", "dpop", "jwt", "at+jwt")
_ID_TYPES: Final = ("id", "jwt")


class TokenKind(Enum):
    """What a token is for."""

    ACCESS = "access"
    ID = "id"
    """An ID token, which says who has logged in (OIDC Core 1.0, 2)."""


RequiredValue = tuple[type, str | int | bool]
"""A value with its type: `true` and 1 are equal in Python, and not in a token."""


@dataclass(frozen=True, slots=True)
class TokenRules:
    """The rules for one issuer's tokens."""

    issuer: str
    """The issuer's name in the config."""
    iss: str
    """Must equal the claim `iss` exactly (RFC 7519, 4.1.1)."""
    audiences: frozenset[str]
    """`aud` must contain one of them."""
    leeway_s: float
    """How far the issuer's clock may be ahead or behind."""
    token_age_max_s: float
    """How long after `iat` a token is valid, even if its `exp` is later."""
    token_type: str | None
    """The required `typ`; None: any `typ` except that of another type of token."""
    subject_claim: str
    """A claim's name, or a dotted path into nested objects."""
    groups_claim: str
    """A claim's name, or a dotted path into nested objects (`realm_access.roles`). Names with dots
    are found at every level: the longest match counts."""
    more_groups_claims: tuple[str, ...] = ()
    """Further claims with groups; a person has the groups of all claims."""
    token_id_claim: str = "jti"  # noqa: S105 - a claim
    audience_claim: str = "aud"
    """The claim that counts in place of a missing `aud`."""
    required_claims: tuple[tuple[str, frozenset[RequiredValue]], ...] = ()
    """Claims of which the token must contain one of these values."""
    kind: TokenKind = TokenKind.ACCESS
    """A token of another kind is rejected."""
    person_claim: str | None = None
    """The claim that identifies a person over all issuers; None: no claim does."""
    id_token_client: str | None = None
    """ID tokens of this client count as access tokens; None: no ID tokens do."""


def principal_of(verified: VerifiedToken, rules: TokenRules, now: float) -> Principal:
    """Validate header and claims at `now` (seconds since the epoch); raise NotAuthenticated.

    `exp` and `iat` are required (RFC 9068, 2.2) to know the token's expiry and age. A claim that
    is null is absent (OIDC Core 1.0, 5.3.2).
    """
    claims = {name: value for name, value in verified.claims.items() if value is not None}
    try:
        _check_header(verified.header, rules)
        _check_kind(claims, rules)
        _check_parties(claims, rules)
        issued_at, expires_at = _check_times(claims, rules, now)
        paths = (rules.groups_claim, *rules.more_groups_claims)
        groups, has_groups_claim = _groups_of_all(claims, paths)
        token_id = _at_path(claims, rules.token_id_claim)
        principal = Principal(
            issuer=rules.issuer,
            subject=_subject(claims, rules.subject_claim),
            groups=groups,
            has_groups_claim=has_groups_claim,
            issued_at=issued_at,
            expires_at=expires_at,
            token_id=None if token_id is None else _text(token_id, rules.token_id_claim),
            person=_person(claims, rules.person_claim),
        )
        _check_required(claims, rules, principal)
    except NotAuthenticated as error:
        error.issuer = rules.issuer
        raise
    return principal


def valid_until(principal: Principal, rules: TokenRules) -> float:
    """Return when the token becomes invalid, leeway included, in seconds since the epoch."""
    return expiry(principal, rules) + rules.leeway_s


def expiry(principal: Principal, rules: TokenRules) -> float:
    """Return the expiry without leeway, for callers, in seconds since the epoch."""
    return min(principal.expires_at, principal.issued_at + rules.token_age_max_s)


def _check_header(header: Mapping[str, Any], rules: TokenRules) -> None:
    if "crit" in header:
        # RFC 7515, 4.1.11: unknown extensions must be rejected. None is supported.
        raise NotAuthenticated(Rejection.CRITICAL_HEADER, "crit is not supported")
    kind = _media_type(header.get("typ", ""))
    if rules.token_type is not None:
        if kind != _media_type(rules.token_type):
            detail = f"typ is {quoted(kind)}, and `token_type` is {quoted(rules.token_type)}"
            raise NotAuthenticated(Rejection.TOKEN_TYPE, detail)
    elif "+" in kind and (kind != _ACCESS_TYP or rules.kind is TokenKind.ID):
        # RFC 8725, 3.11: `logout+jwt`, `dpop+jwt`, `secevent+jwt` and so on are not access tokens.
        detail = f"typ is {quoted(kind)}, which is another type of token"
        raise NotAuthenticated(Rejection.TOKEN_TYPE, detail)


def _check_kind(claims: Mapping[str, Any], rules: TokenRules) -> None:
    """Reject a token of the right issuer and audience that is of another kind."""
    if rules.kind is TokenKind.ID:
        _check_id_kind(claims)
        return
    foreign = _FOREIGN_CLAIMS.intersection(claims)
    types: tuple[str, ...] = _ACCESS_TYPES
    if _is_for_client(claims, rules.id_token_client):
        foreign -= _ID_CLAIMS
        types += _ID_TYPES
    if rules.token_type is not None:
        # Some issuers put `nonce` into access tokens; with token_type, `typ` decides instead.
        foreign -= {"nonce"}
    if foreign:
        raise NotAuthenticated(Rejection.TOKEN_TYPE, f"{min(foreign)}: not an access token")
    for claim in _TYPE_CLAIMS:
        if claim in claims and _media_type(claims[claim]) not in types:
            detail = f"{claim} is {quoted(claims[claim])}: not an access token"
            raise NotAuthenticated(Rejection.TOKEN_TYPE, detail)


def _is_for_client(claims: Mapping[str, Any], client: str | None) -> bool:
    """Return whether a client is the only audience, and the party that got the token.

    Some issuers give a client ID tokens for another one (OIDC Core 1.0, 2 and 3.1.3.7: `azp`).
    """
    if client is None or claims.get("aud") not in (client, [client]):
        return False
    return bool(claims.get("azp", client) == client)


def _check_id_kind(claims: Mapping[str, Any]) -> None:
    if "events" in claims:
        raise NotAuthenticated(Rejection.TOKEN_TYPE, "events: not an ID token")
    for claim in _TYPE_CLAIMS:
        if claim in claims and _media_type(claims[claim]) not in _ID_TYPES:
            detail = f"{claim} is {quoted(claims[claim])}: not an ID token"
            raise NotAuthenticated(Rejection.TOKEN_TYPE, detail)


def _media_type(value: object) -> str:
    """Normalize by RFC 7515, 4.1.9: case-insensitive, `application/` is optional."""
    if not isinstance(value, str):
        raise NotAuthenticated(Rejection.TOKEN_TYPE, "typ is not a string")
    return value.lower().removeprefix("application/")


def _check_parties(claims: Mapping[str, Any], rules: TokenRules) -> None:
    if claims.get("iss") != rules.iss:
        detail = f"iss is {quoted(claims.get('iss'))}, and not {quoted(rules.iss)}"
        raise NotAuthenticated(Rejection.ISSUER_UNKNOWN, detail)
    # RFC 7519, 4.1.3: a token with `aud` is for the parties that it names, whatever else it has.
    path = "aud" if "aud" in claims else rules.audience_claim
    audience = _at_path(claims, path)
    named = [audience] if isinstance(audience, str) else audience
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        problem = f"{path} is neither a string nor a list of strings"
        raise NotAuthenticated(Rejection.AUDIENCE, problem)
    if rules.audiences.isdisjoint(named):
        known = ", ".join(sorted(rules.audiences))
        raise NotAuthenticated(Rejection.AUDIENCE, f"{path} is {quoted(audience)}, and not {known}")


def _check_times(claims: Mapping[str, Any], rules: TokenRules, now: float) -> tuple[float, float]:
    issued_at, expires_at = _numeric_date(claims, "iat"), _numeric_date(claims, "exp")
    # RFC 7519, 4.1.4: valid before `exp`, invalid at `exp`. The sums equal those of valid_until.
    if now >= expires_at + rules.leeway_s:
        raise NotAuthenticated(Rejection.EXPIRED, "exp has passed")
    if now >= issued_at + rules.token_age_max_s + rules.leeway_s:
        raise NotAuthenticated(Rejection.TOO_OLD, "iat is too long ago")
    starts_at = max(issued_at, _numeric_date(claims, "nbf") if "nbf" in claims else issued_at)
    if now < starts_at - rules.leeway_s:
        raise NotAuthenticated(Rejection.NOT_YET_VALID, "nbf or iat is in the future")
    return issued_at, expires_at


def _numeric_date(claims: Mapping[str, Any], claim: str) -> float:
    value = _required(claims, claim)
    # bool is an int in Python. The range check is False for NaN and exact for large integers.
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise NotAuthenticated(Rejection.CLAIMS, f"{claim} is not a number")
    if not 0 <= value <= _YEAR_9999:
        raise NotAuthenticated(Rejection.CLAIMS, f"{claim} is out of range")
    return float(value)


def _subject(claims: Mapping[str, Any], path: str) -> str:
    subject = _text(_required(claims, path), "subject")
    verified_by = _VERIFIED_BY.get(path)
    flag = claims.get(verified_by, True) if verified_by else True
    if flag is not True and flag != "true":  # some issuers send text
        raise NotAuthenticated(Rejection.CLAIMS, f"{path} is not verified by the issuer")
    return subject


def _person(claims: Mapping[str, Any], path: str | None) -> str:
    """Return the claim that identifies a person over all issuers; "" without a usable one."""
    if path is None:
        return ""
    try:
        return _subject(claims, path)
    except NotAuthenticated:
        return ""  # the person can be identified, though not as an approver for other issuers


def _check_required(claims: Mapping[str, Any], rules: TokenRules, principal: Principal) -> None:
    for path, accepted in rules.required_claims:
        found = _at_path(claims, path)
        if isinstance(found, str) and path in _SPACE_SEPARATED:
            found = found.split()
        values = found if isinstance(found, list) else [found]
        if not any((type(one), one) in accepted for one in values if isinstance(one, str | int)):
            known = ", ".join(sorted(quoted(value) for _, value in accepted))
            detail = f"{path} is {quoted(found)}, and not one of: {known}"
            raise NotAuthenticated(Rejection.CLAIMS, detail, principal=principal)


def _groups_of_all(
    claims: Mapping[str, Any], paths: tuple[str, ...]
) -> tuple[frozenset[str], bool]:
    """Return the groups of all claims, and whether no claim is absent."""
    found = [_groups(claims, path) for path in paths]
    present = [groups for groups in found if groups is not None]
    return frozenset[str]().union(*present), len(present) == len(found)


def _groups(claims: Mapping[str, Any], path: str) -> frozenset[str] | None:
    """Return the groups; None if the token has no such claim."""
    found = _at_path(claims, path)
    if found is None:
        if path == "groups" and claims.get("hasgroups", False) is not False:
            # Entra ID replaces a long list by this flag (implicit flow), as by `_claim_names`.
            detail = "groups is left out: the person has too many"
            raise NotAuthenticated(Rejection.CLAIMS, detail, is_overage=True)
        return None
    groups = [found] if isinstance(found, str) else found
    if not isinstance(groups, list) or len(groups) > _GROUPS_MAX:
        raise NotAuthenticated(Rejection.CLAIMS, "groups is not a list, or too long")
    if not all(isinstance(group, str) for group in groups):
        raise NotAuthenticated(Rejection.CLAIMS, "a group is not a string")
    # An odd name is ignored, since no rule can name it. Interned: ten thousand cached principals
    # share a few dozen group names.
    return frozenset(intern(group) for group in groups if _is_text(group))


def _required(claims: Mapping[str, Any], path: str) -> Any:
    value = _at_path(claims, path)
    if value is None:
        raise NotAuthenticated(Rejection.CLAIMS, f"{path} is missing")
    return value


def _at_path(claims: Mapping[str, Any], path: str) -> Any:
    """Return the value at the path, or None.

    At every level the longest member name that matches has priority, so names with dots (URLs,
    `kubernetes.io`) are found.
    """
    value: Any = claims
    rest = path
    while rest:
        if not isinstance(value, dict):
            raise NotAuthenticated(Rejection.CLAIMS, f"{path} crosses a non-object")
        names = [rest[:end] for end in _ends(rest)]
        _reject_distributed(value, names)
        name = next((one for one in names if one in value), None)
        if name is None:
            return None
        value, rest = value[name], rest[len(name) + 1 :]
        if value is None:
            return None
    return value


def _ends(path: str) -> list[int]:
    """Return the ends of the names that a path may begin with, the longest first."""
    return [len(path), *(at for at in range(len(path) - 1, 0, -1) if path[at] == ".")]


def _reject_distributed(claims: Mapping[str, Any], names: list[str]) -> None:
    # OIDC Core 1.0, 5.6.2: the claim must be fetched from another place (issuers use this for
    # people with many groups). To treat it as "no groups" would bypass denials of groups.
    elsewhere = claims.get("_claim_names", {})
    if not isinstance(elsewhere, dict) or not elsewhere.keys().isdisjoint(names):
        detail = f"{names[-1]} is a distributed claim"
        raise NotAuthenticated(Rejection.CLAIMS, detail, is_overage=True)


def _is_text(value: object) -> bool:
    """Return whether a value is a short text without control characters and lone surrogates.

    Format characters (such as the ZWNJ of Persian names) pass; outputs for terminals escape them.
    """
    return (
        isinstance(value, str)
        and 0 < len(value) <= _TEXT_CHARS_MAX
        and (
            value.isprintable()
            or all(char.isprintable() or category(char) == "Cf" for char in value)
        )
    )


def _text(value: object, name: str) -> str:
    if isinstance(value, str) and _is_text(value):
        return value
    raise NotAuthenticated(Rejection.CLAIMS, f"{name} is not a short printable string")
