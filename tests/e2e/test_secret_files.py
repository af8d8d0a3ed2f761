"""Rotated secret files: used without a signal, like policy and certificates."""

import signal
import time
from pathlib import Path

from gateway.demo.cloud.iam import PASSWORD
from gateway.process.supervisor import _SETTLE_S
from tests.support.stack import Stack, eventually


def test_rotated_iam_password_is_used_without_a_signal(own_stack: Stack) -> None:
    cloud, gateway = own_stack.cloud, own_stack.gateway
    assert gateway.console(cloud.token()).status == 200
    cloud.iam_settings(password="canary-rotated")
    cloud.revoke_service_tokens()
    assert gateway.console(cloud.token(), cloud.servers[1]).status == 503
    before = gateway.workers()
    (gateway.directory / "iam-password").write_text("canary-rotated\n")
    gateway.wait_for_new_workers(before)
    assert gateway.console(cloud.token(), cloud.servers[1]).status == 200
    text = gateway.log_text()
    assert "canary" not in text
    assert PASSWORD not in text


def test_half_written_secret_never_replaces_a_whole_one(own_stack: Stack) -> None:
    cloud, gateway = own_stack.cloud, own_stack.gateway
    assert gateway.console(cloud.token()).status == 200  # logged in
    before = gateway.workers()
    cloud.iam_settings(password="canary-rotated")
    with (gateway.directory / "iam-password").open("w") as writing:
        writing.write("canary-")
        writing.flush()
        eventually(lambda: gateway.log_lines("config_rejected"), gateway.log_text)
        gateway.signal(signal.SIGHUP)
        eventually(lambda: len(gateway.log_lines("config_rejected")) == 2, gateway.log_text)
        assert gateway.console(cloud.token()).status == 200
        writing.write("rotated\n")
    gateway.wait_for_new_workers(before)
    (error,) = gateway.log_lines("config_rejected")[0]["errors"]
    file = gateway.directory / "iam-password"
    assert error == f"{file}: is being written; replace files by a rename"
    cloud.revoke_service_tokens()
    assert gateway.console(cloud.token(), cloud.servers[1]).status == 200
    assert not gateway.log_lines("service_login_refused")


def test_secret_written_in_pieces_is_loaded_once(own_stack: Stack) -> None:
    """Each piece is a file of its own kind, as `echo >` and `echo >>` leave it."""
    cloud, gateway = own_stack.cloud, own_stack.gateway
    assert gateway.console(cloud.token()).status == 200  # logged in
    for attempt in range(20):
        before, reloads = gateway.workers(), len(gateway.log_lines("config_reloaded"))
        password = f"canary-rotated-{attempt}"
        cloud.iam_settings(password=password)
        if write_in_pieces(gateway.directory / "iam-password", password) < _SETTLE_S:
            break
        gateway.stop()  # this process was stopped in between, so the gateway may use a piece
        gateway.start()
    gateway.wait_for_new_workers(before)
    cloud.revoke_service_tokens()
    assert gateway.console(cloud.token(), cloud.servers[1]).status == 200
    assert not gateway.log_lines("service_login_refused")
    assert len(gateway.log_lines("config_reloaded")) == reloads + 1


def write_in_pieces(file: Path, text: str) -> float:
    """Write a file four times; return the longest time in seconds from one to the next."""
    longest_s, previous = 0.0, time.monotonic()
    for length in (6, 7, 11, len(text)):
        began = time.monotonic()
        file.write_text(text[:length])
        longest_s = max(longest_s, time.monotonic() - previous)
        previous = began
        time.sleep(0.05)
    return longest_s


def test_rotated_redis_password_is_used_without_a_signal(own_stack: Stack) -> None:
    valkey = own_stack.valkey
    valkey.command("ACL", "SETUSER", "gw", "on", ">first", "~*", "&*", "+@all")
    redis = {"url": valkey.url, "username": "gw", "password": {"file": "store"}}
    store = {**own_stack.gateway.config["store"], "redis": redis}
    gateway = own_stack.replica(start=False, change={"store": store})
    (gateway.directory / "store").write_text("first")
    gateway.start()
    eventually(lambda: gateway.metric("gateway_store_available") == 1)
    valkey.command("ACL", "SETUSER", "gw", ">second", "<first")
    (gateway.directory / "store").write_text("second")
    eventually(lambda: gateway.log_lines("config_reloaded"), gateway.log_text)
    eventually(lambda: gateway.metric("gateway_store_available") == 1)
    assert gateway.console(own_stack.cloud.token()).status == 200


def test_secret_written_after_the_config_is_used(own_stack: Stack) -> None:
    gateway = own_stack.gateway
    gateway.config["accounts"][0]["login"]["password"] = {"file": "later"}
    gateway.write_config()
    eventually(lambda: gateway.log_lines("config_rejected"), gateway.log_text)
    (gateway.directory / "new").write_text(PASSWORD)
    (gateway.directory / "new").rename(gateway.directory / "later")
    eventually(lambda: gateway.metric("gateway_config_rejected") == 0, gateway.log_text)
    assert len(gateway.log_lines("config_rejected")) == 1
    assert gateway.console(own_stack.cloud.token()).status == 200
