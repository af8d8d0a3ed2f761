"""Power operations through live consoles: permitted, counted and recorded before they pass."""

from gateway.domain.consoles.model import ConsoleSession
from gateway.domain.errors import NotPermitted
from gateway.domain.policy.policy import Permit
from gateway.domain.rfb.power import PowerRequest
from gateway.flow.consoles.console_audit import ConsoleAudit
from gateway.flow.consoles.console_rights import ConsoleRights
from gateway.flow.consoles.fresh_links import FreshLinks
from gateway.flow.consoles.recorded_once import RecordedOnce


class ConsolePower:
    def __init__(self, rights: ConsoleRights, links: FreshLinks, audit: ConsoleAudit) -> None:
        self._rights = rights
        self._links = links
        self._audit = audit
        self._refused = RecordedOnce()

    async def permit(self, session: ConsoleSession, request: PowerRequest) -> None:
        """Return if the operation may pass: it is then recorded.

        Raises NotPermitted (recorded once for each session), CallerLimited, and
        AuditLogUnavailable.
        """
        try:
            permit = self._permit(session, request)
        except NotPermitted as refusal:
            if self._refused.add(session.id):
                await self._audit.power_rejected(session, request.action, refusal)
            raise
        self._links.count_request(session)
        await self._audit.power_permitted(session, request.action, permit)

    def _permit(self, session: ConsoleSession, request: PowerRequest) -> Permit:
        if not request.is_allowed:
            raise NotPermitted("the session has no power operations")
        return self._rights.power(session.person, session.target)
