"""What replaced workers and others share: accounts of the config in force, live consoles."""

import os

from gateway.process.worker_plan import AccountsInForce, ConsoleCounts


def test_names_are_unknown_before_the_first() -> None:
    assert AccountsInForce().names is None


def test_names_are_replaced() -> None:
    accounts = AccountsInForce()
    for names in ({"a", "bb"}, set(), {f"account-{number}" for number in range(5_000)}, {"a"}):
        accounts.set(names)
        assert accounts.names == names


def test_child_process_reads_what_the_parent_writes() -> None:
    accounts = AccountsInForce()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(read, 1)
        os._exit(0 if accounts.names == {"later"} else 1)
    accounts.set({"later"})
    os.write(write, b"1")
    assert os.waitpid(pid, 0)[1] == 0


def test_half_written_names_are_ignored() -> None:
    accounts = AccountsInForce()
    accounts.set({"a", "b"})
    accounts._json._shared[45] = ord("x")
    assert accounts.names is None


def test_counts_stay_while_they_are_replaced() -> None:
    counts = ConsoleCounts()
    assert counts.counts == {}
    counts.set({"a": 3, "b": 1})
    assert counts.counts == {"a": 3, "b": 1}
    counts._json._shared[45] = ord("x")
    assert counts.counts == {"a": 3, "b": 1}
