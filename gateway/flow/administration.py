"""What operators may ask of a running gateway, and order it to do. Each action is on record.

Orders reach all replicas; what is told (sessions, queue, policy) is this process's own view.
"""

import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

import msgspec

from gateway.errors import BadRequest, NotAdmin
from gateway.flow.console import Consoles
from gateway.flow.fair_budget import FairBudget
from gateway.flow.identify import Identify
from gateway.flow.standing_orders import StandingOrders
from gateway.model import BudgetClass, Logger, LogLevel, Principal, ServerId
from gateway.ports import AuditRecord, Clock, Journal, ReloadedPolicies
from gateway.rules.orders import (
    Ceiling,
    DroppedLinks,
    Lifted,
    LogLevels,
    Order,
    RevokedBefore,
    RevokedSubject,
    RevokedToken,
    What,
)

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
Reason = Annotated[str, msgspec.Meta(max_length=500)]
Span = Annotated[float, msgspec.Meta(gt=0, le=2_592_000)]
Json = dict[str, Any]

_CLOCKS_APART_S: Final = 300.0
"""An order stands so much longer than it must, in case a replica's clock is ahead."""
_SESSIONS_MAX: Final = 10_000


class _Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    reason: Reason = ""
    """Goes on record."""


class Revoke(_Asked, frozen=True):
    """One token (`token_id`), a person's (`subject`), or all; the latter two up to `before`."""

    issuer: Text
    token_id: Text | None = None
    subject: Text | None = None
    before: datetime | None = None

    def __post_init__(self) -> None:
        is_one = self.token_id is not None
        if is_one == (self.subject is not None or self.before is not None):
            raise ValueError("name a token_id, or a subject, or before, or the latter two")
        if self.before is not None and self.before.tzinfo is None:
            raise ValueError("before needs a time zone, e.g. 2026-11-23T12:00:00Z")


class DropLinks(_Asked, frozen=True):
    """All links, or those on a project, on a server, or of a person (`issuer` and `subject`)."""

    project: str = ""
    server: str = ""
    issuer: str = ""
    subject: str = ""

    def __post_init__(self) -> None:
        if bool(self.issuer) != bool(self.subject):
            raise ValueError("name a person by issuer and subject")


class SetCeiling(_Asked, frozen=True):
    account: Text
    per_s: Annotated[float, msgspec.Meta(gt=0, le=100_000)]
    """Calls a second, over all replicas."""
    budget: Literal["console", "iam"] = "console"
    for_s: Span = 86_400.0


class SetLogLevels(_Asked, frozen=True):
    levels: dict[Logger, LogLevel]
    for_s: Span = 3_600.0


class Lift(_Asked, frozen=True):
    order: Text
    """Its id."""


class Nothing(_Asked, frozen=True):
    pass


@dataclass(frozen=True, slots=True)
class Administrator:
    """Who asks, and by which request."""

    principal: Principal
    by_certificate: bool
    """The listener's TLS has proved who it is, not a token."""
    request_id: str
    client_address: str


@dataclass(frozen=True, slots=True)
class Action:
    name: str
    method: str
    path: str
    summary: str
    takes: type[_Asked]
    perform: Callable[[Any, Administrator], Awaitable[Json]] = field(repr=False)


class Administration:
    def __init__(  # noqa: PLR0913 - what may be looked at and steered
        self,
        *,
        groups: frozenset[str],
        certificates: frozenset[str],
        token_life_s: Mapping[str, float],
        link_life_s: float,
        orders: StandingOrders,
        identify: Identify,
        consoles: Consoles,
        budget: FairBudget,
        policies: ReloadedPolicies,
        journal: Journal,
        clock: Clock,
    ) -> None:
        """Let those in `groups` act, and who shows a certificate of one of these names.

        `token_life_s`: by issuer, how long after its issue a token may be good.
        """
        self._groups = groups
        self._certificates = certificates
        self._token_life_s = token_life_s
        self._link_life_s = link_life_s
        self._orders = orders
        self._identify = identify
        self._consoles = consoles
        self._budget = budget
        self._policies = policies
        self._journal = journal
        self._clock = clock
        self.actions: tuple[Action, ...] = (
            Action("ListOrders", "GET", "/orders", "What is ordered now", Nothing, self._list),
            Action("LiftOrder", "POST", "/orders/lift", "End an order", Lift, self._lift),
            Action(
                "Revoke",
                "POST",
                "/revocations",
                "Refuse a token, a person's tokens, or all up to an instant",
                Revoke,
                self._revoke,
            ),
            Action(
                "DropLinks",
                "POST",
                "/links/drop",
                "Hand out no link again that was fetched by now; the cloud may still take it",
                DropLinks,
                self._drop_links,
            ),
            Action(
                "ListSessions",
                "GET",
                "/sessions",
                "Whose tokens and links this process holds",
                Nothing,
                self._sessions,
            ),
            Action(
                "ShowQueue",
                "GET",
                "/queue",
                "Budgets, and who waits here for them",
                Nothing,
                self._queue,
            ),
            Action(
                "SetCeiling",
                "POST",
                "/budget/ceiling",
                "Another ceiling of an account's budget, for a time",
                SetCeiling,
                self._set_ceiling,
            ),
            Action(
                "ShowPolicy",
                "GET",
                "/policy",
                "The policy in force, and when it was loaded",
                Nothing,
                self._policy,
            ),
            Action(
                "ReloadPolicy",
                "POST",
                "/policy/reload",
                "Read the policy file now, in this process",
                Nothing,
                self._reload,
            ),
            Action(
                "SetLogLevels",
                "POST",
                "/log-levels",
                "Other log levels, for a time",
                SetLogLevels,
                self._set_log_levels,
            ),
        )

    async def perform(self, action: Action, asked: _Asked, who: Administrator) -> Json:
        """Put it on record, then do it.

        Raises NotAdmin, BadRequest, JournalUnavailable.
        """
        if who.by_certificate:
            is_allowed = who.principal.subject in self._certificates
        else:
            is_allowed = not self._groups.isdisjoint(who.principal.groups)
        await self._record(action.name, asked, who, is_allowed=is_allowed)
        if not is_allowed:
            raise NotAdmin("neither group nor certificate is in admin.api")
        return await action.perform(asked, who)

    async def _list(self, _: Nothing, __: Administrator) -> Json:
        return {
            "known": self._orders.known,
            "orders": [_described(order) for order in self._orders.current.in_force],
        }

    async def _lift(self, asked: Lift, who: Administrator) -> Json:
        found = [one for one in self._orders.current.in_force if one.id == asked.order]
        if not found:
            raise BadRequest("There is no such order in force; list them for their ids.")
        left_s = found[0].until - self._clock.now() + _CLOCKS_APART_S
        return await self._give(Lifted(asked.order), left_s, asked, who)

    async def _revoke(self, asked: Revoke, who: Administrator) -> Json:
        life_s = self._token_life_s.get(asked.issuer)
        if life_s is None:
            raise BadRequest(f"issuer must be one of: {', '.join(self._token_life_s)}.")
        now = self._clock.now()
        before = now if asked.before is None else asked.before.timestamp()
        what: What
        if asked.token_id is not None:
            what = RevokedToken(asked.issuer, asked.token_id)
        elif asked.subject is not None:
            what = RevokedSubject(asked.issuer, asked.subject, before)
        else:
            what = RevokedBefore(asked.issuer, before)
        return await self._give(what, max(before, now) - now + life_s, asked, who)

    async def _drop_links(self, asked: DropLinks, who: Administrator) -> Json:
        person = ""
        if asked.subject:
            person = Principal(asked.issuer, asked.subject, frozenset(), 0.0, 0.0, None).key
        what = DroppedLinks(asked.project, ServerId(asked.server.lower()), person)
        return await self._give(what, self._link_life_s, asked, who)

    async def _sessions(self, _: Nothing, __: Administrator) -> Json:
        return {
            "tokens": [
                {
                    "issuer": one.issuer,
                    "subject": one.subject,
                    "token_id": one.token_id,
                    "issued_at": _instant(one.issued_at),
                    "expires_at": _instant(one.expires_at),
                }
                for one in self._identify.principals()[:_SESSIONS_MAX]
            ],
            "links": [
                {
                    "account": link.account,
                    "project": link.project,
                    "server": link.server,
                    "person": link.person.partition(":")[2],
                    "seconds_left": round(link.left_s),
                    "fingerprint": link.fingerprint,
                }
                for link in self._consoles.held()[:_SESSIONS_MAX]
            ],
        }

    async def _queue(self, _: Nothing, __: Administrator) -> Json:
        return {
            "budgets": [
                {
                    "account": line.account,
                    "budget": line.budget.value,
                    "ceiling_per_s": line.limit.ceiling,
                    "rate_per_s": line.rate,
                    "pause_s": line.paused_s,
                    "alone": line.is_alone,
                    "waiting": line.queued,
                    "waiting_here": Counter(one.partition(":")[2] for one in line.waiting),
                }
                for line in self._budget.lines
            ]
        }

    async def _set_ceiling(self, asked: SetCeiling, who: Administrator) -> Json:
        accounts = {line.account for line in self._budget.lines}
        if asked.account not in accounts:
            raise BadRequest(f"account must be one of: {', '.join(sorted(accounts))}.")
        what = Ceiling(asked.account, BudgetClass(asked.budget).value, asked.per_s)
        return await self._give(what, asked.for_s, asked, who)

    async def _policy(self, _: Nothing, __: Administrator) -> Json:
        policy = self._policies.current()
        return {
            "version": policy.version,
            "rules": policy.size,
            "loaded_at": _instant(self._policies.loaded_at),
            "file_rejected": self._policies.rejected,
        }

    async def _reload(self, asked: Nothing, who: Administrator) -> Json:
        await self._policies.reload()
        return await self._policy(asked, who)

    async def _set_log_levels(self, asked: SetLogLevels, who: Administrator) -> Json:
        levels = {str(name): str(level) for name, level in asked.levels.items()}
        return await self._give(LogLevels(levels), asked.for_s, asked, who)

    async def _give(self, what: What, for_s: float, asked: _Asked, who: Administrator) -> Json:
        now = self._clock.now()
        order = Order(
            id=secrets.token_hex(8),
            at=now,
            until=now + for_s,
            by=f"{who.principal.issuer}:{who.principal.subject}",
            reason=asked.reason,
            what=what,
        )
        told = await self._orders.give(order)
        return {"order": _described(order), "all_replicas_told": told}

    async def _record(
        self, action: str, asked: _Asked, who: Administrator, *, is_allowed: bool
    ) -> None:
        principal = who.principal
        named = msgspec.to_builtins(asked)
        await self._journal.record(
            AuditRecord(
                event=_EVENTS.get(action, "admin_action") if is_allowed else "refused",
                at=self._clock.now(),
                request_id=who.request_id,
                issuer=principal.issuer,
                subject=principal.subject,
                groups=principal.groups,
                operation=action,
                project=str(named.get("project", "")),
                servers=(named["server"],) if named.get("server") else (),
                rule="admin.api",
                client_address=who.client_address,
                decision="allowed" if is_allowed else "denied",
                detail=msgspec.json.encode(named).decode(),
            )
        )


_EVENTS: Final = {"Revoke": "revoked", "DropLinks": "links_dropped"}


def _described(order: Order) -> Json:
    return {
        "id": order.id,
        "at": _instant(order.at),
        "until": _instant(order.until),
        "by": order.by,
        "reason": order.reason,
        "what": msgspec.to_builtins(order.what),
    }


def _instant(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
