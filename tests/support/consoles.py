"""People, tickets and sessions of live consoles, for tests."""

import hashlib

from gateway.domain.consoles.model import (
    ConsoleSession,
    ConsoleTarget,
    SessionLimits,
    SessionMode,
    Ticket,
)
from gateway.domain.model import Principal, ProjectId, ServerId

ACCOUNT = "cloud-a"
PROJECT = ProjectId("0" * 32)
SERVER = ServerId("00000000-0000-4000-8000-000000000001")
OTHER_SERVER = ServerId("00000000-0000-4000-8000-000000000002")
TARGET = ConsoleTarget(ACCOUNT, PROJECT, SERVER)
OTHER_TARGET = ConsoleTarget(ACCOUNT, PROJECT, OTHER_SERVER)
LIMITS = SessionLimits(person=5, server=1, viewers=5, account=200, total=1_000)
BEGAN = 1_800_000_000.0


def hash_of(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def a_person(subject: str = "ada", *, groups: frozenset[str] = frozenset({"ops"})) -> Principal:
    return Principal("corp", subject, groups, BEGAN - 60, BEGAN + 600, None)


def a_ticket(
    subject: str = "ada", *, target: ConsoleTarget = TARGET, mode: SessionMode = SessionMode.CONTROL
) -> Ticket:
    return Ticket(a_person(subject), target, mode, BEGAN, "req-1", "192.0.2.1")


def a_session(
    name: str,
    subject: str = "ada",
    *,
    target: ConsoleTarget = TARGET,
    mode: SessionMode = SessionMode.CONTROL,
    started_at: float = BEGAN,
) -> ConsoleSession:
    """Return a session; cookie and first resume key are `cookie NAME` and `key NAME`."""
    return ConsoleSession(
        id=hash_of(name).hex()[:32],
        person=a_person(subject),
        target=target,
        mode=mode,
        started_at=started_at,
        cookie_hash=hash_of(f"cookie {name}"),
        client_address="192.0.2.2",
        ticket_address="192.0.2.1",
        request_id="req-2",
    )
