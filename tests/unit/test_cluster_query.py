"""Cluster queries merge the responses of all processes and count the missing ones."""

from collections.abc import Iterable

from gateway.domain.model import Principal
from gateway.domain.policy.policy import Policy
from gateway.flow.admin.cluster_query import ClusterQuery, ProcessView
from gateway.flow.admin.messages import ProcessPolicy, SessionsRequest
from gateway.flow.budgets import FairBudget
from gateway.flow.console_links import CachedLink
from tests.support.replicas import FakeReplicas
from tests.unit.test_policy import a_policy


class FakeCaches:
    """The cached tokens and links of one process."""

    def __init__(self, *people: str) -> None:
        self._people = people

    def principals(self) -> list[Principal]:
        return [Principal("corp", one, frozenset(), 0.0, 60.0, None) for one in self._people]

    def cached_links(self) -> list[CachedLink]:
        return [
            CachedLink("prod", "p1", f"s-{one.subject}", one.key, 60.0, "f")
            for one in self.principals()
        ]


class Policies:
    def __init__(self) -> None:
        self.reloads = 0
        self.loaded_at = 1.0
        self.error = ""

    def current(self) -> Policy:
        return a_policy()

    async def reload(self) -> bool:
        self.reloads += 1
        return True


class Fleet:
    def __init__(self, *people_by_process: Iterable[str]) -> None:
        self.replicas: list[FakeReplicas] = []
        self.policies = [Policies() for _ in people_by_process]
        self.processes = [
            ClusterQuery(
                ProcessView(f"host:{number}", caches, caches, FairBudget([]), policies),
                FakeReplicas(self.replicas),
            )
            for number, (policies, caches) in enumerate(
                zip(
                    self.policies,
                    (FakeCaches(*people) for people in people_by_process),
                    strict=True,
                )
            )
        ]


async def test_sessions_list_own_process_first() -> None:
    fleet = Fleet(["olga"], ["suspect", "pia"])
    response = await fleet.processes[0].sessions(SessionsRequest())
    assert [one.process for one in response.processes] == ["host:0", "host:1"]
    assert [token.subject for one in response.processes for token in one.tokens] == [
        "olga",
        "pia",  # the latest first
        "suspect",
    ]
    assert (response.total, response.missing) == (2, 0)


async def test_sessions_filter_by_person_in_all_processes() -> None:
    fleet = Fleet(["olga"], ["suspect", "pia"])
    response = await fleet.processes[0].sessions(SessionsRequest(issuer="corp", subject="suspect"))
    assert [[one.person for one in each.links] for each in response.processes] == [
        [],
        ["corp:suspect"],
    ]
    assert [len(each.tokens) for each in response.processes] == [0, 1]
    other = await fleet.processes[0].sessions(SessionsRequest(issuer="partner", subject="suspect"))
    assert [each.links + each.tokens for each in other.processes] == [[], []]


async def test_sessions_filter_by_server() -> None:
    response = await Fleet(["olga"], ["pia"]).processes[0].sessions(SessionsRequest(server="s-pia"))
    assert [[one.person for one in each.links] for each in response.processes] == [[], ["corp:pia"]]


async def test_omitted_entries_are_counted() -> None:
    fleet = Fleet([], [f"person-{number}" for number in range(1_003)])
    response = await fleet.processes[0].sessions(SessionsRequest())
    assert [(len(one.tokens), len(one.links)) for one in response.processes] == [
        (0, 0),
        (1_000, 1_000),
    ]
    assert response.processes[1].truncated == 6


async def test_silent_process_counts_as_missing() -> None:
    fleet = Fleet(["olga"], ["pia"])
    fleet.replicas[0].is_unavailable = True
    response = await fleet.processes[0].queue()
    assert ([one.process for one in response.processes], response.missing) == (["host:0"], 1)


async def test_response_of_another_version_counts_as_missing() -> None:
    fleet = Fleet(["olga"], ["pia"])

    async def respond(_: bytes) -> bytes:
        return b'{"process": "host:1", "version": 2}'

    fleet.replicas[1].on_query(respond)
    response = await fleet.processes[0].policy(reload=False)
    assert (response.total, response.missing) == (2, 1)


async def test_policy_reload_reaches_all_processes() -> None:
    fleet = Fleet([], [], [])
    response = await fleet.processes[1].policy(reload=False)
    assert [one.reloads for one in fleet.policies] == [0, 0, 0]
    response = await fleet.processes[1].policy(reload=True)
    assert [one.reloads for one in fleet.policies] == [1, 1, 1]
    assert all(
        isinstance(one, ProcessPolicy) and not one.file_rejected for one in response.processes
    )


async def test_policy_error_of_each_process_is_shown() -> None:
    fleet = Fleet([], [])
    fleet.policies[1].error = "policy.yaml:7: no"
    response = await fleet.processes[0].policy(reload=True)
    found = [(one.file_rejected, one.error) for one in response.processes]
    assert found == [(False, ""), (True, "policy.yaml:7: no")]


class Tokens(FakeCaches):
    """Tokens of olga by the time of issue, each with a group of that name."""

    def __init__(self, *issued_at: float) -> None:
        super().__init__()
        self._issued_at = issued_at

    def principals(self) -> list[Principal]:
        return [
            Principal("corp", "olga", frozenset({f"g{at:g}"}), at, at + 60.0, None)
            for at in self._issued_at
        ]


async def test_newest_token_of_any_process_has_the_groups() -> None:
    replicas: list[FakeReplicas] = []
    queries = [
        ClusterQuery(
            ProcessView(f"host-{number}:1", caches, caches, FairBudget([]), Policies()),
            FakeReplicas(replicas),
        )
        for number, caches in enumerate((Tokens(), Tokens(7.0, 3.0), Tokens(5.0)))
    ]
    for one in queries:
        assert await one.newest_groups("corp", "olga") == {"g7"}
        assert await one.newest_groups("partner", "olga") is None
        assert await one.hosts() == ({"host-0", "host-1", "host-2"}, 0)
