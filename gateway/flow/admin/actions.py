"""What operators may ask of a running gateway, and order it to do: of all its processes."""

import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, Final

import msgspec

from gateway.domain.catalogue.catalogue import parse_server_id
from gateway.domain.errors import BadRequest
from gateway.domain.identity.claims import TokenRules
from gateway.domain.model import BudgetClass, Principal
from gateway.domain.overrides import (
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
from gateway.flow.active_overrides import StandingOrders
from gateway.flow.admin.administration import Action, Administrator, Plan
from gateway.flow.admin.cluster_query import EveryProcess
from gateway.flow.admin.messages import (
    Answer,
    Asked,
    DropLinks,
    Given,
    Lift,
    Nothing,
    Orders,
    OrderTold,
    Policy,
    Queue,
    Revoke,
    Sessions,
    SetCeiling,
    SetLogLevels,
    WhichSessions,
    instant,
)
from gateway.flow.ports import Clock

_CLOCKS_APART_S: Final = 300.0
"""An order stands so much longer than it must, in case a replica's clock is ahead."""
_REPLICAS_APART_S: Final = 2.0
"""How far the clocks of well kept replicas may be apart."""


class AdminActions:
    """What there is to do, each with a plan that says whether it can be done before it is."""

    def __init__(  # noqa: PLR0913 - what may be looked at and steered
        self,
        *,
        accounts: frozenset[str],
        projects: frozenset[str],
        rules: Mapping[str, TokenRules],
        link_life_s: float,
        orders: StandingOrders,
        everywhere: EveryProcess,
        clock: Clock,
    ) -> None:
        """`rules`: of the callers' issuers, by name."""
        self._accounts = accounts
        self._projects = projects
        self._rules = rules
        self._link_life_s = link_life_s
        self._orders = orders
        self._everywhere = everywhere
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
            Action(
                "ListSessions",
                "GET",
                "/sessions",
                "Whose tokens and links processes hold",
                WhichSessions,
                Sessions,
                self._sessions,
            ),
            _look(
                "ShowQueue",
                "/queue",
                "Budgets, and who waits for them where",
                everywhere.queue,
                Queue,
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
                partial(everywhere.policy, reload=False),
                Policy,
            ),
            Action(
                "ReloadPolicy",
                "POST",
                "/policy/reload",
                "Read the policy file now, in every process",
                Nothing,
                Policy,
                _plan_of(partial(everywhere.policy, reload=True)),
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
            f"It is for tokens that say they were issued up to {instant(up_to)}: "
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
        server = "" if asked.server is None else parse_server_id(asked.server)
        what = DroppedLinks(asked.project or "", server, person)
        return replace(
            self._order(what, self._link_life_s, asked, who),
            event="links_dropped",
            target=target,
            project=asked.project or "",
            servers=(server,) if server else (),
        )

    def _sessions(self, which: WhichSessions, _: Administrator) -> Plan:
        if which.issuer is not None:
            self._rules_of(which.issuer)
        if which.server is not None:
            which = msgspec.structs.replace(which, server=parse_server_id(which.server))
        return Plan(
            partial(self._everywhere.sessions, which),
            target=f"{which.issuer or ''}:{which.subject}" if which.subject else "",
            servers=(which.server,) if which.server else (),
        )

    def _set_ceiling(self, asked: SetCeiling, who: Administrator) -> Plan:
        if asked.account not in self._accounts:
            raise BadRequest(f"account must be one of: {', '.join(sorted(self._accounts))}.")
        what = Ceiling(asked.account, BudgetClass(asked.budget).value, asked.per_s)
        return self._order(what, asked.for_s, asked, who)

    def _set_log_levels(self, asked: SetLogLevels, who: Administrator) -> Plan:
        return self._order(LogLevels(asked.levels), asked.for_s, asked, who)

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
        order.id, instant(order.at), instant(order.until), order.by, order.reason, order.what
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
