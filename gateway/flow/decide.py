"""Decide: Principal and call to Permit."""

from typing import Protocol

from gateway.domain.model import ProjectId
from gateway.domain.policy.inventory import Inventory
from gateway.domain.policy.policy import Policy


class Policies(Protocol):
    def current(self) -> Policy:
        """Return the policy in force. Take it once per request and hand it on."""


class Inventories(Protocol):
    def current(self, project: ProjectId) -> Inventory:
        """Return what is known of the project's servers; NO_INVENTORY where nothing is."""

    def refresh_soon(self, project: ProjectId) -> None:
        """Look again as soon as the budget allows: something has changed."""
