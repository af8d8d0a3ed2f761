"""Finds the caller's JWT in the headers of a request. Pure."""

from collections.abc import Sequence

from gateway.domain.errors import BadRequest, NotAuthenticated, Rejection
from gateway.domain.identity.sdk_signature import SECURITY_TOKEN_PREFIX, parse_signature
from gateway.domain.upstream.signing import ALGORITHM


def find_jwt(
    authorization: Sequence[str],
    x_auth_token: Sequence[str],
    x_security_token: Sequence[str] = (),
) -> str | None:
    """Return the JWT in the values of these headers.

    None: the request is signed with an issued key pair, whose security token contains the JWT
    (flow/caller_credentials.py opens it). A repeated header is rejected, because a proxy may read
    the other value. Two different credentials are rejected. Raises BadRequest, NotAuthenticated.
    """
    if len(authorization) > 1 or len(x_auth_token) > 1 or len(x_security_token) > 1:
        raise BadRequest("Authorization, X-Auth-Token and X-Security-Token must not be repeated.")
    bearer: str | None = ""
    if authorization:
        scheme, _, credential = authorization[0].strip().partition(" ")
        # RFC 9110, 11.1: the scheme is case-insensitive.
        bearer = credential.strip() if scheme.lower() == "bearer" else _signed(authorization[0])
        if bearer is None:
            return None
    # An unchanged cloud client sends the JWT in X-Auth-Token.
    token = x_auth_token[0].strip() if x_auth_token else ""
    if bearer and token and bearer != token:
        raise NotAuthenticated(Rejection.AMBIGUOUS)
    found = bearer or token
    if x_security_token:
        found = _matching(found, x_security_token[0].strip())
    if not found:
        raise NotAuthenticated(_missing_credential(authorization))
    return found


def _signed(authorization: str) -> str | None:
    """Return None for a signature with an issued key, "" for a signature with another key.

    The SDK signs every request, if necessary with a placeholder key; that signature is ignored.
    """
    if not authorization.strip().startswith(f"{ALGORITHM} "):
        raise NotAuthenticated(Rejection.UNSUPPORTED_SCHEME)
    return None if parse_signature(authorization).is_issued_key else ""


def _missing_credential(authorization: Sequence[str]) -> Rejection:
    is_signed = bool(authorization) and authorization[0].strip().startswith(ALGORITHM)
    return Rejection.FOREIGN_KEY if is_signed else Rejection.MISSING


def _matching(token: str, security_token: str) -> str:
    if security_token.startswith(SECURITY_TOKEN_PREFIX):
        # An issued key pair proves the caller only by a signature, and there is none.
        raise NotAuthenticated(Rejection.AMBIGUOUS if token else Rejection.ISSUED_KEY)
    if security_token.count(".") != 2:
        return token  # a security token of the cloud: opaque, without meaning here
    if token and token != security_token:
        raise NotAuthenticated(Rejection.AMBIGUOUS)
    return security_token
