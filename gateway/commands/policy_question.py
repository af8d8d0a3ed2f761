"""What the offline policy commands share: the policy, and the attributes of a server."""

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Final, Self

from msgspec.structs import replace

from gateway.config.policy_loader import load_parsed_policy
from gateway.config.settings import Settings, load_settings
from gateway.domain.model import SERVER_ID, ProjectId, ServerId
from gateway.domain.policy.inventory import NO_INVENTORY, Attributes, Inventory, parse_inventory
from gateway.domain.policy.policy import Policy
from gateway.drivers.host.clock import SystemClock

ANY_SERVER: Final = ServerId("00000000-0000-4000-8000-000000000000")
"""Stands for a server that no rule names by ID."""


@dataclass(frozen=True, slots=True)
class GivenAttributes:
    """Attributes of a server that the command names; None: those of the inventory."""

    tags: frozenset[tuple[str, str]] | None = None
    location: tuple[str, str, str] | None = None
    model: str | None = None
    name: str | None = None

    @property
    def any(self) -> bool:
        return self != GivenAttributes()

    def over(self, known: Attributes) -> Attributes:
        if self.tags is not None:
            known = replace(known, tags=self.tags)
        if self.location is not None:
            dc, rack, unit = self.location
            known = replace(known, dc=dc, rack=rack, unit=unit)
        if self.model is not None:
            known = replace(known, model=self.model)
        return known if self.name is None else replace(known, name=self.name)


@dataclass(frozen=True, slots=True)
class OfflinePolicy:
    """The policy file and what the config says about it. No connection is made."""

    config: Settings
    policy: Policy
    aliases: Mapping[str, frozenset[str]]

    @classmethod
    def load(cls, config_file: Path) -> Self:
        config = load_settings(config_file)
        policy, parsed = load_parsed_policy(config_file, config)
        return cls(config, policy, parsed.groups)

    def groups(self, named: Iterable[str]) -> frozenset[str]:
        """Return the groups of tokens; an alias means those that the policy assigns to it."""
        return frozenset(one for name in named for one in self.aliases.get(name, (name,)))

    def inventory(
        self, project: str, server: ServerId | None, given: GivenAttributes, now: float
    ) -> Inventory:
        """Return the saved inventory, with the given attributes of the server in it."""
        saved = self._saved_inventory(project)
        if server is None or not given.any:
            return saved
        known = saved.attributes(server, now) or Attributes()
        return Inventory({server: given.over(known)}, taken_at=now, good_until=inf)

    def _saved_inventory(self, project: str) -> Inventory:
        for account in self.config.accounts:
            file = account.inventory.inventory_file(project)
            if project in account.projects and file is not None:
                try:
                    return parse_inventory(
                        file.read_bytes(),
                        now=SystemClock().now(),
                        age_max_s=account.inventory.age_max_s,
                    )
                except (OSError, ValueError):
                    break
        return NO_INVENTORY

    def target(self, text: str, given: GivenAttributes) -> tuple[ProjectId, ServerId | None]:
        """Return project and server of `PROJECT[/SERVER]`; raise ValueError with what is wrong.

        With attributes and without a server, the server is one that no rule names by ID.
        """
        project, _, server = text.partition("/")
        if project not in self.config.project_ids:
            known = ", ".join(self.config.project_ids)
            raise ValueError(f"no account has this project; known: {known}")
        if server and not SERVER_ID.fullmatch(server.lower()):
            raise ValueError(
                "the server must be given by its ID (a UUID); list IDs with `gateway servers`"
            )
        if server:
            return ProjectId(project), ServerId(server.lower())
        return ProjectId(project), ANY_SERVER if given.any else None


def add_attribute_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tag",
        action="append",
        default=[],
        type=_tag,
        metavar="KEY=VALUE",
        help="a tag of the server; repeat it for each tag: the server has no others",
    )
    parser.add_argument(
        "--location", type=_location, metavar="DC/RACK/UNIT", help="location of the server"
    )
    parser.add_argument("--model", help="hardware model of the server")
    parser.add_argument("--name", help="name of the server")


def given_attributes(options: argparse.Namespace) -> GivenAttributes:
    return GivenAttributes(
        tags=frozenset(options.tag) if options.tag else None,
        location=options.location,
        model=options.model,
        name=options.name,
    )


def _tag(text: str) -> tuple[str, str]:
    key, found, value = text.partition("=")
    if not found or not key:
        raise argparse.ArgumentTypeError("must be KEY=VALUE")
    return key, value


def _location(text: str) -> tuple[str, str, str]:
    parts = [*text.split("/"), "", ""]
    if len(parts) > 5:
        raise argparse.ArgumentTypeError("must be DC, DC/RACK or DC/RACK/UNIT")
    return parts[0], parts[1], parts[2]
