"""`gateway check --online` and serving with a Redis user that lacks rights."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import programs
from tests.support.stack import RunningGateway, Stack, eventually

RIGHTS = ("~gateway:*", "&gateway:*", "+@all", "-@admin", "-@dangerous", "+info")
"""Those of `make compose-secrets`."""


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Run the cloud and the store; each test makes its own gateway and user."""
    running = Stack(start=False)
    yield running
    running.close()


def a_replica(stack: Stack, *rights: str, **change: Any) -> RunningGateway:
    stack.valkey.command("ACL", "SETUSER", "gw", "reset", "on", ">password", *rights)
    redis = {"url": stack.valkey.url, "username": "gw", "password": {"file": "store"}}
    store = {**stack.gateway.config["store"], "redis": redis}
    gateway = stack.replica(start=False, change={"store": store, **change})
    (gateway.directory / "store").write_text("password")
    return gateway


def check(gateway: RunningGateway) -> tuple[int, str]:
    done = programs.run("gateway", "check", "--online", "--config", str(gateway.config_file))
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("taken", "lacks"),
    [
        (("resetchannels",), "&gateway:*"),
        (("-time",), "+time"),
        (("-publish", "-zadd"), "+publish +zadd"),
        (("-subscribe",), "+subscribe"),
        (("-eval",), "+eval"),
        (("-evalsha",), "+evalsha"),
        (("resetkeys", "~other:*"), "~gateway:*"),
    ],
)
def test_check_online_names_the_missing_right(
    stack: Stack, taken: tuple[str, ...], lacks: str
) -> None:
    code, output = check(a_replica(stack, *RIGHTS, *taken))
    assert code == 1
    reason = f"NOPERM: the ACL of this user lacks {lacks}\n"
    assert f"redis: {stack.valkey.url}: {reason}" in output


def test_check_online_warns_if_the_eviction_policy_is_unreadable(stack: Stack) -> None:
    code, output = check(a_replica(stack, *RIGHTS, "-info"))
    assert code == 0
    assert (
        "warning: redis: maxmemory-policy cannot be read"
        " (NOPERM: the ACL of this user lacks +info);"
        " allow +info, or verify that it is noeviction [redis_may_evict]"
    ) in output
    assert "redis_may_evict" not in check(a_replica(stack, *RIGHTS))[1]


@pytest.mark.parametrize("taken", [(), ("-client",), ("-@connection", "+auth")])
def test_rights_of_the_docs_are_enough(stack: Stack, taken: tuple[str, ...]) -> None:
    """The name of a connection is optional."""
    gateway = a_replica(stack, *RIGHTS, *taken)
    code, output = check(gateway)
    assert (code, "redis: ok" in output) == (0, True), output
    gateway.start()
    eventually(lambda: gateway.metric("gateway_store_available") == 1)
    eventually(lambda: gateway.metric("gateway_store_subscribed") == 1)
    gateway.close()


def test_stream_needs_its_commands_only_when_it_is_used(stack: Stack) -> None:
    without = (*RIGHTS, "-@stream", "-memory")
    code, output = check(a_replica(stack, *without))
    assert code == 0, output
    code, output = check(a_replica(stack, *without, audit={"stream": True}))
    assert code == 1
    assert "lacks +memory|usage +xadd +xdel +xlen +xrange +xtrim" in output


def test_missing_right_does_not_make_the_store_flap(stack: Stack) -> None:
    gateway = a_replica(stack, *RIGHTS, "-hset")
    gateway.start()
    eventually(lambda: gateway.log_lines("store_unavailable"))
    time.sleep(3.0)  # in which it would be found again, and lost again
    (line,) = gateway.log_lines("store_unavailable")
    assert line["reason"] == "NOPERM: the ACL of this user lacks +hset"
    assert gateway.log_lines("store_available") == []
    stack.valkey.command("ACL", "SETUSER", "gw", "+hset")
    eventually(lambda: gateway.metric("gateway_store_available") == 1)
    gateway.close()


def test_missing_channel_costs_the_messages_only(stack: Stack) -> None:
    gateway = a_replica(stack, *RIGHTS, "-subscribe")
    gateway.start()
    eventually(lambda: gateway.log_lines("store_subscription_lost"))
    time.sleep(2.0)
    (line,) = gateway.log_lines("store_subscription_lost")
    assert line["reason"] == "NOPERM: the ACL of this user lacks +subscribe"
    assert gateway.metric("gateway_store_available") == 1
    assert gateway.metric("gateway_store_subscribed") == 0
    assert gateway.console(stack.cloud.token()).status == 200
    gateway.close()
