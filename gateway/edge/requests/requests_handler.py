"""The paths of access requests.

GET  P/requests              those that the caller may see
POST P/requests              makes one
GET  P/requests/rules        what the caller may request
GET  P/requests/ID           one
POST P/requests/ID/approve   approves exactly what `hash` names
POST P/requests/ID/deny
POST P/requests/ID/withdraw
POST P/requests/ID/end       ends the access early
"""

import re
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qsl

from gateway.domain.catalogue.catalogue import parse_server_id
from gateway.domain.errors import BadRequest
from gateway.domain.model import Principal, ProjectId
from gateway.domain.requests.model import AccessRequest
from gateway.domain.requests.wanted import Wanted, check_reason
from gateway.edge.json_endpoint import (
    Action,
    IdentifyCaller,
    JsonReply,
    Paths,
    conditional_reply,
    json_reply,
    read_json,
    recheck_session,
    require_fresh_login,
)
from gateway.edge.listener.request import ListenerRequest
from gateway.edge.requests.request_fields import request_fields, rule_fields
from gateway.flow.clock import Clock
from gateway.flow.request import RequestContext
from gateway.flow.requests.access_requests import AccessRequests
from gateway.flow.shielded_tasks import ShieldedTasks

PATH: Final = "/requests"
_ID: Final = r"([0-9a-f]{32})"
_BODY_BYTES_MAX: Final = 32_768
_NUMBER_MAX: Final = 2**53
_LIMIT_DEFAULT: Final = 100
_LIMIT_MAX: Final = 1_000
_STATES: Final = ("pending", "active", "ended", "denied", "withdrawn", "expired", "revoked")
_OPEN: Final = frozenset({"pending", "active"})
_FILTERS: Final = ("mine", "to_approve")
_PROJECT: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_FIELDS: Final = frozenset(
    {
        *("role", "rule", "project_id", "server_ids", "duration_s", "reason", "ticket"),
        "break_glass",
    }
)
_Step = Callable[[str, Principal, RequestContext, str], Coroutine[Any, Any, AccessRequest]]


class RequestsHandler:
    def __init__(self, requests: AccessRequests, identify: IdentifyCaller, clock: Clock) -> None:
        self._requests = requests
        self._identify = identify
        self._clock = clock
        self._shielded = ShieldedTasks()
        """Steps: one that is recorded is also taken, although its caller leaves."""
        self.paths: Paths = (
            (
                re.compile(""),
                {
                    "GET": Action("ListAccessRequests", self._list),
                    "POST": Action("RequestAccess", self._create),
                },
            ),
            (re.compile("/rules"), {"GET": Action("ListRequestRules", self._list_rules)}),
            (re.compile(f"/{_ID}"), {"GET": Action("ShowAccessRequest", self._show)}),
            (
                re.compile(f"/{_ID}/approve"),
                {"POST": Action("ApproveAccessRequest", self._approve, needs_fresh_login=True)},
            ),
            *(
                (re.compile(f"/{_ID}/{name}"), {"POST": Action(operation, self._closing(step))})
                for name, operation, step in (
                    ("deny", "DenyAccessRequest", requests.deny),
                    ("withdraw", "WithdrawAccessRequest", requests.withdraw),
                    ("end", "EndAccessRequest", requests.end),
                )
            ),
        )

    async def _list(self, request: ListenerRequest, context: RequestContext, _: str) -> JsonReply:
        person = await self._identify(request, context)
        states, which, limit = _query(request.raw_path.partition("?")[2])
        now = self._clock.now()
        stored = self._requests.open() if _OPEN.issuperset(states) else self._requests.all()
        found = [
            one
            for one in stored
            if one.state(now) in states
            and self._requests.is_visible(one, person)
            and (which != "mine" or self._requests.is_own(one, person))
            and (which != "to_approve" or self._requests.awaits(one, person))
        ]
        listed = [self._fields(one, person) for one in found[:limit]]
        value = {"requests": listed, "truncated": max(0, len(found) - limit)}
        return conditional_reply(request, value)

    async def _list_rules(
        self, request: ListenerRequest, context: RequestContext, _: str
    ) -> JsonReply:
        person = await self._identify(request, context)
        rules = [rule_fields(one) for one in self._requests.rules_for(person)]
        return json_reply({"rules": rules, "approver": self._requests.is_approver(person)})

    async def _show(
        self, request: ListenerRequest, context: RequestContext, request_id: str
    ) -> JsonReply:
        person = await self._identify(request, context)
        found = await self._requests.find(request_id, person)
        return conditional_reply(request, self._fields(found, person))

    async def _create(self, request: ListenerRequest, context: RequestContext, _: str) -> JsonReply:
        person = await self._identify(request, context)
        wanted = _wanted(await self._body(request, context))
        if wanted.break_glass:
            require_fresh_login(context)
        made = await self._shielded.run(self._requests.create(wanted, person, context))
        return json_reply(self._fields(made, person), status=HTTPStatus.CREATED)

    async def _approve(
        self, request: ListenerRequest, context: RequestContext, request_id: str
    ) -> JsonReply:
        person = await self._identify(request, context)
        body = await self._body(request, context)
        shown = body.get("hash")
        if body.keys() != {"hash"} or not isinstance(shown, str) or not _HASH.fullmatch(shown):
            raise BadRequest('The body must be {"hash": "HASH"}, the `hash` of the request.')
        step = self._requests.approve(request_id, person, context, shown)
        approved = await self._shielded.run(step)
        return json_reply(self._fields(approved, person))

    def _closing(
        self, step: _Step
    ) -> Callable[[ListenerRequest, RequestContext, str], Awaitable[JsonReply]]:
        async def close(
            request: ListenerRequest, context: RequestContext, request_id: str
        ) -> JsonReply:
            person = await self._identify(request, context)
            body = await self._body(request, context)
            reason = body.get("reason", "")
            if not body.keys() <= {"reason"} or not isinstance(reason, str):
                raise BadRequest('The body must be {"reason": "TEXT"}, or {}.')
            check_reason(reason, may_be_empty=True)
            closed = await self._shielded.run(step(request_id, person, context, reason))
            return json_reply(self._fields(closed, person))

        return close

    def _fields(self, request: AccessRequest, person: Principal) -> dict[str, Any]:
        known, now = self._requests.as_known(request), self._clock.now()
        return request_fields(
            known,
            self._requests.rules.get(known.rule),
            now,
            may=self._requests.steps_of(known, person),
            is_own=self._requests.is_own(known, person),
            in_force=self._requests.is_in_force(known),
        )

    async def _body(self, request: ListenerRequest, context: RequestContext) -> dict[str, Any]:
        within_s = context.deadline - self._clock.monotonic()
        body = await read_json(request, bytes_max=_BODY_BYTES_MAX, within_s=within_s)
        await recheck_session(context)  # a body may take long
        return body


def _wanted(body: Mapping[str, Any]) -> Wanted:
    unknown = body.keys() - _FIELDS
    if unknown:
        raise BadRequest(f"The body may have these members: {', '.join(sorted(_FIELDS))}.")
    servers = body.get("server_ids")
    if not isinstance(servers, list) or not all(isinstance(one, str) for one in servers):
        raise BadRequest("`server_ids` must be a list of server IDs.")
    duration_s = body.get("duration_s")
    if (
        isinstance(duration_s, bool)
        or not isinstance(duration_s, int | float)
        or abs(duration_s) > _NUMBER_MAX
    ):
        raise BadRequest("`duration_s` must be a number of seconds.")
    break_glass = body.get("break_glass", False)
    if not isinstance(break_glass, bool):
        raise BadRequest("`break_glass` must be true or false.")
    project = _text(body, "project_id")
    if not _PROJECT.fullmatch(project):
        raise BadRequest("`project_id` must be the ID of a project.")
    return Wanted(
        role=_text(body, "role"),
        rule=_text(body, "rule") if body.get("rule") is not None else None,
        project=ProjectId(project),
        servers=tuple(dict.fromkeys(map(parse_server_id, servers))),
        duration_s=float(duration_s),
        reason=_text(body, "reason"),
        ticket=_text(body, "ticket") if body.get("ticket") is not None else "",
        break_glass=break_glass,
    )


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise BadRequest(f"`{name}` must be text.")
    return value


def _query(text: str) -> tuple[Collection[str], str | None, int]:
    """Return states, filter and the largest number of requests; raise BadRequest."""
    pairs = parse_qsl(text, keep_blank_values=True)
    values = dict(pairs)
    if len(values) != len(pairs) or not values.keys() <= {"state", "filter", "limit"}:
        raise BadRequest("The query may have each of these once: state, filter, limit.")
    which = values.get("filter")
    states = values["state"].split(",") if "state" in values else _STATES
    if not set(states) <= set(_STATES):
        raise BadRequest(f"`state` must be of these, with commas between: {', '.join(_STATES)}.")
    if which is not None and which not in _FILTERS:
        raise BadRequest(f"`filter` must be one of: {', '.join(_FILTERS)}.")
    raw = values.get("limit", str(_LIMIT_DEFAULT))
    limit = int(raw) if raw.isascii() and raw.isdigit() and len(raw) <= 6 else 0
    if not 1 <= limit <= _LIMIT_MAX:
        raise BadRequest(f"`limit` must be from 1 to {_LIMIT_MAX}.")
    return states, which, limit
