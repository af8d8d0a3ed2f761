"""Permit -> ConsoleLink: remembered here, kept in Redis, in flight, or fetched now."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.errors import NotPermitted, UpstreamBroken
from gateway.flow.exchange import Exchange
from gateway.model import (
    ConsoleLink,
    LinkSource,
    Permit,
    ProjectId,
    Reuse,
    Secret,
    UpstreamRequest,
)
from gateway.ports import Clock, Fetched, Shared
from gateway.rules.console_link import ConsoleAddresses, console_url


@dataclass(frozen=True, slots=True)
class ConsoleAccount:
    """One service account, as far as links are concerned."""

    name: str
    exchange: Exchange
    lifetime_s: float
    min_remaining_s: float
    reuse: Reuse
    addresses: ConsoleAddresses


class Consoles:
    def __init__(
        self,
        accounts: Mapping[ProjectId, ConsoleAccount],
        shared: Shared,
        clock: Clock,
        *,
        links_max: int,
    ) -> None:
        self._accounts = accounts
        self._shared = shared
        self._clock = clock
        self._links_max = links_max
        self._links: OrderedDict[tuple[str, ...], ConsoleLink] = OrderedDict()

    def recall(self, permit: Permit) -> ConsoleLink | None:
        """Return a link that this process holds and that may go to this caller; touches nothing."""
        account = self._account(permit)
        key = _key(permit, account)
        link = self._links.get(key)
        if link is None:
            return None
        if link.good_until - self._clock.monotonic() < account.min_remaining_s:
            del self._links[key]
            return None
        return link

    async def obtain(
        self,
        permit: Permit,
        *,
        deadline: float,
        fresh: bool,
        headers: tuple[tuple[str, str], ...],
    ) -> tuple[ConsoleLink, LinkSource]:
        """Return a link with at least `min_remaining_s` of its life left.

        `fresh`: one that nobody was given before this request. `headers` travel on to the cloud.
        Raises what Exchange.perform raises, UpstreamBroken, and DeadlineExceeded.
        """
        account = self._account(permit)
        key = _key(permit, account)
        held = await self._shared.obtain(
            "link" + "".join(f":{len(part)}:{part}" for part in key),
            lambda: self._fetch(account, permit, deadline, headers),
            deadline=deadline,
            fresh=fresh or account.reuse is Reuse.NEVER,
        )
        url = Secret(held.value.decode())
        good_until = held.good_until + account.min_remaining_s
        link = ConsoleLink(url, url.fingerprint(), good_until)
        if not self.is_good(permit, link):
            raise UpstreamBroken("the link is too near its end")
        if account.reuse is not Reuse.NEVER:
            self._remember(key, link)
        return link, held.source

    def is_good(self, permit: Permit, link: ConsoleLink) -> bool:
        """Tell whether so much of the link's life is left that it may still be handed out."""
        left_s = link.good_until - self._clock.monotonic()
        return left_s >= self._account(permit).min_remaining_s

    @property
    def links_held(self) -> int:
        return len(self._links)

    async def _fetch(
        self,
        account: ConsoleAccount,
        permit: Permit,
        deadline: float,
        headers: tuple[tuple[str, str], ...],
    ) -> Fetched:
        call = permit.call
        (server,) = call.servers
        path = f"/v1/{call.project}{call.operation.template.replace('{id}', server)}"
        # The cloud starts the link's life at some moment after this one.
        sent_at = self._clock.monotonic()
        answer = await account.exchange.perform(
            UpstreamRequest(call.operation.method, path, headers),
            project=call.project,
            caller=permit.principal.key,
            budget=call.operation.budget,
            deadline=deadline,
        )
        url = console_url(answer, account.addresses)
        # Kept until it may no longer be handed out, which is before it ends.
        usable_s = account.lifetime_s - account.min_remaining_s
        return Fetched(url.reveal().encode(), sent_at + usable_s)

    def _account(self, permit: Permit) -> ConsoleAccount:
        account = self._accounts.get(permit.call.project)
        if account is None:
            raise NotPermitted("no account has this project")
        return account

    def _remember(self, key: tuple[str, ...], link: ConsoleLink) -> None:
        self._links[key] = link
        self._links.move_to_end(key)
        if len(self._links) > self._links_max:
            self._links.popitem(last=False)


def _key(permit: Permit, account: ConsoleAccount) -> tuple[str, ...]:
    (server,) = permit.call.servers
    if account.reuse is Reuse.SHARED:
        return (account.name, permit.call.project, server)
    return (account.name, permit.call.project, server, permit.principal.key)
