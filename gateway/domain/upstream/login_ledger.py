"""Rejected logins of one IAM user or access key, and when the next attempt is allowed. Pure.

IAM locks a user after 5 failed logins within 15 minutes, and an access key for 5 minutes after more
than 5 bad signatures in a row (upstream-api.md#2.2 and #3.2). A rejection pauses exactly what it
concerns: one project, or one credential. Rejections that may count towards a lock are also
bounded over all projects. All replicas share the ledger.
"""

import json
from dataclasses import dataclass, field, replace
from typing import Final

PAUSES_S: Final = (300.0, 600.0, 1_800.0)
"""Pauses after the first, second and any further rejection in a row."""
_WINDOW_S: Final = 900.0
_COUNTED_PER_CREDENTIAL_MAX: Final = 3
_COUNTED_MAX: Final = 4
"""One more than for a credential: a corrected password is tried at once."""
_RETAINED_S: Final = 3_600.0
"""For so long after a pause, the next rejection still counts as a repeated one."""
_ALL: Final = "*"


@dataclass(frozen=True, slots=True)
class LoginSubject:
    """A login, as far as a rejection of it says nothing about other logins."""

    credential: str
    """Fingerprint of the credential and of the address that it is sent to."""
    project: str


@dataclass(frozen=True, slots=True)
class LoginRejection:
    reason: str
    is_counted: bool
    """IAM may count it towards a lock."""
    is_for_all: bool = False
    """It concerns the credential, not only the project."""
    pauses_s: tuple[float, ...] = PAUSES_S


@dataclass(frozen=True, slots=True)
class LoginPause:
    until: float
    reason: str
    is_own: bool
    """The subject's own login was rejected; False: too many others were."""


@dataclass(frozen=True, slots=True)
class _Paused:
    rejections: int
    until: float
    reason: str


@dataclass(frozen=True, slots=True)
class _Counted:
    at: float
    credential: str
    reason: str


@dataclass(frozen=True, slots=True)
class LoginLedger:
    """Immutable; times are monotonic seconds of this process."""

    _paused: dict[tuple[str, str], _Paused] = field(default_factory=dict)
    _counted: tuple[_Counted, ...] = ()

    @property
    def is_empty(self) -> bool:
        return not self._paused and not self._counted

    @property
    def needed_until(self) -> float:
        """Return when its last entry loses its effect."""
        ends = [one.until + _RETAINED_S for one in self._paused.values()]
        return max([*ends, *(one.at + _WINDOW_S for one in self._counted)], default=0.0)

    def pause(self, subject: LoginSubject, now: float) -> LoginPause | None:
        """Return why `subject` must not log in now; None: it may."""
        for project in (_ALL, subject.project):
            found = self._paused.get((subject.credential, project))
            if found is not None and now < found.until:
                return LoginPause(found.until, found.reason, is_own=True)
        recent = [one for one in self._counted if now < one.at + _WINDOW_S]
        own = [one for one in recent if one.credential == subject.credential]
        for counted, limit in ((own, _COUNTED_PER_CREDENTIAL_MAX), (recent, _COUNTED_MAX)):
            if len(counted) >= limit:
                until = counted[-limit].at + _WINDOW_S
                reason = f"{len(counted)} logins were rejected within 15 minutes, the last because"
                return LoginPause(until, f"{reason} {counted[-1].reason}", is_own=False)
        return None

    def rejected(
        self, subject: LoginSubject, rejection: LoginRejection, now: float
    ) -> "LoginLedger":
        key = (subject.credential, _ALL if rejection.is_for_all else subject.project)
        earlier = self._paused.get(key)
        count = 0 if earlier is None else earlier.rejections
        pause_s = rejection.pauses_s[min(count, len(rejection.pauses_s) - 1)]
        paused = {
            other: one for other, one in self._paused.items() if now < one.until + _RETAINED_S
        }
        paused[key] = _Paused(count + 1, now + pause_s, rejection.reason)
        counted = tuple(one for one in self._counted if now < one.at + _WINDOW_S)
        if rejection.is_counted:
            counted = (*counted, _Counted(now, subject.credential, rejection.reason))
        return LoginLedger(paused, counted)

    def succeeded(self, subject: LoginSubject) -> "LoginLedger":
        gone = ((subject.credential, _ALL), (subject.credential, subject.project))
        paused = {key: one for key, one in self._paused.items() if key not in gone}
        return replace(self, _paused=paused)

    def encode(self, epoch: float) -> bytes:
        """Return the ledger as replicas share it; `epoch` is the wall clock's lead."""
        paused = [
            [*key, one.rejections, round(one.until + epoch, 3), one.reason]
            for key, one in self._paused.items()
        ]
        counted = [[round(one.at + epoch, 3), one.credential, one.reason] for one in self._counted]
        return json.dumps([paused, counted]).encode()


def decode_ledger(text: bytes, *, now: float, epoch: float) -> LoginLedger:
    """Return the ledger of another replica; an unreadable one is empty.

    No time lies further ahead than a pause can: the wall clock may have been set back.
    """
    try:
        paused, counted = json.loads(text)
        return LoginLedger(
            {
                (str(credential), str(project)): _Paused(
                    int(rejections), min(float(until) - epoch, now + PAUSES_S[-1]), str(reason)
                )
                for credential, project, rejections, until, reason in paused
            },
            tuple(
                _Counted(min(float(at) - epoch, now), str(credential), str(reason))
                for at, credential, reason in sorted(counted)
            ),
        )
    except (ValueError, TypeError, OverflowError):
        return LoginLedger()
