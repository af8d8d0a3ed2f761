"""Locks on servers and projects: no person has a permission there while one is in force. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True)
class TargetLocks:
    """IDs of the locks in force, by the server or project that they lock."""

    servers: Mapping[str, str] = field(default_factory=dict)
    projects: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.servers or self.projects)

    def find(self, project: str, server: str | None) -> str | None:
        """Return the ID of a lock on the server or its project.

        None as the server means any server of the project. A lock does not name the server's
        project, so each lock on a server may concern it.
        """
        lock = self.projects.get(project)
        if lock is None and server is not None:
            return self.servers.get(server)
        return lock or next(iter(self.servers.values()), None)


NO_LOCKS: Final = TargetLocks()
