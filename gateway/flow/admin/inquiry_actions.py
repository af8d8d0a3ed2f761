"""The inquiries of the admin API: why the policy decides as it does, and what was recorded."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from gateway.domain.audit.search import FoundRecord, FoundRecords, RecordFilter
from gateway.domain.catalogue.catalogue import parse_server_id
from gateway.domain.errors import BadRequest
from gateway.domain.model import Principal, ProjectId, RuleRef, ServerId
from gateway.domain.overrides import OverrideSet
from gateway.domain.policy.inventory import NO_INVENTORY
from gateway.domain.policy.target_locks import NO_LOCKS
from gateway.flow.admin.administration import ActionPlan, Administrator
from gateway.flow.admin.inquiry_messages import (
    RECORDS_MAX,
    SEARCH_DAYS_DEFAULT,
    AuditEntry,
    ExplainedRule,
    ExplainRequest,
    ExplainResponse,
    SearchAuditRequest,
    SearchAuditResponse,
)
from gateway.flow.admin.messages import override_details, timestamp
from gateway.flow.clock import Clock
from gateway.flow.decide import Inventories, Policies

_SECONDS_PER_DAY: Final = 86_400.0


class AuditSearch(Protocol):
    """The audit log in the directory of this host."""

    async def search(self, wanted: RecordFilter, *, records_max: int) -> FoundRecords:
        """Return the newest matching records, the newest first. Raises AuditLogUnavailable."""


@dataclass(frozen=True, slots=True)
class GatewayHosts:
    own: str
    """The host of this process."""
    all: Callable[[], Awaitable[tuple[frozenset[str], int]]]
    """Returns the hosts of all processes, and how many processes did not respond."""


@dataclass(frozen=True, slots=True)
class DecisionSources:
    """The parts of the gateway that a decision depends on."""

    policies: Policies
    """With the grants of access requests."""
    inventories: Inventories
    overrides: Callable[[], OverrideSet]
    newest_groups: Callable[[str, str], Awaitable[frozenset[str] | None]]
    """Returns the groups of the newest token of a person, by issuer and subject, in any process."""
    process: str
    """The name of this process, whose policy and inventory decide."""


class InquiryActions:
    def __init__(
        self,
        sources: DecisionSources,
        projects: frozenset[str],
        audit: AuditSearch | None,
        hosts: GatewayHosts,
        clock: Clock,
    ) -> None:
        """`audit`: None if the audit log is not in files of this host."""
        self._sources = sources
        self._projects = projects
        self._audit = audit
        self._hosts = hosts
        self._clock = clock

    def explain(self, request: ExplainRequest, _: Administrator) -> ActionPlan:
        """Plan Explain; the issuer is checked already."""
        if request.project not in self._projects:
            raise BadRequest(f"project must be one of: {', '.join(sorted(self._projects))}.")
        server = None if request.server is None else parse_server_id(request.server)
        return ActionPlan(
            partial(self._explain, request, server),
            target=f"{request.issuer}:{request.subject}",
            project=request.project,
            servers=() if server is None else (server,),
        )

    def search(self, request: SearchAuditRequest, _: Administrator) -> ActionPlan:
        audit = self._audit
        if audit is None:
            raise BadRequest(
                "The config has no `audit.directory`: search where the stream or the output goes."
            )
        until = self._clock.now() if request.until is None else request.until.timestamp()
        since = until - SEARCH_DAYS_DEFAULT * _SECONDS_PER_DAY
        wanted = RecordFilter(
            subject=request.subject,
            issuer=request.issuer,
            server=request.server,
            event=request.event,
            request_id=request.request_id,
            since=since if request.since is None else request.since.timestamp(),
            until=until,
        )
        return ActionPlan(
            partial(self._search, audit, wanted),
            target=f"{request.issuer or ''}:{request.subject}" if request.subject else "",
            servers=(request.server,) if request.server else (),
        )

    async def _explain(self, request: ExplainRequest, server: ServerId | None) -> ExplainResponse:
        now = self._clock.now()
        policy = self._sources.policies.current().with_locks(NO_LOCKS)
        groups, groups_from = await self._groups(request, policy.group_aliases)
        principal = Principal(request.issuer, request.subject, groups, now, now, None)
        project = ProjectId(request.project)
        inventory = self._sources.inventories.current(project)
        known = None if inventory is NO_INVENTORY else inventory.attributes(server, now)
        explanation = policy.explain(principal, request.permission, project, server, now, inventory)
        locks = [*self._sources.overrides().locks_on(principal, project, server)]
        decision = explanation.decision
        return ExplainResponse(
            allowed=decision.allowed and not locks,
            rule=None if decision.rule is None else _explained(decision.rule),
            others=[
                _explained(rule.ref) for rule in explanation.matching if rule.ref != decision.rule
            ],
            locks=[override_details(one) for one in locks],
            groups=sorted(groups),
            groups_from=groups_from,
            attributes_known=known is not None,
            server_name="" if known is None else known.name or "",
            policy=policy.version,
            process=self._sources.process,
        )

    async def _groups(
        self, request: ExplainRequest, aliases: Mapping[str, frozenset[str]]
    ) -> tuple[frozenset[str], str]:
        """Return the person's groups, and where they are from."""
        if request.groups is not None:
            named = (one for name in request.groups for one in aliases.get(name, (name,)))
            return frozenset(named), "request"
        found = await self._sources.newest_groups(request.issuer, request.subject)
        return (frozenset(), "none") if found is None else (found, "token")

    async def _search(self, audit: AuditSearch, wanted: RecordFilter) -> SearchAuditResponse:
        found = await audit.search(wanted, records_max=RECORDS_MAX)
        hosts, missing = await self._hosts.all()
        searched = found.hosts | {self._hosts.own}
        return SearchAuditResponse(
            [_entry(one) for one in found.records],
            found.is_complete,
            found.is_intact,
            sorted(searched),
            sorted(hosts - searched),
            missing,
        )


def _explained(rule: RuleRef) -> ExplainedRule:
    return ExplainedRule(rule.label, rule.location, rule.kind.value)


def _entry(found: FoundRecord) -> AuditEntry:
    record = found.record

    def text(name: str) -> str:
        value = record.get(name, "")
        return value if isinstance(value, str) else ""

    return AuditEntry(
        at=timestamp(found.at),
        proof=found.proof.value,
        event=text("event"),
        request_id=text("request_id"),
        issuer=text("issuer"),
        subject=text("subject"),
        operation=text("operation"),
        permission=text("permission"),
        project=text("project"),
        servers=[str(one) for one in record.get("servers", ())],
        decision=text("decision"),
        rule=text("rule"),
        source=text("source"),
        session=text("session"),
        end=text("end"),
        outcome=text("outcome"),
        target=text("target"),
        client_address=text("client_address"),
        detail=text("detail"),
    )
