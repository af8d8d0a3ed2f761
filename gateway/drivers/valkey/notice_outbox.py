"""The outbox of webhooks in Redis, sealed (port `NoticeOutbox`)."""

from collections.abc import Sequence
from typing import Final

import msgspec

from gateway.domain.requests.notices import DeadNotice, Notice, decode_notice, encode_notice
from gateway.drivers.crypto.sealer import Sealer
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.script import LuaScript
from gateway.flow.requests.webhooks import ClaimedNotices

_CLAIM, _SETTLE, _LIST_DEAD, _REPLAY = (
    LuaScript("claim_notices"),
    LuaScript("settle_notice"),
    LuaScript("list_dead_notices"),
    LuaScript("replay_notice"),
)
NOTICES_MAX: Final = 10_000
"""Beyond it, new notices are dropped; as many may be scheduled for later."""
_DEAD_MAX: Final = 1_000
"""Beyond it, the oldest dead notices are removed."""


class ValkeyNoticeOutbox:
    def __init__(self, valkey: Valkey, sealer: Sealer) -> None:
        self._valkey = valkey
        self._sealer = sealer
        tag = "requests"  # as the requests, so that one script stores both
        names = ("notices", "due", "lanes", "scheduled")
        self.keys = [valkey.key(name, tag=tag) for name in names]
        self._dead = [*self.keys, valkey.key("dead", tag=tag)]

    async def claim(self, now: float, *, lease_s: float, limit: int) -> ClaimedNotices:
        reply = await self._valkey.run_script(
            _CLAIM, self.keys, [str(now), str(now + lease_s), limit]
        )
        waiting, *pairs = reply
        notices = []
        for member, sealed in zip(pairs[::2], pairs[1::2], strict=True):
            notice = self._open(member, sealed)
            if notice is None:  # forged, or sealed with a key that is no longer configured
                await self._settle(member)
            else:
                notices.append(notice)
        return ClaimedNotices(notices, int(waiting))

    async def remove(self, notice: Notice) -> None:
        await self._settle(_member(notice))

    async def retry(self, notice: Notice, due_at: float) -> None:
        await self._settle(_member(notice), self._seal(notice), due_at=str(due_at))

    async def give_up(self, notice: Notice, now: float) -> None:
        await self._settle(_member(notice), self._seal(notice), now=str(now))

    async def dead(self) -> Sequence[DeadNotice]:
        found = await self._valkey.run_script(_LIST_DEAD, self._dead, [])
        opened = (
            (self._open(member, sealed), float(at))
            for member, at, sealed in zip(found[::3], found[1::3], found[2::3], strict=True)
        )
        return [DeadNotice(notice, at) for notice, at in opened if notice is not None]

    async def replay(self, notice: Notice) -> bool:
        again = msgspec.structs.replace(notice, attempts=0)
        return bool(
            await self._valkey.run_script(_REPLAY, self._dead, [_member(notice), self._seal(again)])
        )

    def entries(self, notices: Sequence[Notice]) -> list[str | bytes]:
        """Return member, time and sealed form of each, for the script that stores a request."""
        return [part for one in notices for part in (_member(one), str(one.at), self._seal(one))]

    async def _settle(
        self, member: str | bytes, sealed: bytes = b"", *, due_at: str = "", now: str = ""
    ) -> None:
        """Store a notice for an attempt at `due_at`, as dead since `now`, or remove it."""
        await self._valkey.run_script(_SETTLE, self._dead, [member, sealed, due_at, now, _DEAD_MAX])

    def _seal(self, notice: Notice) -> bytes:
        return self._sealer.seal(encode_notice(notice), bound_to=_binding(notice.id))

    def _open(self, member: bytes, sealed: bytes) -> Notice | None:
        notice_id = member.decode(errors="replace").rpartition(":")[2]
        text = self._sealer.open(sealed, bound_to=_binding(notice_id))
        try:
            return decode_notice(text or b"")
        except ValueError:
            return None


def _member(notice: Notice) -> str:
    """Return the member of the sorted sets: members of one lane sort by time."""
    return f"{notice.lane}:{notice.at:017.3f}:{notice.id}"


def _binding(notice_id: str) -> bytes:
    return f"notice:{notice_id}".encode()
