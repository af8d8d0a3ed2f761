"""Fakes and values for tests of single stages."""

from gateway.domain.errors import NotAuthenticated, Rejection
from gateway.domain.model import (
    Operation,
    Principal,
    ProjectId,
    ResolvedCall,
    RuleKind,
    RuleRef,
    ServerId,
)
from gateway.domain.policy.inventory import NO_INVENTORY, Inventory
from gateway.domain.policy.policy import Policy
from gateway.domain.policy.rules import Rule
from gateway.flow.identify import Identify
from gateway.flow.request import ApiRequest

ANN = Principal("corp", "ann", frozenset({"ops"}), 0.0, 9e9, None)
PROJECT = ProjectId("p")
SERVER = ServerId("11111111-2222-4333-8444-555555555555")
OTHER = ServerId("22222222-2222-4333-8444-555555555555")
READ = Operation("ShowServer", "GET", "/physicalservers/{server_id}", "server:read")


def cached_principal(identify: Identify, token: str) -> Principal | None:
    """Return the principal of a cached token, without verifying a token."""
    return identify._find_cached(identify.digest_of(token))


def a_grant(*servers: ServerId, permission: str = "server:read") -> Policy:
    """Return a policy that grants Ann one permission on some servers."""
    rule = Rule(
        RuleRef(RuleKind.GRANT, "policy.yaml", 1, "a grant"),
        permissions=frozenset({permission}),
        issuer=None,
        users=frozenset({"ann"}),
        groups=frozenset(),
        projects=frozenset({PROJECT}),
        servers=frozenset(servers),
    )
    return Policy([rule] if servers else [], version="v")


def a_call(operation: Operation = READ, *servers: ServerId) -> ResolvedCall:
    return ResolvedCall(operation, PROJECT, servers or (SERVER,))


def a_request(method: str = "GET", target: str = "/", body: bytes = b"") -> ApiRequest:
    async def read_body(limit: int) -> bytes:
        return body

    return ApiRequest(
        authorization=["Bearer jwt"],
        x_auth_token=[],
        method=method,
        target=target,
        has_body=bool(body),
        read_body=read_body,
        fresh=False,
        request_id="r",
        client_address="",
        deadline=1e9,
        headers=(),
    )


class FakePolicies:
    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def current(self) -> Policy:
        return self.policy


class FakeInventories:
    def __init__(self) -> None:
        self.refreshed: list[ProjectId] = []

    def current(self, _: ProjectId) -> Inventory:
        return NO_INVENTORY

    def refresh_soon(self, project: ProjectId) -> None:
        self.refreshed.append(project)


class FakeIdentify:
    """Identifies every token as Ann's until it is revoked."""

    def __init__(self) -> None:
        self.revocations_version = 0
        self.is_revoked = False
        self.is_token_expired = False
        self.tokens: list[str] = []

    async def identify_by_deadline(self, token: str, deadline: float) -> Principal:
        self.tokens.append(token)
        return ANN

    def is_expired(self, principal: Principal) -> bool:
        return self.is_token_expired

    def check(self, principal: Principal) -> None:
        if self.is_revoked:
            raise NotAuthenticated(Rejection.REVOKED, principal=principal)
