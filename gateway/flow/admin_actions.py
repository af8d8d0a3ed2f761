"""What operators may ask of a running gateway, and order it to do.

Orders reach all replicas; what is told (sessions, queue, policy) is this process's own view.
"""

import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Final, Literal

import msgspec

from gateway.errors import BadRequest
from gateway.flow.administration import Action, Administrator, Plan
from gateway.flow.console import Consoles
from gateway.flow.fair_budget import FairBudget
from gateway.flow.identify import Identify
from gateway.flow.standing_orders import StandingOrders
from gateway.model import BudgetClass, Logger, LogLevel, Principal, ServerId
from gateway.ports import Clock, ReloadedPolicies
from gateway.rules.identity import TokenRules
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
_REPLICAS_APART_S: Final = 2.0
"""How far the clocks of well kept replicas may be apart."""
_YEAR_9999: Final = 253_402_300_799.0
_SESSIONS_MAX: Final = 10_000


class _Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    reason: Reason = ""
    """Goes on record."""


class Revoke(_Asked, frozen=True):
    """One token (`token_id`), a person's (`subject`), or all; the latter two up to `before`.

    Without it a person's by now. How far the issuer's clock may be ahead is added.
    """

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
    per_s: Annotated[float, msgspec.Meta(ge=0.001, le=100_000)]
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


class AdminActions:
    """What there is to do, each with a plan that says whether it can be done before it is."""

    def __init__(  # noqa: PLR0913 - what may be looked at and steered
        self,
        *,
        rules: Mapping[str, TokenRules],
        link_life_s: float,
        orders: StandingOrders,
        identify: Identify,
        consoles: Consoles,
        budget: FairBudget,
        policies: ReloadedPolicies,
        clock: Clock,
    ) -> None:
        """`rules`: of the callers' issuers, by name."""
        self._rules = rules
        self._link_life_s = link_life_s
        self._orders = orders
        self._identify = identify
        self._consoles = consoles
        self._budget = budget
        self._policies = policies
        self._clock = clock
        self.all: tuple[Action, ...] = (
            Action(
                "ListOrders", "GET", "/orders", "What is ordered now", Nothing, _told(self._list)
            ),
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
                _told(self._sessions),
            ),
            Action(
                "ShowQueue",
                "GET",
                "/queue",
                "Budgets, and who waits here for them",
                Nothing,
                _told(self._queue),
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
                _told(self._policy),
            ),
            Action(
                "ReloadPolicy",
                "POST",
                "/policy/reload",
                "Read the policy file now, in this process",
                Nothing,
                _told(self._reload),
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

    async def _list(self) -> Json:
        return {
            "known": self._orders.known,
            "orders": [_described(order) for order in self._orders.current.in_force],
        }

    def _lift(self, asked: Lift, who: Administrator) -> Plan:
        found = [one for one in self._orders.current.in_force if one.id == asked.order]
        if not found:
            raise BadRequest("There is no such order in force; list them for their ids.")
        (lifted,) = found
        left_s = lifted.until - self._clock.now() + _CLOCKS_APART_S
        plan = self._order(Lifted(asked.order), left_s, asked, who)
        return replace(plan, target=_person(lifted.what))

    def _revoke(self, asked: Revoke, who: Administrator) -> Plan:
        rules = self._rules.get(asked.issuer)
        if rules is None:
            raise BadRequest(f"issuer must be one of: {', '.join(self._rules)}.")
        now = self._clock.now()
        up_to = _issued_up_to(asked.before, rules, now)
        note = (
            f"It is for tokens that say they were issued up to {_instant(up_to)}: "
            f"the issuer's clock may be {rules.leeway_s:g} s ahead."
        )
        what: What
        if asked.token_id is not None:
            what, note = RevokedToken(asked.issuer, asked.token_id), ""
        elif asked.subject is not None:
            what = RevokedSubject(asked.issuer, asked.subject, up_to)
        else:
            what = RevokedBefore(asked.issuer, up_to)
        # So long a token may be good that is issued by the last of these instants.
        life_s = max(up_to - now, 0.0) + rules.token_age_max_s + 2 * rules.leeway_s
        plan = self._order(what, life_s, asked, who, note=note)
        return replace(plan, event="revoked", target=_person(what))

    def _drop_links(self, asked: DropLinks, who: Administrator) -> Plan:
        person = target = ""
        if asked.subject:
            person = Principal(asked.issuer, asked.subject, frozenset(), 0.0, 0.0, None).key
            target = f"{asked.issuer}:{asked.subject}"
        server = ServerId(asked.server.lower())
        what = DroppedLinks(asked.project, server, person)
        return replace(
            self._order(what, self._link_life_s, asked, who),
            event="links_dropped",
            target=target,
            project=asked.project,
            servers=(server,) if server else (),
        )

    async def _sessions(self) -> Json:
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

    async def _queue(self) -> Json:
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

    def _set_ceiling(self, asked: SetCeiling, who: Administrator) -> Plan:
        accounts = {line.account for line in self._budget.lines}
        if asked.account not in accounts:
            raise BadRequest(f"account must be one of: {', '.join(sorted(accounts))}.")
        what = Ceiling(asked.account, BudgetClass(asked.budget).value, asked.per_s)
        return self._order(what, asked.for_s, asked, who)

    async def _policy(self) -> Json:
        policy = self._policies.current()
        return {
            "version": policy.version,
            "rules": policy.size,
            "loaded_at": _instant(self._policies.loaded_at),
            "file_rejected": self._policies.rejected,
        }

    async def _reload(self) -> Json:
        await self._policies.reload()
        return await self._policy()

    def _set_log_levels(self, asked: SetLogLevels, who: Administrator) -> Plan:
        levels = {str(name): str(level) for name, level in asked.levels.items()}
        return self._order(LogLevels(levels), asked.for_s, asked, who)

    def _order(
        self, what: What, for_s: float, asked: _Asked, who: Administrator, *, note: str = ""
    ) -> Plan:
        now = self._clock.now()
        order = Order(
            id=secrets.token_hex(8),
            at=now,
            until=now + for_s,
            by=f"{who.principal.issuer}:{who.principal.subject}",
            reason=asked.reason,
            what=what,
        )
        return Plan(partial(self._give, order, note), order_id=order.id)

    async def _give(self, order: Order, note: str) -> Json:
        told = await self._orders.give(order)
        return {"order": _described(order), "all_replicas_told": told, "note": note}


def _told(tell: Callable[[], Awaitable[Json]]) -> Callable[[Nothing, Administrator], Plan]:
    return lambda _, __: Plan(tell)


def _person(what: What) -> str:
    return f"{what.issuer}:{what.subject}" if isinstance(what, RevokedSubject) else ""


def _described(order: Order) -> Json:
    return {
        "id": order.id,
        "at": _instant(order.at),
        "until": _instant(order.until),
        "by": order.by,
        "reason": order.reason,
        "what": msgspec.to_builtins(order.what),
    }


def _issued_up_to(before: datetime | None, rules: TokenRules, now: float) -> float:
    """Return the last `iat` of what was issued up to an instant, or by now.

    By the issuer's clock, which may be ahead of ours; and a replica's may be, too.
    """
    asked = now if before is None else before.timestamp()
    if asked > now + rules.leeway_s:
        raise BadRequest("before is still to come; leave it out for all that was issued by now.")
    if asked < 0:
        raise BadRequest("before must be in 1970 or later.")
    return min(asked, now) + rules.leeway_s + _REPLICAS_APART_S


def _instant(seconds: float) -> str:
    seconds = min(max(0.0, seconds), _YEAR_9999)  # whatever an order holds, it can be told
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
