"""The actions of the admin API. Each one applies to all processes of the gateway."""

import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, Final

import msgspec

from gateway.config.policy_names import WILDCARDS, name_problem
from gateway.domain.admin_permissions import CERTIFICATE_ISSUER
from gateway.domain.catalogue.catalogue import parse_server_id
from gateway.domain.errors import BadRequest
from gateway.domain.identity.claims import TokenRules
from gateway.domain.model import BudgetClass, Principal
from gateway.domain.overrides import (
    CLEARED_MARGIN_S,
    REVOCATION_TYPES,
    UNTIL_LIFTED,
    ClearedOverride,
    DroppedLinks,
    Effect,
    EndedRequest,
    Lock,
    LogLevels,
    Override,
    OverrideSet,
    RateCeiling,
    RevokedBefore,
    RevokedSubject,
    RevokedToken,
)
from gateway.flow.active_overrides import LIFTED_LOCK_LIFE_S, ActiveOverrides
from gateway.flow.admin.action_specs import ACTION_SPECS
from gateway.flow.admin.administration import (
    ActionPlan,
    AdminAction,
    Administrator,
)
from gateway.flow.admin.cluster_query import ClusterQuery
from gateway.flow.admin.console_actions import ConsoleActions
from gateway.flow.admin.inquiry_actions import InquiryActions
from gateway.flow.admin.inquiry_messages import ExplainRequest, SearchAuditRequest
from gateway.flow.admin.login_actions import LoginActions
from gateway.flow.admin.messages import (
    AccessRequestsRequest,
    AdminRequest,
    AdminResponse,
    ClearOverrideRequest,
    ConsolesRequest,
    DropLinksRequest,
    EndConsolesRequest,
    LockRequest,
    OverrideResponse,
    OverridesResponse,
    RevokeRequest,
    SessionsRequest,
    SetLogLevelsRequest,
    SetRateCeilingRequest,
    UnlockRequest,
    override_details,
    timestamp,
)
from gateway.flow.admin.request_actions import RequestActions
from gateway.flow.admin.webhook_actions import WebhookActions
from gateway.flow.clock import Clock

_CLOCK_SKEW_S: Final = 2.0
"""How far the clocks of well-kept replicas may differ."""

_Plan = Callable[[Any, Administrator], ActionPlan]


class AdminActions:
    """Plans each action: validates the request before the action is recorded and performed."""

    def __init__(  # noqa: PLR0913 - the subjects of the actions
        self,
        *,
        rate_max_per_s: Mapping[tuple[str, str], float],
        projects: frozenset[str],
        rules: Mapping[str, TokenRules],
        link_life_s: float,
        group_aliases: Callable[[], Mapping[str, frozenset[str]]],
        overrides: ActiveOverrides,
        cluster: ClusterQuery,
        consoles: ConsoleActions,
        logins: LoginActions,
        requests: RequestActions,
        webhooks: WebhookActions,
        inquiries: InquiryActions,
        clock: Clock,
    ) -> None:
        """`rules`: of the callers' issuers, by name. `link_life_s`: how long links are cached.

        `rate_max_per_s`: the highest rate ceiling, by account and budget. `group_aliases` returns
        the groups of tokens by their alias in the policy in force.
        """
        self._rate_max_per_s = rate_max_per_s
        self._projects = projects
        self._rules = rules
        self._link_life_s = link_life_s
        self._group_aliases = group_aliases
        self._overrides = overrides
        self._cluster = cluster
        self._consoles = consoles
        self._clock = clock
        plans: Mapping[str, _Plan] = {
            "ListOverrides": _unconditional(self._list),
            "ClearOverride": self._clear,
            "Revoke": self._revoke,
            "Lock": self._lock,
            "ListLocks": _unconditional(self._list_locks),
            "Unlock": self._unlock,
            "DropLinks": self._drop_links,
            "SetRateCeiling": self._set_rate_ceiling,
            "SetLogLevels": self._set_log_levels,
            "ListSessions": self._sessions,
            "ListConsoles": self._on_consoles(consoles.list),
            "EndConsoles": self._on_consoles(consoles.end),
            "ListLogins": logins.list,
            "EndLogins": logins.end,
            "ListAccessRequests": self._of_known_issuer(requests.list),
            "EndAccessRequest": requests.end,
            "ListDeadNotices": webhooks.list,
            "ReplayNotices": webhooks.replay,
            "ShowQueue": _unconditional(cluster.queue),
            "ShowPolicy": _unconditional(partial(cluster.policy, reload=False)),
            "ReloadPolicy": _unconditional(partial(cluster.policy, reload=True)),
            "Explain": self._of_known_issuer(inquiries.explain),
            "SearchAudit": self._of_known_issuer(inquiries.search),
        }
        self.all = tuple(AdminAction(spec, plans[name]) for name, spec in ACTION_SPECS.items())

    async def _list(self) -> OverridesResponse:
        is_complete = await self._overrides.refresh()
        in_force = self._overrides.current.in_force
        return OverridesResponse(
            self._overrides.loaded, [override_details(one) for one in in_force], is_complete
        )

    def _clear(self, request: ClearOverrideRequest, admin: Administrator) -> ActionPlan:
        cleared = self._find(request.id)
        if cleared is None:
            raise BadRequest("No override with this ID is in force. List them for their IDs.")
        if isinstance(cleared.effect, Lock):
            raise BadRequest("This override is a lock. Lift it with `gateway admin unlock`.")
        if isinstance(cleared.effect, EndedRequest):
            raise BadRequest("A request that has ended stays ended. The person can make a new one.")
        is_revocation = isinstance(cleared.effect, tuple(REVOCATION_TYPES.values()))
        plan = self._clearing(cleared, request, admin)
        return replace(plan, permission="revoke" if is_revocation else "override")

    def _unlock(self, request: UnlockRequest, admin: Administrator) -> ActionPlan:
        lock = self._find(request.id)
        if lock is None or not isinstance(lock.effect, Lock):
            raise BadRequest("No lock with this ID is in force. List the locks for their IDs.")
        return self._clearing(lock, request, admin)

    def _find(self, override_id: str) -> Override | None:
        in_force = self._overrides.current.in_force
        return next((one for one in in_force if one.id == override_id), None)

    def _clearing(
        self, cleared: Override, request: AdminRequest, admin: Administrator
    ) -> ActionPlan:
        life_s = cleared.expires_at - self._clock.now()
        if isinstance(cleared.effect, Lock):
            life_s = min(life_s, LIFTED_LOCK_LIFE_S)
        life_s += CLEARED_MARGIN_S
        plan = self._plan(ClearedOverride(cleared.id), life_s, request, admin)
        return replace(_about(plan, cleared.effect), cleared=cleared.effect)

    async def _list_locks(self) -> OverridesResponse:
        is_complete = await self._overrides.refresh()
        in_force = self._overrides.current.in_force
        locks = [override_details(one) for one in in_force if isinstance(one.effect, Lock)]
        return OverridesResponse(self._overrides.loaded, locks, is_complete)

    def _lock(self, request: LockRequest, admin: Administrator) -> ActionPlan:
        if request.issuer == CERTIFICATE_ISSUER and request.group is not None:
            raise BadRequest("A certificate is in no group. Lock it by its subject.")
        if request.issuer not in (None, CERTIFICATE_ISSUER):
            self._rules_of(request.issuer)
        _require_name("subject", request.subject)
        _require_name("group", request.group)
        self._reject_alias(request.group)
        self._require_project(request.project)
        lock = Lock(
            issuer=request.issuer or "",
            subject=request.subject or "",
            group=request.group or "",
            server="" if request.server is None else parse_server_id(request.server),
            project=request.project or "",
        )
        now = self._clock.now()
        probe = Override("new", now, UNTIL_LIFTED, "", "", lock)
        if OverrideSet([probe]).find_lock(admin.principal) is not None:
            raise BadRequest("The lock would cover you. Another administrator must set it.")
        life_s = UNTIL_LIFTED - now if request.duration_s is None else request.duration_s
        has_wildcards = any(char in lock.subject for char in WILDCARDS)
        note = "The subject is compared as it is: `*` and `?` are no wildcards."
        plan = self._plan(lock, life_s, request, admin, note=note if has_wildcards else "")
        return _about(plan, lock)

    def _revoke(self, request: RevokeRequest, admin: Administrator) -> ActionPlan:
        rules = self._rules_of(request.issuer)
        _require_name("subject", request.subject)
        now = self._clock.now()
        until = _issued_until(request.before, rules, now)
        note = (
            f"Applies to tokens issued up to {timestamp(until)}, "
            f"which includes {rules.leeway_s:g} s of leeway for the issuer's clock. "
            "Later tokens are valid; a lock keeps a person out."
        )
        effect: Effect
        if request.token_id is not None:
            effect, note = RevokedToken(request.issuer, request.token_id), ""
        elif request.subject is not None:
            effect = RevokedSubject(request.issuer, request.subject, until)
        else:
            effect = RevokedBefore(request.issuer, until)
        # The longest time for which a token that was issued up to `until` may be valid.
        life_s = max(until - now, 0.0) + rules.token_age_max_s + 2 * rules.leeway_s
        return _about(self._plan(effect, life_s, request, admin, note=note), effect)

    def _drop_links(self, request: DropLinksRequest, admin: Administrator) -> ActionPlan:
        person = target = ""
        if request.issuer is not None and request.subject is not None:
            self._rules_of(request.issuer)
            _require_name("subject", request.subject)
            person = Principal(request.issuer, request.subject, frozenset(), 0.0, 0.0, None).key
            target = f"{request.issuer}:{request.subject}"
        self._require_project(request.project)
        server = "" if request.server is None else parse_server_id(request.server)
        effect = DroppedLinks(request.project or "", server, person)
        return replace(
            self._plan(effect, self._link_life_s, request, admin),
            target=target,
            project=request.project or "",
            servers=(server,) if server else (),
        )

    def _sessions(self, request: SessionsRequest, _: Administrator) -> ActionPlan:
        if request.issuer is not None:
            self._rules_of(request.issuer)
        if request.server is not None:
            request = msgspec.structs.replace(request, server=parse_server_id(request.server))
        return ActionPlan(
            partial(self._cluster.sessions, request),
            target=f"{request.issuer or ''}:{request.subject}" if request.subject else "",
            servers=(request.server,) if request.server else (),
        )

    def _on_consoles(self, plan: _Plan) -> _Plan:
        """Return a plan whose request names known issuers and well-formed servers."""

        def checked(
            request: ConsolesRequest | EndConsolesRequest, admin: Administrator
        ) -> ActionPlan:
            if request.issuer is not None:
                self._rules_of(request.issuer)
            if request.server is not None:
                request = msgspec.structs.replace(request, server=parse_server_id(request.server))
            return plan(request, admin)

        return checked

    def _of_known_issuer(self, plan: _Plan) -> _Plan:
        """Return a plan whose request names a known issuer, or none."""

        def checked(
            request: AccessRequestsRequest | ExplainRequest | SearchAuditRequest,
            admin: Administrator,
        ) -> ActionPlan:
            if request.issuer is not None:
                self._rules_of(request.issuer)
            return plan(request, admin)

        return checked

    def _set_rate_ceiling(self, request: SetRateCeilingRequest, admin: Administrator) -> ActionPlan:
        accounts = sorted({account for account, _ in self._rate_max_per_s})
        if request.account not in accounts:
            raise BadRequest(f"account must be one of: {', '.join(accounts)}.")
        budget = BudgetClass(request.budget).value
        rate_max_per_s = self._rate_max_per_s[request.account, budget]
        if request.rate_per_s > rate_max_per_s:
            raise BadRequest(
                f"rate_per_s must be {rate_max_per_s:g} or less: a higher rate causes 429s for all"
                " clients of the account. `accounts[].budget.override_max` is the bound."
            )
        effect = RateCeiling(request.account, budget, request.rate_per_s)
        return self._plan(effect, request.duration_s, request, admin)

    def _set_log_levels(self, request: SetLogLevelsRequest, admin: Administrator) -> ActionPlan:
        return self._plan(LogLevels(request.levels), request.duration_s, request, admin)

    def _require_project(self, project: str | None) -> None:
        if project is not None and project not in self._projects:
            raise BadRequest(f"project must be one of: {', '.join(sorted(self._projects))}.")

    def _reject_alias(self, group: str | None) -> None:
        """Reject an alias of the policy: tokens name the group otherwise."""
        named = self._group_aliases().get(group or "")
        if named is not None:
            raise BadRequest(
                "group is an alias of the policy. Lock the group as tokens name it:"
                f" {' and '.join(sorted(named))}."
            )

    def _rules_of(self, issuer: str) -> TokenRules:
        rules = self._rules.get(issuer)
        if rules is None:
            raise BadRequest(f"issuer must be one of: {', '.join(self._rules)}.")
        return rules

    def _plan(
        self,
        effect: Effect,
        life_s: float,
        request: AdminRequest,
        admin: Administrator,
        *,
        note: str = "",
    ) -> ActionPlan:
        now = self._clock.now()
        override = Override(
            id=secrets.token_hex(8),
            created_at=now,
            expires_at=now + life_s,
            created_by=f"{admin.principal.issuer}:{admin.principal.subject}",
            reason=request.reason,
            effect=effect,
        )
        return ActionPlan(partial(self._add, override, note), override_id=override.id)

    async def _add(self, override: Override, note: str) -> OverrideResponse:
        all_notified = await self._overrides.add(override)
        return OverrideResponse(override_details(override), all_notified, note)


def _require_name(field: str, name: str | None) -> None:
    """Reject a name that no token has: a lock or a revocation of it would have no effect."""
    if name is None:
        return
    without_wildcards = "".join("x" if char in WILDCARDS else char for char in name)
    if field == "group" and without_wildcards != name:
        # A person may have such a name, an administrator chooses none for a group.
        raise BadRequest("group must be the whole name of one group: `*` and `?` are no wildcards.")
    if problem := name_problem(without_wildcards):
        raise BadRequest(f"{field} {problem}.")


def _unconditional(perform: Callable[[], Awaitable[AdminResponse]]) -> _Plan:
    return lambda _, __: ActionPlan(perform)


def _about(plan: ActionPlan, effect: Effect) -> ActionPlan:
    """Return the plan with the person, project and server of the effect, for the audit record."""
    if isinstance(effect, RevokedSubject) or (isinstance(effect, Lock) and effect.subject):
        plan = replace(plan, target=f"{effect.issuer}:{effect.subject}")
    if isinstance(effect, Lock):
        servers = (effect.server,) if effect.server else ()
        plan = replace(plan, project=effect.project, servers=servers)
    return plan


def _issued_until(before: datetime | None, rules: TokenRules, now: float) -> float:
    """Return the latest `iat` of tokens issued up to `before`, by default up to now.

    `iat` is on the issuer's clock, which may be ahead of this one, as may another replica's clock.
    """
    until = now if before is None else before.timestamp()
    if until > now + rules.leeway_s:
        raise BadRequest("before is in the future. Omit it to revoke all tokens issued until now.")
    if until < 0:
        raise BadRequest("before must be in 1970 or later.")
    return min(until, now) + rules.leeway_s + _CLOCK_SKEW_S
