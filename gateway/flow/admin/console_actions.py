"""The actions of the admin API on live consoles."""

from functools import partial
from typing import Protocol

from gateway.domain.consoles import ends
from gateway.domain.consoles.ends import SessionEnd
from gateway.domain.consoles.model import PersonRef
from gateway.domain.errors import BadRequest, ConsoleStoreUnavailable, StoreUnavailable
from gateway.flow.admin.administration import ActionPlan, Administrator
from gateway.flow.admin.messages import (
    ConsoleEntry,
    ConsolesRequest,
    ConsolesResponse,
    EndConsolesRequest,
    EndedConsolesResponse,
    timestamp,
)
from gateway.flow.consoles.console_store import ListedSession, SessionListing

_RETRY_AFTER_S = 1.0


class ConsoleDirectory(Protocol):
    """The live consoles of all processes."""

    async def listed(self) -> SessionListing:
        """Return the sessions; without Redis, those of this process."""

    async def end(self, session_id: str, end: SessionEnd, *, by: PersonRef | None = None) -> bool:
        """End a session wherever it is; False: no such session. Raises StoreUnavailable."""


class ConsoleActions:
    def __init__(self, directory: ConsoleDirectory | None) -> None:
        """`directory`: None if no account delivers live consoles."""
        self._directory = directory

    def list(self, request: ConsolesRequest, _: Administrator) -> ActionPlan:
        """Plan ListConsoles; the request's names are checked already."""
        directory = self._required()
        return ActionPlan(
            partial(self._list, directory, request),
            target=_target(request.issuer, request.subject),
            servers=(request.server,) if request.server else (),
        )

    def end(self, request: EndConsolesRequest, admin: Administrator) -> ActionPlan:
        """Plan EndConsoles; the request's names are checked already."""
        directory, principal = self._required(), admin.principal
        by = PersonRef(principal.subject, principal.issuer)
        return ActionPlan(
            partial(self._end, directory, request, by),
            target=_target(request.issuer, request.subject),
            servers=(request.server,) if request.server else (),
        )

    def _required(self) -> ConsoleDirectory:
        if self._directory is None:
            raise BadRequest("No account delivers live consoles (`accounts[].console.delivery`).")
        return self._directory

    async def _list(
        self, directory: ConsoleDirectory, request: ConsolesRequest
    ) -> ConsolesResponse:
        listing = await directory.listed()
        found = [_entry(one) for one in listing.sessions if _matches(one, request)]
        return ConsolesResponse(found, complete=listing.is_complete)

    async def _end(
        self, directory: ConsoleDirectory, request: EndConsolesRequest, by: PersonRef
    ) -> EndedConsolesResponse:
        """End all that can be reached; raise ConsoleStoreUnavailable if that may not be all."""
        listing = await directory.listed()
        found = [
            one
            for one in listing.sessions
            if request.id in (None, one.session.id) and _matches(one, request)
        ]
        ended, is_all = list[ListedSession](), listing.is_complete
        for one in found:
            try:
                if await directory.end(one.session.id, ends.OPERATOR, by=by):
                    ended.append(one)
            except StoreUnavailable:  # end the others, which may be of this process
                is_all = False
        if not is_all and (request.id is None or not ended):
            raise ConsoleStoreUnavailable(
                f"ended {len(ended)}; those of other processes may go on",
                retry_after_s=_RETRY_AFTER_S,
            )
        if request.id is not None and not found:
            raise BadRequest("No live console has this ID. List them for their IDs.")
        return EndedConsolesResponse([_entry(one) for one in ended])


def _matches(one: ListedSession, request: ConsolesRequest | EndConsolesRequest) -> bool:
    person, target = one.session.person, one.session.target
    return (
        request.issuer in (None, person.issuer)
        and request.subject in (None, person.subject)
        and request.server in (None, target.server)
    )


def _entry(listed: ListedSession) -> ConsoleEntry:
    session = listed.session
    return ConsoleEntry(
        session.id,
        session.person.issuer,
        session.person.subject,
        session.target.account,
        session.target.project,
        session.target.server,
        session.mode.value,
        timestamp(session.started_at),
        session.client_address,
        listed.owner,
    )


def _target(issuer: str | None, subject: str | None) -> str:
    return f"{issuer or ''}:{subject}" if subject else ""
