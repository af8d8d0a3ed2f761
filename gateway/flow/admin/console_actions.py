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
from gateway.flow.consoles.console_store import ListedSession

_RETRY_AFTER_S = 1.0


class ConsoleDirectory(Protocol):
    """The live consoles of all processes. Each method raises StoreUnavailable."""

    async def listed(self) -> tuple[ListedSession, ...]: ...

    async def end(self, session_id: str, end: SessionEnd, *, by: PersonRef | None = None) -> bool:
        """End a session wherever it is; False: no such session."""


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
        found = await _find(directory, request)
        return ConsolesResponse([_entry(one) for one in found])

    async def _end(
        self, directory: ConsoleDirectory, request: EndConsolesRequest, by: PersonRef
    ) -> EndedConsolesResponse:
        found = await _find(directory, request)
        if request.id is not None and not found:
            raise BadRequest("No live console has this ID. List them for their IDs.")
        try:
            ended = [
                one for one in found if await directory.end(one.session.id, ends.OPERATOR, by=by)
            ]
        except StoreUnavailable as error:
            raise _unavailable(error) from None
        return EndedConsolesResponse([_entry(one) for one in ended])


async def _find(
    directory: ConsoleDirectory, request: ConsolesRequest | EndConsolesRequest
) -> list[ListedSession]:
    wanted_id = request.id if isinstance(request, EndConsolesRequest) else None
    try:
        listed = await directory.listed()
    except StoreUnavailable as error:
        raise _unavailable(error) from None
    return [
        one
        for one in listed
        if wanted_id in (None, one.session.id)
        and request.issuer in (None, one.session.person.issuer)
        and request.subject in (None, one.session.person.subject)
        and request.server in (None, one.session.target.server)
    ]


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


def _unavailable(error: StoreUnavailable) -> ConsoleStoreUnavailable:
    return ConsoleStoreUnavailable(str(error), retry_after_s=_RETRY_AFTER_S)
