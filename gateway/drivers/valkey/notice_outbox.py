"""The outbox of webhooks in Redis, sealed (port `NoticeOutbox`)."""

from collections.abc import Sequence
from typing import Final

from gateway.domain.requests.notices import Notice, decode_notice, encode_notice
from gateway.drivers.crypto.sealer import Sealer
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.script import LuaScript
from gateway.flow.requests.webhooks import ClaimedNotices

_CLAIM, _SETTLE = LuaScript("claim_notices"), LuaScript("settle_notice")
NOTICES_MAX: Final = 10_000
"""Beyond it, new notices are dropped."""


class ValkeyNoticeOutbox:
    def __init__(self, valkey: Valkey, sealer: Sealer) -> None:
        self._valkey = valkey
        self._sealer = sealer
        tag = "requests"  # as the requests, so that one script stores both
        self.keys = [valkey.key("notices", tag=tag), valkey.key("due", tag=tag)]

    async def claim(self, now: float, *, lease_s: float, limit: int) -> ClaimedNotices:
        reply = await self._valkey.run_script(
            _CLAIM, self.keys, [str(now), str(now + lease_s), limit]
        )
        waiting, *pairs = reply
        notices = []
        for notice_id, sealed in zip(pairs[::2], pairs[1::2], strict=True):
            notice = self._open(notice_id.decode(errors="replace"), sealed)
            if notice is None:  # forged, or sealed with a key that is no longer configured
                await self._valkey.run_script(_SETTLE, self.keys, [notice_id, "", 0])
            else:
                notices.append(notice)
        return ClaimedNotices(notices, int(waiting))

    async def remove(self, notice: Notice) -> None:
        await self._valkey.run_script(_SETTLE, self.keys, [notice.id, "", 0])

    async def retry(self, notice: Notice, due_at: float) -> None:
        await self._valkey.run_script(
            _SETTLE, self.keys, [notice.id, self._seal(notice), str(due_at)]
        )

    def entries(self, notices: Sequence[Notice]) -> list[str | bytes]:
        """Return ID and sealed form of each notice, for the script that stores a request."""
        return [part for one in notices for part in (one.id, self._seal(one))]

    def _seal(self, notice: Notice) -> bytes:
        return self._sealer.seal(encode_notice(notice), bound_to=_binding(notice.id))

    def _open(self, notice_id: str, sealed: bytes) -> Notice | None:
        text = self._sealer.open(sealed, bound_to=_binding(notice_id))
        try:
            return decode_notice(text or b"")
        except ValueError:
            return None


def _binding(notice_id: str) -> bytes:
    return f"notice:{notice_id}".encode()
