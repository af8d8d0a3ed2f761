"""The bounds of the request memory, and what its keys depend on."""

from gateway.domain.model import Operation, ProjectId, ResolvedCall
from gateway.edge.public.request_memory import RememberedRequest, RequestMemory

_CALL = ResolvedCall(Operation("Show", "GET", "/x", "p"), ProjectId("p"), ())


def remembered(person: str) -> RememberedRequest:
    return RememberedRequest(b"digest", person, _CALL, ())


def test_person_displaces_only_own_requests() -> None:
    memory = RequestMemory(requests_max=100, per_person_max=3)
    memory.add(b"b0", remembered("bob"))
    for number in range(3):
        memory.add(b"a%d" % number, remembered("ann"))
    assert memory.find(b"a0") is not None
    memory.add(b"a3", remembered("ann"))
    known = [key for key in (b"a0", b"a1", b"a2", b"a3", b"b0") if memory.find(key) is not None]
    assert known == [b"a0", b"a2", b"a3", b"b0"]


def test_least_recently_used_request_goes_first() -> None:
    memory = RequestMemory(requests_max=3, per_person_max=3)
    for name in ("ann", "bob", "eve"):
        memory.add(name.encode(), remembered(name))
    assert memory.find(b"ann") is not None
    memory.add(b"joe", remembered("joe"))
    assert len(memory) == 3
    assert memory.find(b"bob") is None
    assert memory.find(b"ann") is not None


def test_forgotten_request_frees_the_place_of_its_person() -> None:
    memory = RequestMemory(requests_max=10, per_person_max=1)
    memory.add(b"a0", remembered("ann"))
    memory.forget(b"a0")
    memory.forget(b"a0")
    memory.add(b"a1", remembered("ann"))
    memory.add(b"a1", remembered("ann"))
    assert (len(memory), memory.find(b"a1") is not None) == (1, True)


def test_key_depends_on_each_byte_on_the_peer_and_on_the_process() -> None:
    one, other = RequestMemory(), RequestMemory()
    keys = {
        one.key(b"GET /", from_proxy=False),
        one.key(b"GET /", from_proxy=True),
        one.key(b"GET / ", from_proxy=False),
        other.key(b"GET /", from_proxy=False),
    }
    assert len(keys) == 4
    assert {len(key) for key in keys} == {32}
    assert one.key(b"GET /", from_proxy=True) == one.key(b"GET /", from_proxy=True)


def test_second_sight_is_of_the_same_bytes() -> None:
    memory = RequestMemory()
    assert [memory.is_second_sight(key) for key in (b"a", b"b", b"a", b"a")] == [
        False,
        False,
        True,
        False,
    ]
