"""What is said over the admin API: what may be asked, and what is told. The document is made of it.

Whatever can be said of a message without looking at config or orders is said here.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Final, get_args

import msgspec

from gateway.domain.model import BudgetClass, Logger, LogLevel
from gateway.domain.overrides import What

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
Reason = Annotated[str, msgspec.Meta(max_length=500)]
Span = Annotated[float, msgspec.Meta(gt=0, le=2_592_000)]
Instant = Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time"})]

# Strings to msgspec: of Literals it tells that a value is none of them, not which there are.
_LOGGERS: Final[Sequence[str]] = get_args(Logger)
_LEVELS: Final[Sequence[str]] = get_args(LogLevel)
_BUDGETS: Final[Sequence[str]] = [one.value for one in BudgetClass]
_YEAR_9999: Final = 253_402_300_799.0


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    reason: Reason = ""
    """Goes on record."""


class Nothing(Asked, frozen=True):
    pass


class Revoke(Asked, frozen=True):
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


class DropLinks(Asked, frozen=True):
    """Those on a project, on a server, or of a person (`issuer` and `subject`); or all of them."""

    all: bool = False
    project: Text | None = None
    server: Text | None = None
    issuer: Text | None = None
    subject: Text | None = None

    def __post_init__(self) -> None:
        if (self.issuer is None) != (self.subject is None):
            raise ValueError("name a person by issuer and subject")
        if self.all == any((self.project, self.server, self.subject)):
            raise ValueError("say whose links, by project, server or subject; or all: true")


class WhichSessions(Asked, frozen=True):
    """Those of a person, or links on a server; without any all of them."""

    issuer: Text | None = None
    subject: Text | None = None
    server: Text | None = None


class SetCeiling(Asked, frozen=True):
    account: Text
    per_s: Annotated[float, msgspec.Meta(ge=0.001, le=100_000)]
    """Calls a second, over all replicas."""
    budget: Annotated[str, msgspec.Meta(extra_json_schema={"enum": _BUDGETS})] = "console"
    for_s: Span = 86_400.0

    def __post_init__(self) -> None:
        _raise_unless_among(_BUDGETS, [self.budget], "budget")


class SetLogLevels(Asked, frozen=True):
    levels: Annotated[
        dict[str, Annotated[str, msgspec.Meta(extra_json_schema={"enum": _LEVELS})]],
        msgspec.Meta(min_length=1, extra_json_schema={"propertyNames": {"enum": _LOGGERS}}),
    ]
    for_s: Span = 3_600.0

    def __post_init__(self) -> None:
        _raise_unless_among(_LOGGERS, self.levels, "each logger in levels")
        _raise_unless_among(_LEVELS, self.levels.values(), "each level in levels")


class Lift(Asked, frozen=True):
    order: Text
    """Its id."""


def _raise_unless_among(choices: Sequence[str], asked: Iterable[str], what: str) -> None:
    if not set(choices).issuperset(asked):
        raise ValueError(f"{what} must be one of: {', '.join(choices)}")


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class OrderTold(Answer, frozen=True):
    id: str
    at: Instant
    until: Instant
    by: str
    reason: str
    what: What


class Orders(Answer, frozen=True):
    known: bool
    """Redis, or the file, has told this process what is ordered."""
    orders: list[OrderTold]


class Given(Answer, frozen=True):
    order: OrderTold
    all_replicas_told: bool
    note: str
    """What else there is to know."""


class Token(Answer, frozen=True):
    issuer: str
    subject: str
    token_id: str | None
    issued_at: Instant
    expires_at: Instant


class Link(Answer, frozen=True):
    account: str
    project: str
    server: str
    person: str
    """As issuer:subject; "" of a link that all share."""
    seconds_left: int
    fingerprint: str


class SessionsHere(Answer, frozen=True):
    process: str
    tokens: list[Token]
    """The latest first, and so with links."""
    links: list[Link]
    left_out: int
    """How many more there are than one process tells."""


class Sessions(Answer, frozen=True):
    """So with queue and policy: what each process tells."""

    processes: list[SessionsHere]
    there_are: int
    """Processes, as far as Redis knows."""
    missing: int
    """Those of them that did not tell in time."""


class Budget(Answer, frozen=True):
    account: str
    budget: str
    ceiling_per_s: float
    rate_per_s: float
    pause_s: float
    alone: bool
    """Redis is away, so this process goes by its share."""
    waiting: int
    """Over all replicas that this one sees."""
    waiting_here: dict[str, int]
    """Calls by issuer:subject."""


class QueueHere(Answer, frozen=True):
    process: str
    budgets: list[Budget]


class Queue(Answer, frozen=True):
    processes: list[QueueHere]
    there_are: int
    missing: int


class PolicyHere(Answer, frozen=True):
    process: str
    version: str
    rules: int
    loaded_at: Instant
    file_rejected: bool
    error: str = ""
    """The first one, for which the file was rejected."""


class Policy(Answer, frozen=True):
    processes: list[PolicyHere]
    there_are: int
    missing: int


def instant(seconds: float) -> Instant:
    """Say an instant, whatever number an order holds for one."""
    seconds = min(max(0.0, seconds), _YEAR_9999)
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
