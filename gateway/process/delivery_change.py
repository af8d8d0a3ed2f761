"""The projects whose delivery of consoles a config has changed.

Links that were cached before a change of `console.delivery` must not be returned after it, also not
once it is changed back. Therefore each change drops the project's cached links, by an override: it
reaches the memory of every process, and hides what Redis has. The override of each change has an
ID of its own, so that a second change within the lifetime of links drops them again.
"""

import logging
import secrets
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from gateway.config.settings import Settings
from gateway.domain.overrides import DroppedLinks, Override
from gateway.flow.active_overrides import ActiveOverrides

log = logging.getLogger("gateway.overrides")

_DROPPED_FOR_S: Final = 3_600.0
"""At least: the lifetime of links in a config before the first one is not known."""


@dataclass(frozen=True, slots=True)
class DeliveryChange:
    """All workers of one config share it, also those that replace dead ones."""

    id: str
    at: float
    """Seconds since the epoch."""
    until: float
    """Seconds since the epoch: no link that was cached before `at` is valid any more."""
    projects: frozenset[str]

    @classmethod
    def between(cls, old: Settings | None, new: Settings, *, now: float) -> "DeliveryChange":
        """Return the change from one config to the next; None: the gateway starts.

        What a config before the start delivered is unknown: each project with live consoles may
        have delivered the cloud's links.
        """
        before = frozenset[str]() if old is None else _projects(old)
        accounts = [*new.accounts, *(() if old is None else old.accounts)]
        lifetimes = [account.links.lifetime_s for account in accounts]
        until = now + max(_DROPPED_FOR_S, *lifetimes) if lifetimes else now
        return cls(secrets.token_hex(8), now, until, before ^ _projects(new))

    async def drop_links(self, overrides: ActiveOverrides, *, now: float) -> None:
        """Drop the links of the projects in all processes; log if Redis is unavailable."""
        if now >= self.until:
            return
        is_published = True
        for project in sorted(self.projects):
            override = Override(
                id=sha256(f"{self.id} {project}".encode()).hexdigest()[:16],
                created_at=self.at,
                expires_at=self.until,
                created_by="gateway:config",
                reason="console.delivery has changed",
                effect=DroppedLinks(project=project),
            )
            is_published &= await overrides.add_own(override)
        if not is_published:
            log.warning("dropped_links_not_published", extra={"projects": sorted(self.projects)})


def _projects(config: Settings) -> frozenset[str]:
    """Return the projects with live consoles."""
    accounts = (account for account in config.accounts if account.delivers_proxied)
    return frozenset(project for account in accounts for project in account.projects)
