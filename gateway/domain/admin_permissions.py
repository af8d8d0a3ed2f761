"""Permissions of administrators on the admin API, and who has them. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

from gateway.domain.model import Principal

AdminPermission = Literal["read", "revoke", "lock", "override", "consoles", "requests", "audit"]

CERTIFICATE_ISSUER: Final = "certificate"
"""The issuer in the principal of an administrator with a certificate."""
ADMIN_PERMISSIONS: Final[tuple[AdminPermission, ...]] = get_args(AdminPermission)


@dataclass(frozen=True, slots=True)
class AdminGrants:
    """The permissions of each group and of each certificate's subject."""

    groups: Mapping[str, frozenset[AdminPermission]]
    certificates: Mapping[str, frozenset[AdminPermission]]

    def permissions_of(
        self, principal: Principal, *, by_certificate: bool
    ) -> frozenset[AdminPermission]:
        """Return the permissions of an administrator; a token has those of all its groups."""
        if by_certificate:
            return self.certificates.get(principal.subject, frozenset())
        return frozenset().union(*(self.groups.get(one, ()) for one in principal.groups))


def listed_permissions(permissions: Iterable[AdminPermission]) -> str:
    """Return the names for a text, joined by "or"."""
    return " or ".join(f"`{name}`" for name in permissions)
