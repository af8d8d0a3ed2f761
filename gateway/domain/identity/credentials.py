"""Which text in a request is the caller's JWT? Pure."""

from collections.abc import Sequence

from gateway.domain.errors import BadRequest, NotAuthenticated, Rejection
from gateway.domain.identity.sdk_signature import SECURITY_TOKEN_PREFIX, read_proof
from gateway.domain.upstream.signing import ALGORITHM


def caller_jwt(
    authorization: Sequence[str],
    x_auth_token: Sequence[str],
    x_security_token: Sequence[str] = (),
) -> str | None:
    """Return the JWT out of the values of these headers.

    None: the request is signed with a key pair of ours, whose security token holds the JWT
    (flow/credentials.py opens it). A header that stands twice is refused, since a proxy behind or
    before us may read the other one; two credentials that disagree are no proof of anybody.
    Raises BadRequest, NotAuthenticated.
    """
    if len(authorization) > 1 or len(x_auth_token) > 1 or len(x_security_token) > 1:
        raise BadRequest(
            "Send one Authorization, X-Auth-Token or X-Security-Token header, not several."
        )
    bearer: str | None = ""
    if authorization:
        scheme, _, credential = authorization[0].strip().partition(" ")
        # RFC 9110, 11.1: the scheme's case does not matter
        bearer = credential.strip() if scheme.lower() == "bearer" else _signed(authorization[0])
        if bearer is None:
            return None
    # An unchanged cloud client sends the JWT in X-Auth-Token.
    token = x_auth_token[0].strip() if x_auth_token else ""
    if bearer and token and bearer != token:
        raise NotAuthenticated(Rejection.AMBIGUOUS)
    found = bearer or token
    if x_security_token:
        found = _agreeing(found, x_security_token[0].strip())
    if not found:
        raise NotAuthenticated(_what_is_missing(authorization))
    return found


def _signed(authorization: str) -> str | None:
    """Return None for a signature with a key of ours, "" for one that means nothing here.

    The SDK signs whatever it sends, if need be with a key that somebody made up.
    """
    if not authorization.strip().startswith(f"{ALGORITHM} "):
        raise NotAuthenticated(Rejection.UNSUPPORTED_SCHEME)
    return None if read_proof(authorization).is_ours else ""


def _what_is_missing(authorization: Sequence[str]) -> Rejection:
    is_signed = bool(authorization) and authorization[0].strip().startswith(ALGORITHM)
    return Rejection.FOREIGN_KEY if is_signed else Rejection.MISSING


def _agreeing(token: str, security_token: str) -> str:
    if security_token.startswith(SECURITY_TOKEN_PREFIX):
        # Ours, but nothing is signed with its key: it proves nobody.
        raise NotAuthenticated(Rejection.AMBIGUOUS if token else Rejection.ISSUED_KEY)
    if security_token.count(".") != 2:
        return token  # the cloud's own: an opaque text that means nothing here
    if token and token != security_token:
        raise NotAuthenticated(Rejection.AMBIGUOUS)
    return security_token
