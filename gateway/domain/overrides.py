"""What operators ordered while everything runs: revocations, links dropped, ceilings, log levels.

Orders are only added; each ends by itself, or is lifted by another. So replicas that hear of them
twice, late or in another order agree, and one that still knows them can tell a store that forgot.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Final, TypeVar

import msgspec

from gateway.domain.model import Principal


class _What(msgspec.Struct, frozen=True, tag_field="kind", forbid_unknown_fields=True):
    pass


class RevokedToken(_What, frozen=True, tag="token"):
    issuer: str
    token_id: str
    """The `jti`."""


class RevokedSubject(_What, frozen=True, tag="subject"):
    issuer: str
    subject: str
    before: float
    """Tokens whose `iat` is not later, in seconds since the epoch."""


class RevokedBefore(_What, frozen=True, tag="before"):
    issuer: str
    before: float


class DroppedLinks(_What, frozen=True, tag="links"):
    """All links, or those on one project, one server or of one person."""

    project: str = ""
    server: str = ""
    person: str = ""
    """`Principal.key`."""

    def covers(self, project: str, server: str, person: str) -> bool:
        return (
            self.project in ("", project)
            and self.server in ("", server)
            # A link that several share may have been given to this person, too.
            and (self.person in ("", person) or not person)
        )


class Ceiling(_What, frozen=True, tag="ceiling"):
    account: str
    budget: str
    per_s: float
    """Calls a second, in place of the config's."""


class LogLevels(_What, frozen=True, tag="log_levels"):
    levels: Mapping[str, str]


class Lifted(_What, frozen=True, tag="lifted"):
    order: str


What = (
    RevokedToken
    | RevokedSubject
    | RevokedBefore
    | DroppedLinks
    | Ceiling
    | LogLevels
    | Lifted
)  # fmt: skip
REVOCATION_KINDS: Final[Mapping[str, type[_What]]] = {
    "token": RevokedToken,
    "subject": RevokedSubject,
    "before": RevokedBefore,
}
_W = TypeVar("_W", bound=_What)


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    at: float
    """Seconds since the epoch; so with `until`."""
    until: float
    by: str
    reason: str
    what: What


class KeptOrders(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What outlives a process."""

    complete: bool
    """Whether these are all that stood then, or only those that somebody gave to this host."""
    orders: list[Order]

    def with_more(self, other: "KeptOrders", now: float) -> "KeptOrders":
        """Return what the two know of that has not ended at `now`."""
        by_id = {order.id: order for order in chain(self.orders, other.orders)}
        return KeptOrders(
            complete=self.complete or other.complete,
            orders=[order for order in by_id.values() if order.until > now],
        )


NOTHING_KEPT: Final = KeptOrders(complete=False, orders=[])
_ORDER: Final = msgspec.json.Decoder(Order)
_KEPT: Final = msgspec.json.Decoder(KeptOrders)


def order_to_text(order: Order) -> bytes:
    return msgspec.json.encode(order)


def order_from_text(text: bytes) -> Order:
    """Read what `order_to_text` wrote; raise ValueError for anything else."""
    try:
        return _ORDER.decode(text)
    except msgspec.DecodeError as error:
        raise ValueError("is no order") from error


def kept_to_text(kept: KeptOrders) -> bytes:
    return msgspec.json.encode(kept)


def kept_from_text(text: bytes | None) -> KeptOrders:
    """Read what `kept_to_text` wrote; a damaged file is as good as none."""
    try:
        return NOTHING_KEPT if text is None else _KEPT.decode(text)
    except msgspec.DecodeError:
        return NOTHING_KEPT


class Orders:
    """A set of them at one instant. It never changes."""

    def __init__(self, orders: Iterable[Order] = ()) -> None:
        self._by_id = {order.id: order for order in orders}
        lifted = {o.what.order for o in self._by_id.values() if isinstance(o.what, Lifted)}
        self._in_force = sorted(
            (
                order
                for order in self._by_id.values()
                if order.id not in lifted and not isinstance(order.what, Lifted)
            ),
            key=lambda order: (order.at, order.id),
        )
        self._tokens = {(what.issuer, what.token_id) for what in self._what(RevokedToken)}
        self._subjects: dict[tuple[str, str], float] = {}
        for one in self._what(RevokedSubject):
            key = (one.issuer, one.subject)
            self._subjects[key] = max(one.before, self._subjects.get(key, one.before))
        self._before: dict[str, float] = {}
        for all_of in self._what(RevokedBefore):
            known = self._before.get(all_of.issuer, all_of.before)
            self._before[all_of.issuer] = max(all_of.before, known)
        self._dropped = [
            (order.id, order.what)
            for order in self._in_force
            if isinstance(order.what, DroppedLinks)
        ]
        self.ceilings = {(one.account, one.budget): one.per_s for one in self._what(Ceiling)}
        self.log_levels = dict(chain.from_iterable(o.levels.items() for o in self._what(LogLevels)))

    def __iter__(self) -> Iterator[Order]:
        return iter(self._by_id.values())

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, order_id: str) -> bool:
        return order_id in self._by_id

    @property
    def in_force(self) -> list[Order]:
        """Those that are not lifted, the oldest first."""
        return list(self._in_force)

    @property
    def ends_at(self) -> float | None:
        """When the first of them ends, in seconds since the epoch."""
        return min((order.until for order in self._by_id.values()), default=None)

    def with_more(self, orders: Iterable[Order], now: float) -> "Orders":
        """Return all that have not ended at `now`."""
        return Orders(one for one in chain(self, orders) if one.until > now)

    def revoke(self, principal: Principal) -> bool:
        """Tell whether the token that proved this principal is revoked."""
        issuer, issued_at = principal.issuer, principal.issued_at
        return (
            (issuer, principal.token_id) in self._tokens
            or issued_at <= self._subjects.get((issuer, principal.subject), float("-inf"))
            or issued_at <= self._before.get(issuer, float("-inf"))
        )

    def dropping(self, project: str, server: str, person: str) -> tuple[str, ...]:
        """Return the ids of the orders that drop such a link; `person` is "" of a shared one."""
        return tuple(
            order_id for order_id, what in self._dropped if what.covers(project, server, person)
        )

    def _what(self, kind: type[_W]) -> Iterator[_W]:
        return (order.what for order in self._in_force if isinstance(order.what, kind))
