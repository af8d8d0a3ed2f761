"""What operators may ask of a running gateway, and order it to do.

Orders reach all replicas; what is told (sessions, queue, policy) is this process's own view.
"""

import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from gateway.errors import BadRequest
from gateway.flow.admin_messages import (
    Answer,
    Asked,
    Budget,
    DropLinks,
    Given,
    Lift,
    Link,
    Nothing,
    Orders,
    OrderTold,
    Policy,
    Queue,
    Revoke,
    Sessions,
    SetCeiling,
    SetLogLevels,
    Token,
)
from gateway.flow.administration import Action, Administrator, Plan
from gateway.flow.console import Consoles
from gateway.flow.fair_budget import FairBudget
from gateway.flow.identify import Identify
from gateway.flow.standing_orders import StandingOrders
from gateway.model import BudgetClass, Principal
from gateway.ports import Clock, ReloadedPolicies
from gateway.rules.catalogue import server_id
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

_CLOCKS_APART_S: Final = 300.0
"""An order stands so much longer than it must, in case a replica's clock is ahead."""
_REPLICAS_APART_S: Final = 2.0
"""How far the clocks of well kept replicas may be apart."""
_YEAR_9999: Final = 253_402_300_799.0
_SESSIONS_MAX: Final = 10_000


class AdminActions:
    """What there is to do, each with a plan that says whether it can be done before it is."""

    def __init__(  # noqa: PLR0913 - what may be looked at and steered
        self,
        *,
        projects: frozenset[str],
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
        self._projects = projects
        self._rules = rules
        self._link_life_s = link_life_s
        self._orders = orders
        self._identify = identify
        self._consoles = consoles
        self._budget = budget
        self._policies = policies
        self._clock = clock
        self.all: tuple[Action, ...] = (
            _look("ListOrders", "/orders", "What is ordered now", self._list, Orders),
            _give("LiftOrder", "/orders/lift", "End an order", Lift, self._lift),
            _give(
                "Revoke",
                "/revocations",
                "Refuse a token, a person's tokens, or all up to an instant",
                Revoke,
                self._revoke,
            ),
            _give(
                "DropLinks",
                "/links/drop",
                "Hand out no link again that was fetched by now; the cloud may still take it",
                DropLinks,
                self._drop_links,
            ),
            _look(
                "ListSessions",
                "/sessions",
                "Whose tokens and links this process holds",
                self._sessions,
                Sessions,
            ),
            _look(
                "ShowQueue", "/queue", "Budgets, and who waits here for them", self._queue, Queue
            ),
            _give(
                "SetCeiling",
                "/budget/ceiling",
                "Another ceiling of an account's budget, for a time",
                SetCeiling,
                self._set_ceiling,
            ),
            _look(
                "ShowPolicy",
                "/policy",
                "The policy in force, and when it was loaded",
                self._policy,
                Policy,
            ),
            Action(
                "ReloadPolicy",
                "POST",
                "/policy/reload",
                "Read the policy file now, in this process",
                Nothing,
                Policy,
                _plan_of(self._reload),
            ),
            _give(
                "SetLogLevels",
                "/log-levels",
                "Other log levels, for a time",
                SetLogLevels,
                self._set_log_levels,
            ),
        )

    async def _list(self) -> Orders:
        return Orders(self._orders.known, [_told(one) for one in self._orders.current.in_force])

    def _lift(self, asked: Lift, who: Administrator) -> Plan:
        found = [one for one in self._orders.current.in_force if one.id == asked.order]
        if not found:
            raise BadRequest("There is no such order in force; list them for their ids.")
        (lifted,) = found
        left_s = lifted.until - self._clock.now() + _CLOCKS_APART_S
        plan = self._order(Lifted(asked.order), left_s, asked, who)
        return replace(plan, target=_person(lifted.what))

    def _revoke(self, asked: Revoke, who: Administrator) -> Plan:
        rules = self._rules_of(asked.issuer)
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
        if asked.issuer is not None and asked.subject is not None:
            self._rules_of(asked.issuer)
            person = Principal(asked.issuer, asked.subject, frozenset(), 0.0, 0.0, None).key
            target = f"{asked.issuer}:{asked.subject}"
        if asked.project is not None and asked.project not in self._projects:
            raise BadRequest(f"project must be one of: {', '.join(sorted(self._projects))}.")
        server = "" if asked.server is None else server_id(asked.server)
        what = DroppedLinks(asked.project or "", server, person)
        return replace(
            self._order(what, self._link_life_s, asked, who),
            event="links_dropped",
            target=target,
            project=asked.project or "",
            servers=(server,) if server else (),
        )

    async def _sessions(self) -> Sessions:
        return Sessions(
            tokens=[
                Token(
                    one.issuer,
                    one.subject,
                    one.token_id,
                    _instant(one.issued_at),
                    _instant(one.expires_at),
                )
                for one in self._identify.principals()[:_SESSIONS_MAX]
            ],
            links=[
                Link(
                    link.account,
                    link.project,
                    link.server,
                    link.person.partition(":")[2],
                    round(link.left_s),
                    link.fingerprint,
                )
                for link in self._consoles.held()[:_SESSIONS_MAX]
            ],
        )

    async def _queue(self) -> Queue:
        return Queue(
            [
                Budget(
                    line.account,
                    line.budget.value,
                    line.limit.ceiling,
                    line.rate,
                    line.paused_s,
                    line.is_alone,
                    line.queued,
                    dict(Counter(one.partition(":")[2] for one in line.waiting)),
                )
                for line in self._budget.lines
            ]
        )

    def _set_ceiling(self, asked: SetCeiling, who: Administrator) -> Plan:
        accounts = {line.account for line in self._budget.lines}
        if asked.account not in accounts:
            raise BadRequest(f"account must be one of: {', '.join(sorted(accounts))}.")
        what = Ceiling(asked.account, BudgetClass(asked.budget).value, asked.per_s)
        return self._order(what, asked.for_s, asked, who)

    async def _policy(self) -> Policy:
        policy = self._policies.current()
        loaded_at = _instant(self._policies.loaded_at)
        return Policy(policy.version, policy.size, loaded_at, self._policies.rejected)

    async def _reload(self) -> Policy:
        await self._policies.reload()
        return await self._policy()

    def _set_log_levels(self, asked: SetLogLevels, who: Administrator) -> Plan:
        levels = {str(name): str(level) for name, level in asked.levels.items()}
        return self._order(LogLevels(levels), asked.for_s, asked, who)

    def _rules_of(self, issuer: str) -> TokenRules:
        rules = self._rules.get(issuer)
        if rules is None:
            raise BadRequest(f"issuer must be one of: {', '.join(self._rules)}.")
        return rules

    def _order(
        self, what: What, for_s: float, asked: Asked, who: Administrator, *, note: str = ""
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

    async def _give(self, order: Order, note: str) -> Given:
        are_told = await self._orders.give(order)
        return Given(_told(order), are_told, note)


def _look(
    name: str,
    path: str,
    summary: str,
    tell: Callable[[], Awaitable[Answer]],
    answers: type[Answer],
) -> Action:
    return Action(name, "GET", path, summary, Nothing, answers, _plan_of(tell))


def _give(
    name: str,
    path: str,
    summary: str,
    takes: type[Asked],
    plan: Callable[[Any, Administrator], Plan],
) -> Action:
    return Action(name, "POST", path, summary, takes, Given, plan)


def _plan_of(tell: Callable[[], Awaitable[Answer]]) -> Callable[[Any, Administrator], Plan]:
    return lambda _, __: Plan(tell)


def _person(what: What) -> str:
    return f"{what.issuer}:{what.subject}" if isinstance(what, RevokedSubject) else ""


def _told(order: Order) -> OrderTold:
    return OrderTold(
        order.id, _instant(order.at), _instant(order.until), order.by, order.reason, order.what
    )


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
