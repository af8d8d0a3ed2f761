"""What processes hold, told by each of them: one process's view does not pass for all."""

from collections import Counter
from contextlib import suppress
from typing import Final, Protocol, TypeVar

import msgspec

from gateway.domain.model import Principal
from gateway.flow.admin.messages import (
    Answer,
    Budget,
    Link,
    Policy,
    PolicyHere,
    Queue,
    QueueHere,
    Sessions,
    SessionsHere,
    Token,
    WhichSessions,
    instant,
)
from gateway.flow.console import HeldLink
from gateway.flow.fair_budget import BudgetLine
from gateway.flow.ports import ReloadedPolicies, Replicas

_SHOWN_MAX = 1_000
"""Tokens, and links, that one process tells of; it says how many it left out."""
_ANSWER_WITHIN_S = 0.5
_RELOAD_WITHIN_S = 3.0


class AskSessions(msgspec.Struct, frozen=True, tag="sessions"):
    which: WhichSessions


class AskQueue(msgspec.Struct, frozen=True, tag="queue"):
    pass


class AskPolicy(msgspec.Struct, frozen=True, tag="policy"):
    reload: bool


_Question = AskSessions | AskQueue | AskPolicy
_QUESTION: Final[msgspec.json.Decoder[_Question]] = msgspec.json.Decoder(_Question)
_Here = TypeVar("_Here", bound=Answer)


class HoldsTokens(Protocol):
    def principals(self) -> list[Principal]: ...


class HoldsLinks(Protocol):
    def held(self) -> list[HeldLink]: ...


class HasLines(Protocol):
    @property
    def lines(self) -> tuple[BudgetLine, ...]: ...


class OwnView:
    """What this process holds."""

    def __init__(
        self,
        process: str,
        tokens: HoldsTokens,
        links: HoldsLinks,
        budget: HasLines,
        policies: ReloadedPolicies,
    ) -> None:
        self._process = process
        self._tokens = tokens
        self._links = links
        self._budget = budget
        self._policies = policies

    def sessions(self, which: WhichSessions) -> SessionsHere:
        tokens = [one for one in reversed(self._tokens.principals()) if _is_meant(one, which)]
        links = [one for one in reversed(self._links.held()) if _is_link_meant(one, which)]
        return SessionsHere(
            self._process,
            [
                Token(
                    one.issuer,
                    one.subject,
                    one.token_id,
                    instant(one.issued_at),
                    instant(one.expires_at),
                )
                for one in tokens[:_SHOWN_MAX]
            ],
            [
                Link(
                    one.account,
                    one.project,
                    one.server,
                    one.person.partition(":")[2],
                    round(one.left_s),
                    one.fingerprint,
                )
                for one in links[:_SHOWN_MAX]
            ],
            left_out=max(0, len(tokens) - _SHOWN_MAX) + max(0, len(links) - _SHOWN_MAX),
        )

    def queue(self) -> QueueHere:
        budgets = [
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
        return QueueHere(self._process, budgets)

    async def policy(self, *, reload: bool) -> PolicyHere:
        if reload:
            await self._policies.reload()
        policy, loaded_at = self._policies.current(), instant(self._policies.loaded_at)
        error = self._policies.error
        return PolicyHere(self._process, policy.version, policy.size, loaded_at, bool(error), error)


class EveryProcess:
    def __init__(self, view: OwnView, replicas: Replicas) -> None:
        self._view = view
        self._replicas = replicas
        replicas.answer_with(self._answer)

    async def sessions(self, which: WhichSessions) -> Sessions:
        own = self._view.sessions(which)
        return Sessions(*await self._all(own, AskSessions(which), _ANSWER_WITHIN_S))

    async def queue(self) -> Queue:
        own = self._view.queue()
        return Queue(*await self._all(own, AskQueue(), _ANSWER_WITHIN_S))

    async def policy(self, *, reload: bool) -> Policy:
        own = await self._view.policy(reload=reload)
        within_s = _RELOAD_WITHIN_S if reload else _ANSWER_WITHIN_S
        return Policy(*await self._all(own, AskPolicy(reload), within_s))

    async def _all(
        self, own: _Here, question: _Question, within_s: float
    ) -> tuple[list[_Here], int, int]:
        """Return what each process tells, how many there are and how many of them did not."""
        heard = await self._replicas.ask(msgspec.json.encode(question), within_s=within_s)
        told = [own]
        for answer in heard.answers:
            with suppress(msgspec.DecodeError):  # of another version of the gateway
                told.append(msgspec.json.decode(answer, type=type(own)))
        there_are = max(heard.processes, len(told))
        return told, there_are, there_are - len(told)

    async def _answer(self, question: bytes) -> bytes:
        """Answer another process; raise ValueError for a question of another version."""
        answer: Answer
        asked: _Question = _QUESTION.decode(question)
        match asked:
            case AskSessions(which=which):
                answer = self._view.sessions(which)
            case AskQueue():
                answer = self._view.queue()
            case AskPolicy(reload=reload):
                answer = await self._view.policy(reload=reload)
        return msgspec.json.encode(answer)


def _is_meant(principal: Principal, which: WhichSessions) -> bool:
    return (
        which.server is None
        and which.issuer in (None, principal.issuer)
        and which.subject in (None, principal.subject)
    )


def _is_link_meant(link: HeldLink, which: WhichSessions) -> bool:
    issuer, _, subject = link.person.partition(":")[2].partition(":")
    return (
        which.server in (None, link.server)
        and which.issuer in (None, issuer)
        and which.subject in (None, subject)
    )
