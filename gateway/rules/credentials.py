"""Which text in a request is the caller's JWT? Pure."""

from collections.abc import Sequence

from gateway.errors import BadRequest, NotAuthenticated, Rejection


def caller_jwt(authorization: Sequence[str], x_auth_token: Sequence[str]) -> str:
    """Return the JWT out of the values of `Authorization` and `X-Auth-Token`.

    An unchanged cloud client sends it in X-Auth-Token. A header that stands twice is refused,
    since a proxy behind or before us may read the other one; two credentials that disagree are
    no proof of anybody. Raises BadRequest, NotAuthenticated.
    """
    if len(authorization) > 1 or len(x_auth_token) > 1:
        raise BadRequest("Send one Authorization or X-Auth-Token header, not several.")
    bearer = _bearer(authorization[0]) if authorization else ""
    token = x_auth_token[0].strip() if x_auth_token else ""
    if bearer and token and bearer != token:
        raise NotAuthenticated(Rejection.AMBIGUOUS)
    found = bearer or token
    if not found:
        raise NotAuthenticated(Rejection.MISSING)
    return found


def _bearer(authorization: str) -> str:
    scheme, _, credential = authorization.strip().partition(" ")
    if scheme.lower() != "bearer":  # RFC 9110, 11.1: the scheme's case does not matter
        raise NotAuthenticated(Rejection.UNSUPPORTED_SCHEME)
    return credential.strip()
