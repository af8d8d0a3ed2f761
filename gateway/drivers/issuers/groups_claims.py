"""Reports issuers whose tokens have no groups claim, for a wrong `claims.groups`."""

import logging
from collections.abc import Mapping

log = logging.getLogger("gateway.identity")


class MissingGroupsClaims:
    """Logs one warning per issuer: one per token would fill the log."""

    def __init__(self, claims: Mapping[str, tuple[str, ...]]) -> None:
        """`claims`: the configured groups claims, by the issuer's name in the config."""
        self._not_logged = dict(claims)

    def report(self, issuer: str) -> None:
        """Report a token without one of the issuer's groups claims."""
        claims = self._not_logged.pop(issuer, None)
        if claims is not None:
            log.warning("groups_claim_missing", extra={"issuer": issuer, "claims": [*claims]})
