"""Log lines of a real gateway, and their sampling."""

import json
import os
import re
import time
from datetime import datetime, timedelta

from tests.support.stack import Stack, eventually


def test_only_cache_hits_are_sampled(stack: Stack) -> None:
    cloud = stack.cloud
    gateway = stack.replica(change={"log": {"hit_sample_ratio": 0.1}})
    token = cloud.token("somebody-else")
    for _ in range(31):  # the first request fetches the link
        assert gateway.console(token).status == 200
    for _ in range(5):
        assert gateway.console(cloud.token("otto", groups=[])).status == 403
        assert gateway.console(None).status == 401
    eventually(lambda: len(gateway.log_lines("request")) >= 14)
    time.sleep(0.2)
    lines = gateway.log_lines("request")
    sources = [line["source"] for line in lines if line["status"] == 200]
    assert sources == ["upstream", "local", "local", "local"]
    assert (
        sorted(line["status"] for line in lines if line["status"] != 200) == [401] * 5 + [403] * 5
    )
    assert gateway.metric("gateway_log_lines_sampled_out_total") == 27
    gateway.close()


def test_rate_limited_caller_does_not_fill_the_log(stack: Stack) -> None:
    limits = {"requests": 1, "per_s": 60, "burst": 1}
    gateway = stack.replica(change={"caller_limits": limits})
    token = stack.cloud.token("in-a-loop")
    began = time.monotonic()
    statuses = [gateway.console(token).status for _ in range(60)]
    at_most = 10 + 10 * (time.monotonic() - began)
    assert statuses.count(429) >= 50

    def lines() -> int:
        return [one["status"] for one in gateway.log_lines("request")].count(429)

    unlogged = gateway.metric("gateway_log_lines_sampled_out_total")
    eventually(lambda: unlogged == statuses.count(429) - lines())
    assert 1 <= lines() <= at_most
    gateway.close()


def test_log_levels_apply_in_the_workers(stack: Stack) -> None:
    loud = stack.gateway
    quiet = stack.replica(change={"log": {"modules": {"gateway.worker": "error"}}})
    assert loud.log_lines("serving")
    assert quiet.log_lines("worker_started")
    assert not quiet.log_lines("serving")
    quiet.close()


def test_all_log_lines_have_one_shape(stack: Stack) -> None:
    """Supervisor, workers and requests, before and after a changed format."""
    gateway = stack.replica(change={"log": {"modules": {"gateway.worker": "error"}}})
    assert gateway.console(None).status == 401
    eventually(lambda: gateway.log_lines("request"))
    lines = [json.loads(line) for line in (gateway.directory / "log").read_text().splitlines()]
    assert {"gateway.supervisor", "gateway.request"} <= {line["logger"] for line in lines}
    for line in lines:
        assert [*line][:4] == ["time", "level", "logger", "event"]
        assert datetime.fromisoformat(line["time"]).utcoffset() == timedelta(0)
        assert line["level"] in {"debug", "info", "warning", "error"}
    gateway.config["log"] = {"format": "text"}
    gateway.write_config()
    eventually(lambda: "config_reloaded" in gateway.log_text())
    expected = re.compile(
        r"^\S+Z info    gateway\.request request request_id=\S+ status=401 ", re.MULTILINE
    )
    eventually(  # an old worker may take a request before it drains
        lambda: (
            gateway.console(None).status == 401
            and expected.search((gateway.directory / "log").read_text())
        )
    )
    assert re.search(
        r"^\S+Z info    gateway\.supervisor config_reloaded workers=1$",
        (gateway.directory / "log").read_text(),
        re.MULTILINE,
    )
    gateway.close()


def test_log_lines_of_a_request_have_its_id(own_stack: Stack) -> None:
    """A login fails in a single-flight that one request started."""
    cloud, gateway = own_stack.cloud, own_stack.gateway
    assert gateway.console(cloud.token()).status == 200
    cloud.revoke_service_tokens()
    cloud.fail(cloud.iam, "internal")
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    response = gateway.console(
        cloud.token(),
        Cache_Control="no-cache",
        traceparent=f"00-{trace_id}-00f067aa0ba902b7-01",
    )
    assert response.error_code == "CGW.5033"
    (line,) = gateway.log_lines("service_login_failed")[:1]
    assert line["request_id"] == response.headers["x-request-id"]
    assert line["trace_id"] == trace_id


def test_stalled_log_reader_blocks_no_request(stack: Stack) -> None:
    gateway = stack.replica(start=False)
    os.mkfifo(gateway.directory / "log")
    reading = os.open(gateway.directory / "log", os.O_RDONLY | os.O_NONBLOCK)
    gateway.start(wait=False)
    eventually(lambda: gateway.ready() == 200)
    token = stack.cloud.token()
    for _ in range(400):  # more lines than the pipe can buffer: a request that waited would fail
        assert gateway.console(token).status == 200
    found = b""
    while found.count(b'"event":"request"') < 400:
        try:
            found += os.read(reading, 1_048_576)
        except BlockingIOError:
            time.sleep(0.05)
    os.close(reading)
    gateway.close()
