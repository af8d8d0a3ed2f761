"""Overrides survive restarts and lost data: incomplete files, two workers, an emptied Redis."""

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from gateway.domain.overrides import decode_snapshot
from tests.e2e.test_admin import API, Operator, with_api
from tests.support.stack import (
    CloudProcess,
    Response,
    RunningGateway,
    Stack,
    eventually,
    fetch,
    make_seal_key,
)

OVERRIDES = "gateway:{overrides}:overrides"


@pytest.fixture
def own() -> Iterator[Stack]:
    with a_stack() as stack:
        yield stack


@contextmanager
def a_stack(**gateway: Any) -> Iterator[Stack]:
    stack = Stack(CloudProcess("--rate", "1000", "--burst", "1000"), **{**with_api(), **gateway})
    try:
        yield stack
    finally:
        stack.close()


def revoke(stack: Stack, subject: str, gateway: RunningGateway | None = None) -> Any:
    override = {"issuer": "corp", "subject": subject}
    return post(stack, (gateway or stack.gateway).admin, "/revocations", override).json


def post(stack: Stack, admin: str, path: str, override: dict[str, Any]) -> Response:
    headers = {
        "Authorization": f"Bearer {Operator(stack.cloud).token}",
        "Content-Type": "application/json",
    }
    response = fetch(admin, "POST", f"/admin{path}", headers, json.dumps(override))
    assert response.status == 200, response.body
    return response


def restart(gateway: RunningGateway, *, ready: int) -> None:
    gateway.stop()
    gateway.start(wait=False)
    eventually(lambda: gateway.ready() == ready, gateway.log_text)


def overrides_state(gateway: RunningGateway) -> str:
    return str(fetch(gateway.admin, "GET", "/readyz").json["components"]["overrides"])


def test_incomplete_snapshot_file_rejects_callers(own: Stack) -> None:
    mallory = own.cloud.token("mallory")
    revoke(own, "mallory")
    fresh = own.replica(start=False, **with_api())
    own.valkey.kill()
    fresh.start(wait=False)
    eventually(lambda: fresh.ready() == 503)
    post(own, fresh.admin, "/log-levels", {"levels": {"gateway.policy": "info"}})
    revoke(own, "eve", fresh)
    restart(fresh, ready=503)
    response = fresh.console(mallory)
    assert (response.status, response.error_code) == (503, "CGW.5037")
    snapshot = decode_snapshot((fresh.directory / "overrides.json").read_bytes())
    assert (snapshot.complete, len(snapshot.overrides)) == (False, 2)
    (fresh_worker,) = fresh.workers()
    os.kill(fresh_worker, signal.SIGSTOP)  # it gives the other replica a limited time
    own.valkey.start()
    client = redis.Redis.from_url(own.valkey.url)
    eventually(lambda: client.hexists(OVERRIDES, "complete"))
    os.kill(fresh_worker, signal.SIGCONT)
    eventually(lambda: fresh.ready() == 200)
    assert fresh.console(mallory).status == 401
    # Overrides that it received without Redis reach the other replicas.
    eventually(lambda: own.gateway.console(own.cloud.token("eve", claims={"iat": 1})).status == 401)


def test_overrides_of_all_workers_survive_a_restart() -> None:
    with a_stack(workers=2) as stack:
        gateway = stack.gateway
        tokens = [stack.cloud.token(name) for name in ("mallory", "eve")]
        stack.valkey.kill()
        for worker, subject in enumerate(("mallory", "eve")):
            admin = f"http://127.0.0.1:{gateway.admin_port + worker}"
            override = {"issuer": "corp", "subject": subject}
            response = post(stack, admin, "/revocations", override).json
            assert response["all_replicas_notified"] is False
        restart(gateway, ready=200)
        for token in tokens:
            assert {gateway.console(token).status for _ in range(8)} == {401}


def test_lost_overrides_are_restored_before_a_start(
    own: Stack,
) -> None:
    mallory = own.cloud.token("mallory")
    revoke(own, "mallory")
    client = redis.Redis.from_url(own.valkey.url)
    assert client.ttl(OVERRIDES) == -1
    new = own.replica(start=False, admin_api=API)
    (worker,) = own.gateway.workers()
    os.kill(worker, signal.SIGSTOP)  # otherwise it restores Redis before the other replica starts
    client.delete(OVERRIDES)
    new.start(wait=False)
    eventually(lambda: new.ready() == 503)
    (new_worker,) = new.workers()
    os.kill(new_worker, signal.SIGSTOP)  # it gives the other replica a limited time
    os.kill(worker, signal.SIGCONT)
    eventually(lambda: client.hexists(OVERRIDES, "complete"))
    os.kill(new_worker, signal.SIGCONT)
    eventually(lambda: new.ready() == 200, new.log_text)
    assert new.console(mallory).status == 401


def test_locks_in_the_file_are_restored_into_an_emptied_redis(own: Stack) -> None:
    """No process runs when Redis loses its data, so only the file has the locks."""
    subjects = ("victor", "otto")
    set_ids, lifted_id = [], ""
    for subject in (*subjects, "nina"):
        lock = post(own, own.gateway.admin, "/locks", {"subject": subject}).json
        set_ids.append(lock["override"]["id"])
    lifted_id = set_ids.pop()
    post(own, own.gateway.admin, "/locks/lift", {"id": lifted_id})
    own.gateway.stop()
    redis.Redis.from_url(own.valkey.url).flushall()
    own.gateway.start()
    new = own.replica(admin_api=API)  # it has no file, so it loads them from Redis
    for gateway in (own.gateway, new):
        for subject in subjects:
            response = gateway.console(own.cloud.token(subject))
            assert (response.status, response.error_code) == (403, "CGW.4034")
        assert gateway.console(own.cloud.token("nina")).status == 200
    headers = {"Authorization": f"Bearer {Operator(own.cloud).token}"}
    listed = fetch(new.admin, "GET", "/admin/locks", headers).json["overrides"]
    assert [one["id"] for one in listed] == set_ids


def test_overrides_under_a_missing_key_prevent_serving(own: Stack) -> None:
    mallory = own.cloud.token("mallory")
    revoke(own, "mallory")
    new = own.replica(start=False, admin_api=API)
    old_key, new_key = (new.directory / "seal-key").read_text(), make_seal_key()
    (new.directory / "seal-key").write_text(new_key)
    new.start(wait=False)
    eventually(lambda: new.ready() == 503)
    assert overrides_state(new) == "unreadable"
    assert new.console(mallory).status == 503
    # As in docs/how-to/rotate-keys.md: the old key stays in second place during the rotation.
    (new.directory / "old-key").write_text(old_key)
    new.config["store"]["seal_keys"] = [{"file": "seal-key"}, {"file": "old-key"}]
    new.write_config()
    restart(new, ready=200)
    assert new.console(mallory).status == 401
    own.gateway.stop()
    del new.config["store"]["seal_keys"][1]
    new.write_config()
    restart(new, ready=200)
    assert new.console(mallory).status == 401


def test_lost_seal_key_can_be_recovered_from(own: Stack) -> None:
    revoke(own, "mallory")
    new = own.replica(start=False, admin_api=API)
    (new.directory / "seal-key").write_text(make_seal_key())
    new.start(wait=False)
    eventually(lambda: new.ready() == 503)
    assert overrides_state(new) == "unreadable"
    own.gateway.stop()
    revoke(own, "mallory", new)
    redis.Redis.from_url(own.valkey.url).delete(OVERRIDES)
    eventually(lambda: new.ready() == 200)
    assert new.console(own.cloud.token("mallory", claims={"iat": 1})).status == 401


def test_replica_without_admin_api_also_fails_closed(own: Stack) -> None:
    mallory = own.cloud.token("mallory")
    plain = own.replica(change={"overrides": {}})
    revoke(own, "mallory")
    eventually(lambda: plain.console(mallory).status == 401)
    own.valkey.kill()
    restart(plain, ready=503)
    assert (plain.console(mallory).status, overrides_state(plain)) == (503, "not_loaded")


def test_concurrent_overrides_are_all_in_the_file(own: Stack) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: revoke(own, f"s{n}"), range(40)))
    snapshot = decode_snapshot((own.gateway.directory / "overrides.json").read_bytes())
    assert snapshot.complete
    assert len(snapshot.overrides) == 40
    left = {file.name for file in Path(own.gateway.directory).glob(".overrides.json.*")}
    assert left == {".overrides.json.lock"}
