"""Power operations through live consoles: permitted, counted and recorded before they pass."""

import asyncio

from gateway.domain.consoles.model import ConsoleSession
from gateway.domain.errors import CallerLimited, NotPermitted
from gateway.domain.policy.policy import Permit
from gateway.domain.rfb.power import PowerRequest
from gateway.flow.consoles.console_audit import ConsoleAudit
from gateway.flow.consoles.console_rights import ConsoleRights
from gateway.flow.consoles.fresh_links import FreshLinks
from gateway.flow.consoles.recorded_once import RecordedOnce
from gateway.flow.servers.power_readings import PowerChanged


class ConsolePower:
    def __init__(
        self,
        rights: ConsoleRights,
        links: FreshLinks,
        audit: ConsoleAudit,
        power_changed: PowerChanged,
    ) -> None:
        self._power_changed = power_changed
        self._rights = rights
        self._links = links
        self._audit = audit
        self._refused = RecordedOnce()

    async def permit(self, session: ConsoleSession, request: PowerRequest) -> None:
        """Return if the operation may pass: it is then recorded.

        Raises NotPermitted and CallerLimited (each recorded once for each session), and
        AuditLogUnavailable.
        """
        try:
            permit = self._permit(session, request)
            self._links.count_request(session)
        except (NotPermitted, CallerLimited) as refusal:
            if self._refused.add((session.id, type(refusal))):
                await self._audit.power_rejected(session, request.action, refusal)
            raise
        try:
            await self._audit.power_permitted(session, request.action, permit)
        except asyncio.CancelledError:  # the session ends, and the record may be durable
            await self.note_not_sent(session, request)
            raise
        self._power_changed(session.target.project, [session.target.server])

    async def note_not_sent(self, session: ConsoleSession, request: PowerRequest) -> None:
        """Record that an operation did not pass although its record says that it may."""
        await self._audit.power_not_sent(session, request.action)

    def _permit(self, session: ConsoleSession, request: PowerRequest) -> Permit:
        if not request.is_allowed:
            raise NotPermitted("the session has no power operations")
        return self._rights.power(session.person, session.target)
