"""Webhooks that notify people about access requests: at least once, in order, with back-off.

Notices wait in an outbox that all replicas share. Each step stores its notices in one call with the
request, so neither exists without the other, and no request waits for a receiver. Notices about the
end of access are stored with the approval and become due by time. A notice that was given up is
listed until an administrator replays it.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Protocol

import msgspec

from gateway.domain.errors import StoreUnavailable
from gateway.domain.model import Headers, Secret, is_ok
from gateway.domain.requests.model import AccessRequest
from gateway.domain.requests.notices import (
    DeadNotice,
    Notice,
    NoticeFormat,
    is_outdated,
    notice_body,
    notice_id,
    retry_delay_s,
    scheduled_events,
    sign,
)
from gateway.flow.clock import Clock

_INTERVAL_S: Final = 1.0
_LEASE_S: Final = 60.0
"""Longer than an attempt may take: then another replica tries, too."""
_AT_ONCE_MAX: Final = 10


@dataclass(frozen=True, slots=True)
class Webhook:
    name: str
    url: Secret
    secrets: Sequence[Secret]
    format: NoticeFormat


@dataclass(frozen=True, slots=True)
class Delivery:
    """The answer of a receiver."""

    status: int
    """0: there was none."""
    retry_after_s: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class ClaimedNotices:
    notices: Sequence[Notice]
    waiting: int
    """The number of notices in the outbox that were due already."""


class NoticeOutbox(Protocol):
    """Notices that wait for their delivery. Each method raises StoreUnavailable."""

    async def claim(self, now: float, *, lease_s: float, limit: int) -> ClaimedNotices:
        """Return notices that are due; no other process gets them until the lease ends.

        A notice is not returned before the earlier ones of its lane are removed or given up.
        """

    async def remove(self, notice: Notice) -> None: ...

    async def retry(self, notice: Notice, due_at: float) -> None: ...

    async def give_up(self, notice: Notice, now: float) -> None:
        """Move a notice to the dead ones, of which the latest are stored."""

    async def dead(self) -> Sequence[DeadNotice]:
        """Return the dead notices, oldest first."""

    async def replay(self, notice: Notice) -> bool:
        """Make a dead notice due again; False: it is not dead any more."""


class WebhookSender(Protocol):
    async def send(self, url: Secret, headers: Headers, body: bytes) -> Delivery:
        """Send a POST; never raise for a receiver that fails."""


class WebhookTelemetry(Protocol):
    def webhook_sent(self, webhook: str, outcome: str, error: str) -> None:
        """Count an attempt: `ok`, `retry`, `gone` or `dropped`; `outdated` without an attempt."""


class Webhooks:
    def __init__(  # noqa: PLR0913 - its collaborators
        self,
        webhooks: Sequence[Webhook],
        *,
        outbox: NoticeOutbox,
        sender: WebhookSender,
        find_open: Callable[[str], AccessRequest | None],
        is_ready: Callable[[], bool],
        clock: Clock,
        telemetry: WebhookTelemetry,
    ) -> None:
        """`find_open` returns a request by ID; None if it is unknown or was ended.

        `is_ready`: requests and their ends are loaded, so an unknown request does not exist.
        """
        self._webhooks: Mapping[str, Webhook] = {one.name: one for one in webhooks}
        self._outbox = outbox
        self._sender = sender
        self._find_open = find_open
        self._is_ready = is_ready
        self._clock = clock
        self._telemetry = telemetry
        self.waiting = 0

    def notices_of(self, event: str, request: AccessRequest) -> list[Notice]:
        """Return the notices of a step, and those that follow by time, for each webhook."""
        events = [(event, self._clock.now()), *scheduled_events(event, request)]
        return [
            Notice(
                id=notice_id(name, one, request),
                webhook=name,
                event=one,
                request=request,
                at=at,
            )
            for name in self._webhooks
            for one, at in events
        ]

    async def run(self) -> None:
        """Deliver what is due, until cancelled."""
        while True:
            with suppress(StoreUnavailable):
                while await self.deliver_due():
                    pass
            await self._clock.sleep(_INTERVAL_S)

    async def deliver_due(self) -> int:
        """Deliver some notices; return how many were due."""
        if not self._is_ready():
            return 0
        now = self._clock.now()
        claimed = await self._outbox.claim(now, lease_s=_LEASE_S, limit=_AT_ONCE_MAX)
        self.waiting = claimed.waiting
        results = await asyncio.gather(*map(self._deliver, claimed.notices), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return len(claimed.notices)

    async def _deliver(self, notice: Notice) -> None:
        webhook = self._webhooks.get(notice.webhook)
        if webhook is None:  # a newer config has removed it
            await self._outbox.remove(notice)
            return
        now = self._clock.now()
        if is_outdated(notice, self._find_open(notice.request.id), now):
            await self._settle(notice, "outdated")
            return
        body = notice_body(notice, webhook.format)
        headers = sign(webhook.secrets, notice.id, int(now), body)
        delivery = await self._sender.send(webhook.url, headers, body)
        if is_ok(delivery.status) or HTTPStatus.OK <= delivery.status < HTTPStatus.MULTIPLE_CHOICES:
            await self._settle(notice, "ok")
            return
        error = delivery.error or f"HTTP {delivery.status}"
        failed = msgspec.structs.replace(notice, attempts=notice.attempts + 1, error=error)
        delay_s = retry_delay_s(failed.attempts, delivery.retry_after_s)
        is_gone = delivery.status == HTTPStatus.GONE
        if is_gone or delay_s is None:
            outcome = "gone" if is_gone else "dropped"
            self._telemetry.webhook_sent(notice.webhook, outcome, error)
            await self._outbox.give_up(failed, self._clock.now())
            return
        self._telemetry.webhook_sent(notice.webhook, "retry", error)
        await self._outbox.retry(failed, now + delay_s)

    async def _settle(self, notice: Notice, outcome: str) -> None:
        self._telemetry.webhook_sent(notice.webhook, outcome, "")
        await self._outbox.remove(notice)
