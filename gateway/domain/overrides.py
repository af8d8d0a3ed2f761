"""Overrides: what administrators set at runtime. Pure.

An override is a revocation, a lock, dropped links, a rate ceiling, log levels or the end of an
access request. Overrides are only added; each expires by itself or is cleared by another override.
The result does not depend on the sequence in which they arrive, so all replicas agree, and a
replica can restore a store that lost them.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta

from gateway.domain.model import Principal
from gateway.domain.policy.target_locks import NO_LOCKS, TargetLocks

IssuedUntil = Annotated[
    float,
    Meta(description="Revokes tokens with `iat` up to this time, in seconds since the epoch."),
]


class _Effect(msgspec.Struct, frozen=True, tag_field="kind", forbid_unknown_fields=True):
    pass


class RevokedToken(_Effect, frozen=True, tag="revoked_token"):
    issuer: str
    token_id: Annotated[str, Meta(description="The token's ID, by default its `jti`.")]


class RevokedSubject(_Effect, frozen=True, tag="revoked_subject"):
    issuer: str
    subject: str
    before: IssuedUntil


class RevokedBefore(_Effect, frozen=True, tag="revoked_before"):
    issuer: str
    before: IssuedUntil


class Lock(_Effect, frozen=True, tag="lock"):
    """Keeps a person, a group, a server or a project out. Exactly one of the four is named."""

    issuer: Annotated[str, Meta(description="Issuer of the subject or group; empty: each.")] = ""
    subject: str = ""
    group: str = ""
    server: str = ""
    project: str = ""

    @property
    def target(self) -> str:
        return next(name for name in LOCK_TARGETS if getattr(self, name))


class DroppedLinks(_Effect, frozen=True, tag="dropped_links"):
    """Cached links that match each non-empty field; all links if every field is empty."""

    project: str = ""
    server: str = ""
    person: Annotated[str, Meta(description="The person as issuer:subject, or empty.")] = ""

    def covers(self, project: str, server: str, person: str) -> bool:
        return (
            self.project in ("", project)
            and self.server in ("", server)
            # A shared link (`person` is empty) may have been issued to this person.
            and (self.person in ("", person) or not person)
        )


class RateCeiling(_Effect, frozen=True, tag="rate_ceiling"):
    account: str
    budget: str
    rate_per_s: Annotated[float, Meta(description="Calls per second over all replicas.")]


class LogLevels(_Effect, frozen=True, tag="log_levels"):
    levels: Annotated[Mapping[str, str], Meta(description="Level by logger.")]


class EndedRequest(_Effect, frozen=True, tag="ended_request"):
    """An access request that was denied, withdrawn or ended: no copy of it gives access."""

    request_id: str
    state: Annotated[str, Meta(description="`denied`, `withdrawn` or `revoked`.")]
    issuer: Annotated[str, Meta(description="Issuer of the person who ended it.")]
    subject: str


class ClearedOverride(_Effect, frozen=True, tag="cleared_override"):
    override_id: Annotated[str, Meta(description="ID of the override that is cleared.")]


Effect = (
    RevokedToken
    | RevokedSubject
    | RevokedBefore
    | Lock
    | DroppedLinks
    | RateCeiling
    | LogLevels
    | EndedRequest
    | ClearedOverride
)
REVOCATION_TYPES: Final[Mapping[str, type[_Effect]]] = {
    "token": RevokedToken,
    "subject": RevokedSubject,
    "before": RevokedBefore,
}
"""Revocations by the label value of the metric `gateway_revocations`."""
LOCK_TARGETS: Final = ("subject", "group", "server", "project")
"""Fields of a Lock, one of which it names; label values of the metric `gateway_locks`."""
UNTIL_LIFTED: Final = 253_402_300_799.0
"""Expiry of a lock without a time limit: the last second of the year 9999."""
CLEARED_MARGIN_S: Final = 300.0
"""A clearing outlives the override that it clears, in case a replica's clock is slow."""
_E = TypeVar("_E", bound=_Effect)


class Override(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    created_at: float
    """Seconds since the epoch."""
    expires_at: float
    """Seconds since the epoch."""
    created_by: str
    """The administrator, as issuer:subject."""
    reason: str
    effect: Effect


def expiries(overrides: Iterable[Override]) -> dict[str, float]:
    """Return when each override ends, by ID.

    A cleared override ends before its clearing, also if it has no end of its own. Therefore a
    clearing may be forgotten, and with it the override.
    """
    ends = {one.id: one.expires_at for one in overrides}
    cleared: dict[str, float] = {}
    for one in overrides:
        if isinstance(one.effect, ClearedOverride) and one.effect.override_id in ends:
            last = cleared.get(one.effect.override_id, one.expires_at)
            cleared[one.effect.override_id] = max(one.expires_at, last)
    for override_id, end in cleared.items():
        ends[override_id] = min(ends[override_id], end - CLEARED_MARGIN_S)
    return ends


def unexpired(overrides: Iterable[Override], now: float) -> list[Override]:
    """Return the overrides that have not ended at `now`, each ID once."""
    by_id = {override.id: override for override in overrides}
    ends = expiries(by_id.values())
    return [override for override in by_id.values() if ends[override.id] > now]


class OverrideSnapshot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The overrides that outlive a process."""

    complete: bool
    """Whether these were all overrides of the cluster, or only those that this host knew."""
    overrides: list[Override]

    def merge(self, other: "OverrideSnapshot", now: float) -> "OverrideSnapshot":
        """Return the overrides of both snapshots that have not expired at `now`."""
        return OverrideSnapshot(
            complete=self.complete or other.complete,
            overrides=unexpired(chain(self.overrides, other.overrides), now),
        )


EMPTY_SNAPSHOT: Final = OverrideSnapshot(complete=False, overrides=[])
_OVERRIDE: Final = msgspec.json.Decoder(Override)
_SNAPSHOT: Final = msgspec.json.Decoder(OverrideSnapshot)


def encode_override(override: Override) -> bytes:
    return msgspec.json.encode(override)


def decode_override(text: bytes) -> Override:
    """Decode the result of `encode_override`; raise ValueError for other input."""
    try:
        return _OVERRIDE.decode(text)
    except msgspec.DecodeError as error:
        raise ValueError("is not an override") from error


def encode_snapshot(snapshot: OverrideSnapshot) -> bytes:
    return msgspec.json.encode(snapshot)


def parse_snapshot(text: bytes) -> OverrideSnapshot:
    """Decode the result of `encode_snapshot`; raise ValueError for other input."""
    return _SNAPSHOT.decode(text)


def decode_snapshot(text: bytes | None) -> OverrideSnapshot:
    """Decode the result of `encode_snapshot`; a missing or damaged file is an empty snapshot."""
    try:
        return EMPTY_SNAPSHOT if text is None else parse_snapshot(text)
    except ValueError:
        return EMPTY_SNAPSHOT


class OverrideSet:
    """An immutable set of overrides."""

    def __init__(self, overrides: Iterable[Override] = ()) -> None:
        self._by_id = {override.id: override for override in overrides}
        cleared = {
            override.effect.override_id
            for override in self._by_id.values()
            if isinstance(override.effect, ClearedOverride)
        }
        self._in_force = sorted(
            (
                override
                for override in self._by_id.values()
                if override.id not in cleared and not isinstance(override.effect, ClearedOverride)
            ),
            key=lambda override: (override.created_at, override.id),
        )
        self._next_expiry = min(expiries(self._by_id.values()).values(), default=None)
        self._tokens = {(one.issuer, one.token_id) for one in self._effects(RevokedToken)}
        self._subjects: dict[tuple[str, str], float] = {}
        for of_subject in self._effects(RevokedSubject):
            key = (of_subject.issuer, of_subject.subject)
            before = self._subjects.get(key, of_subject.before)
            self._subjects[key] = max(of_subject.before, before)
        self._issuers: dict[str, float] = {}
        for of_issuer in self._effects(RevokedBefore):
            before = self._issuers.get(of_issuer.issuer, of_issuer.before)
            self._issuers[of_issuer.issuer] = max(of_issuer.before, before)
        self._dropped = [
            (override.id, override.effect)
            for override in self._in_force
            if isinstance(override.effect, DroppedLinks)
        ]
        locks = [(one.id, one.effect) for one in self._in_force if isinstance(one.effect, Lock)]
        self._locked_subjects = {
            (lock.issuer, lock.subject): one for one, lock in locks if lock.subject
        }
        self._locked_groups = {(lock.issuer, lock.group): one for one, lock in locks if lock.group}
        self._group_lock_issuers = {issuer for issuer, _ in self._locked_groups}
        target_locks = TargetLocks(
            servers={lock.server: one for one, lock in locks if lock.server},
            projects={lock.project: one for one, lock in locks if lock.project},
        )
        self.target_locks = target_locks or NO_LOCKS
        self.rate_ceilings = {
            (one.account, one.budget): one.rate_per_s for one in self._effects(RateCeiling)
        }
        self.ended_requests = frozenset(one.request_id for one in self._effects(EndedRequest))
        self.log_levels = dict(
            chain.from_iterable(one.levels.items() for one in self._effects(LogLevels))
        )

    def __iter__(self) -> Iterator[Override]:
        return iter(self._by_id.values())

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, override_id: str) -> bool:
        return override_id in self._by_id

    @property
    def in_force(self) -> list[Override]:
        """The overrides that are not cleared, oldest first."""
        return list(self._in_force)

    @property
    def next_expiry(self) -> float | None:
        """When the first override expires, in seconds since the epoch."""
        return self._next_expiry

    @property
    def lock_count(self) -> int:
        """The number of locks and of their liftings, lifted locks included."""
        locks = {one.id for one in self if isinstance(one.effect, Lock)}
        return len(locks) + sum(
            isinstance(one.effect, ClearedOverride) and one.effect.override_id in locks
            for one in self
        )

    @property
    def ended_request_count(self) -> int:
        return sum(isinstance(one.effect, EndedRequest) for one in self)

    def merge(self, overrides: Iterable[Override], now: float) -> "OverrideSet":
        """Return these and the given overrides, without those that have expired at `now`."""
        return OverrideSet(unexpired(chain(self, overrides), now))

    def is_revoked(self, principal: Principal) -> bool:
        """Return whether the token that proved this principal is revoked."""
        issuer, issued_at = principal.issuer, principal.issued_at
        return (
            (issuer, principal.token_id) in self._tokens
            or issued_at <= self._subjects.get((issuer, principal.subject), float("-inf"))
            or issued_at <= self._issuers.get(issuer, float("-inf"))
        )

    def find_lock(self, principal: Principal) -> str | None:
        """Return the ID of a lock on the person or on one of their groups."""
        for issuer in (principal.issuer, ""):
            lock = self._locked_subjects.get((issuer, principal.subject))
            if lock is not None:
                return lock
            if issuer in self._group_lock_issuers:
                for group in principal.groups:
                    lock = self._locked_groups.get((issuer, group))
                    if lock is not None:
                        return lock
        return None

    def locks_on(
        self, principal: Principal, project: str, server: str | None
    ) -> Iterator[Override]:
        """Yield each lock that keeps the person from the server; None: any of the project."""
        for override in self._in_force:
            alone = OverrideSet([override])
            if alone.find_lock(principal) or alone.target_locks.find(project, server):
                yield override

    def locks_groups(self, issuer: str) -> bool:
        """Return whether a lock on a group may cover people of this issuer."""
        return not self._group_lock_issuers.isdisjoint((issuer, ""))

    def dropped_by(self, project: str, server: str, person: str) -> tuple[str, ...]:
        """Return the IDs of the overrides that drop such a link; `person` is "" if it is shared."""
        if not self._dropped:
            return ()
        return tuple(
            override_id
            for override_id, effect in self._dropped
            if effect.covers(project, server, person)
        )

    def _effects(self, kind: type[_E]) -> Iterator[_E]:
        return (one.effect for one in self._in_force if isinstance(one.effect, kind))
