"""Traces of a running gateway: from callers, to the cloud, and spans to a collector."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.collector import Collector, ExportedSpan, collecting
from tests.support.stack import (
    START_TIMEOUT_S,
    Response,
    RunningGateway,
    Stack,
    eventually,
    fetch,
)

SPAN = "00f067aa0ba902b7"
STAGES = ["identify", "decide", "admit", "obtain", "record"]
ROUTE = "/v1/{project_id}/physicalservers/{server_id}/remote-console-address"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as one:
        yield one


@pytest.fixture(scope="module")
def traced(collector: Collector) -> Iterator[Stack]:
    running = Stack(environ=collector.environ)
    yield running
    running.close()


def parent(trace_id: str, flags: str = "01") -> dict[str, str]:
    return {"traceparent": f"00-{trace_id}-{SPAN}-{flags}"}


def a_trace() -> str:
    return os.urandom(16).hex()


def spans_of(collector: Collector, trace_id: str, count: int) -> list[ExportedSpan]:
    """Wait for `count` spans, and return them in the order of their start."""
    eventually(lambda: len(collector.spans(trace_id)) >= count, lambda: collector.spans(trace_id))
    found = collector.spans(trace_id)
    assert len(found) == count, found
    return sorted(found, key=lambda span: span.began_ns)


def named(spans: list[ExportedSpan], name: str) -> ExportedSpan:
    (found,) = [span for span in spans if span.name == name]
    return found


def parents_seen(stack: Stack, listener: str, trace_id: str = "") -> list[str]:
    return [
        found
        for call in stack.cloud.calls(listener)
        if (found := call["headers"].get("traceparent")) is not None and trace_id in found
    ]


def fetched(stack: Stack, trace_id: str, **headers: str) -> Response:
    return stack.gateway.console(
        stack.cloud.token(), **parent(trace_id), Cache_Control="no-cache", **headers
    )


def test_fetched_link_has_spans_per_stage_and_call(traced: Stack, collector: Collector) -> None:
    trace_id = a_trace()
    answer = fetched(traced, trace_id)
    assert answer.status == 200
    spans = spans_of(collector, trace_id, 7)
    server = named(spans, f"GET {ROUTE}")
    assert (server.kind, server.parent_id) == ("server", SPAN)
    stages = [span for span in spans if span.kind == "internal"]
    assert [span.name for span in stages] == STAGES
    assert {span.parent_id for span in stages} == {server.span_id}
    call = named(spans, "GET")
    assert (call.kind, call.parent_id) == ("client", named(spans, "obtain").span_id)
    assert server.attributes == {
        "http.request.method": "GET",
        "http.route": ROUTE,
        "http.response.status_code": 200,
        "gateway.request_id": answer.headers["x-request-id"],
        "gateway.operation": "ShowRemoteConsole",
        "gateway.project": traced.cloud.project,
        "gateway.servers": [traced.cloud.servers[0]],
        "gateway.account": "prod",
        "gateway.link.source": "upstream",
    }
    assert call.attributes == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "gateway.account": "prod",
    }
    assert not any(span.failed for span in spans)
    assert all(server.began_ns <= one.began_ns <= one.ended_ns for one in spans)
    assert "console-gateway" in [one["service.name"] for one in collector.resources()]
    assert collector.paths == {"/v1/traces"}


def test_cached_link_has_stage_spans_only(traced: Stack, collector: Collector) -> None:
    token, trace_id = traced.cloud.token(), a_trace()
    traced.gateway.console(token)
    assert traced.gateway.console(token, **parent(trace_id)).status == 200
    spans = spans_of(collector, trace_id, 6)
    assert [span.name for span in spans if span.kind == "internal"] == STAGES
    assert named(spans, f"GET {ROUTE}").attributes["gateway.link.source"] == "local"


def test_cloud_receives_call_span_iam_receives_none(traced: Stack, collector: Collector) -> None:
    trace_id = a_trace()
    assert fetched(traced, trace_id, tracestate="rojo=1").status == 200
    call = named(spans_of(collector, trace_id, 7), "GET")
    seen = parents_seen(traced, traced.cloud.upstream, trace_id)
    assert seen in ([f"00-{trace_id}-{call.span_id}-01"], [f"00-{trace_id}-{call.span_id}-03"])
    (sent,) = [
        one for one in traced.cloud.calls(traced.cloud.upstream)
        if trace_id in one["headers"].get("traceparent", "")
    ]  # fmt: skip
    assert sent["headers"]["tracestate"] == "rojo=1"
    assert traced.cloud.calls(traced.cloud.iam)
    for listener in (traced.cloud.iam, traced.cloud.issuer):
        assert parents_seen(traced, listener) == []


def test_request_without_trace_gets_a_logged_one(traced: Stack, collector: Collector) -> None:
    answer = traced.gateway.console(traced.cloud.token(), traceparent="00-none-of-these-01")
    line = line_of(traced.gateway, answer)
    assert re.fullmatch(r"[0-9a-f]{32}", line["trace_id"])

    def servers() -> list[ExportedSpan]:
        return [span for span in collector.spans(line["trace_id"]) if span.kind == "server"]

    eventually(servers)
    assert [span.parent_id for span in servers()] == [""]


def line_of(gateway: RunningGateway, answer: Response) -> dict[str, Any]:
    def found() -> list[dict[str, Any]]:
        wanted = answer.headers["x-request-id"]
        return [one for one in gateway.log_lines("request") if one["request_id"] == wanted]

    eventually(found)
    return found()[0]


def test_shared_call_belongs_to_first_request(traced: Stack, collector: Collector) -> None:
    def has_ended(trace_id: str) -> bool:
        return any(span.kind == "server" for span in collector.spans(trace_id))

    server, traces = traced.cloud.servers[2], [a_trace() for _ in range(6)]
    token = traced.cloud.token("many")
    traced.cloud.settings(latency_s=[0.5, 0.5])
    try:
        with ThreadPoolExecutor(6) as pool:
            responses = [
                pool.submit(traced.gateway.console, token, server, **parent(one)) for one in traces
            ]
            assert {one.result().status for one in responses} == {200}
    finally:
        traced.cloud.settings(latency_s=[0.0, 0.0])
    eventually(lambda: all(list(map(has_ended, traces))))
    servers = [named(collector.spans(one), f"GET {ROUTE}") for one in traces]
    payers = [one for one in servers if one.attributes["gateway.link.source"] == "upstream"]
    calls = [span for one in traces for span in collector.spans(one) if span.kind == "client"]
    assert [one.trace_id for one in payers] == [one.trace_id for one in calls]
    assert len(calls) == 1


def test_login_and_retries_have_separate_spans(traced: Stack, collector: Collector) -> None:
    assert fetched(traced, a_trace()).status == 200  # creates a service token to revoke
    traced.cloud.revoke_service_tokens()
    trace_id = a_trace()
    assert fetched(traced, trace_id).status == 200
    spans = spans_of(collector, trace_id, 9)
    calls = [span for span in spans if span.kind == "client"]
    assert [(span.name, span.failed) for span in calls] == [
        ("GET", True),
        ("login", False),
        ("GET", False),
    ]
    assert calls[0].attributes["error.type"] == "401"
    assert calls[1].attributes["http.response.status_code"] == 201
    assert {span.parent_id for span in calls} == {named(spans, "obtain").span_id}
    seen = [one.split("-")[2] for one in parents_seen(traced, traced.cloud.upstream, trace_id)]
    assert seen == [calls[0].span_id, calls[2].span_id]


def test_list_and_write_have_ordered_stages(traced: Stack, collector: Collector) -> None:
    base, cloud, trace_id = traced.gateway.url, traced.cloud, a_trace()
    headers = {"Authorization": f"Bearer {cloud.token()}", **parent(trace_id)}
    assert fetch(base, "GET", f"/v1/{cloud.project}/physicalservers", headers).status == 200
    spans = spans_of(collector, trace_id, 6)
    assert [one.name for one in spans if one.kind == "internal"] == STAGES[:-1]
    assert named(spans, "GET").parent_id == named(spans, "obtain").span_id


def test_rejected_request_ends_in_rejecting_stage(traced: Stack, collector: Collector) -> None:
    trace_id = a_trace()
    stranger = traced.cloud.token("otto", groups=[])
    assert traced.gateway.console(stranger, **parent(trace_id)).status == 403
    spans = spans_of(collector, trace_id, 3)
    assert [one.name for one in spans if one.kind == "internal"] == ["identify", "decide"]
    assert named(spans, "decide").attributes == {"error.type": "NotPermitted"}
    server = named(spans, f"GET {ROUTE}")
    assert server.attributes["gateway.error_code"] == "CGW.4030"
    assert not server.failed  # a caller's error is not a failure of the gateway
    trace_id = a_trace()
    assert traced.gateway.console("x.y.z", **parent(trace_id)).status == 401
    assert [one.name for one in spans_of(collector, trace_id, 2)] == ["GET", "identify"]


def test_cloud_fault_marks_call_stage_and_request(traced: Stack, collector: Collector) -> None:
    trace_id = a_trace()
    traced.cloud.fail(traced.cloud.upstream, "text")
    try:
        assert fetched(traced, trace_id).status == 502
    finally:
        traced.cloud.heal()
    spans = spans_of(collector, trace_id, 6)
    assert named(spans, f"GET {ROUTE}").failed
    assert named(spans, "obtain").attributes["error.type"] == "UpstreamBroken"


def test_spans_contain_no_secret_person_or_address(traced: Stack, collector: Collector) -> None:
    trace_id, token = a_trace(), traced.cloud.token("canary-person")
    answer = traced.gateway.console(
        token, traced.cloud.servers[1], **parent(trace_id), User_Agent="canary-agent"
    )
    traced.gateway.console("canary.jwt.canary", "canary-server")
    fetch(traced.gateway.url, "PURGE", "/canary?canary=1", {"Host": "canary"})
    fetch(traced.gateway.url, "POST", "/v3.0/OS-AUTH/id-token/tokens", body=json.dumps(
        {"auth": {"id_token": {"id": token}}}
    ))  # fmt: skip
    spans_of(collector, trace_id, 7)
    eventually(lambda: any(one.name == "HTTP" for one in collector.spans()))
    time.sleep(0.3)
    sent = traced.cloud.calls(traced.cloud.upstream)
    service_tokens = {one["headers"]["x-auth-token"] for one in sent} - {""}
    url: str = answer.json["url"]
    secrets = [token, *token.split("."), url, url.rpartition("=")[2], *service_tokens]
    raw = b"".join(collector.bodies)
    assert trace_id.encode() not in raw  # IDs are bytes in the export
    assert bytes.fromhex(trace_id) in raw
    for secret in [*secrets, "canary", "olga", "127.0.0.1", "http://", "ws://"]:
        assert secret.encode() not in raw, secret


def test_openmetrics_has_exemplars_of_sampled_traces(traced: Stack, collector: Collector) -> None:
    trace_id = a_trace()
    assert fetched(traced, trace_id).status == 200
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    page = fetch(traced.gateway.admin, "GET", "/metrics", accept).body.decode()
    shown = [one for one in page.splitlines() if f'# {{trace_id="{trace_id}"}}' in one]
    assert len(shown) == 1
    assert shown[0].startswith("gateway_request_duration_seconds_bucket{")
    assert "trace_id" not in traced.gateway.metrics()


@pytest.fixture
def picky(traced: Stack, collector: Collector) -> RunningGateway:
    """Start a replica that records sampled callers only and exports late."""
    sampler = {"OTEL_TRACES_SAMPLER": "parentbased_always_off", "OTEL_SERVICE_NAME": "picky"}
    environ = {**collector.environ, **sampler, "OTEL_BSP_SCHEDULE_DELAY": "60000"}
    return traced.replica(environ=environ)


def test_sampling_variables_apply_and_shutdown_flushes(
    traced: Stack, picky: RunningGateway, collector: Collector
) -> None:
    token, wanted, unwanted = traced.cloud.token(), a_trace(), a_trace()
    assert picky.console(token, **parent(wanted)).status == 200
    assert picky.console(token, **parent(unwanted, "00")).status == 200
    plain = picky.console(token, Cache_Control="no-cache")
    assert plain.status == 200
    unsampled = line_of(picky, plain)["trace_id"]
    assert parents_seen(traced, traced.cloud.upstream, unsampled)[0].endswith(("-00", "-02"))
    assert collector.spans(wanted) == []
    assert picky.stop() == 0
    assert len(collector.spans(wanted)) >= 6
    assert collector.spans(unwanted) == collector.spans(unsampled) == []
    assert "picky" in [one["service.name"] for one in collector.resources()]


def test_hung_collector_does_not_delay_requests(traced: Stack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        environ = {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"http://127.0.0.1:{deaf.getsockname()[1]}",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "600",  # a request that waited for it would fail
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "OTEL_BSP_MAX_QUEUE_SIZE": "64",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "16",
        }
        gateway = traced.replica(environ=environ)
        token = traced.cloud.token()
        assert {gateway.console(token).status for _ in range(200)} == {200}
        assert gateway.stop() == 0


def test_disabled_tracing_propagates_without_loading_opentelemetry(
    traced: Stack, collector: Collector
) -> None:
    probe = {"PYTHONPROFILEIMPORTTIME": "1"}
    silent = {**collector.environ, "OTEL_SDK_DISABLED": "true"}
    on = traced.replica(environ={**probe, **collector.environ})
    off = traced.replica(environ={**probe, **silent})
    # redis-py loads OpenTelemetry's metrics if installed, not its traces.
    loaded = ("opentelemetry.exporter", "opentelemetry.sdk.trace")
    assert all(one in on.log_text() for one in loaded)
    trace_id = a_trace()
    answer = off.console(traced.cloud.token(), **parent(trace_id, "ff"), Cache_Control="no-cache")
    (seen,) = parents_seen(traced, traced.cloud.upstream, trace_id)
    assert re.fullmatch(rf"00-{trace_id}-(?!{SPAN})[0-9a-f]{{16}}-03", seen)
    assert line_of(off, answer)["trace_id"] == trace_id
    plain = off.console(traced.cloud.token(), Cache_Control="no-cache")
    assert "trace_id" not in line_of(off, plain)
    sent = traced.cloud.calls(traced.cloud.upstream)[-1]["headers"]
    assert sent["x-request-id"] == plain.headers["x-request-id"]
    assert "traceparent" not in sent
    assert not any(one in off.log_text() for one in loaded)
    on.close()
    off.close()


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER: must be otlp"),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_PROTOCOL: must be http/protobuf",
        ),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "console-gateway[otel]"),
    ],
)
def test_invalid_tracing_setup_prevents_the_start(
    environ: dict[str, str], message: str, traced: Stack, tmp_path: Path
) -> None:
    (tmp_path / "opentelemetry.py").write_text("raise ImportError('it is not installed')")
    command = [sys.executable, "-m", "gateway", "serve", "--config"]
    ran = subprocess.run(
        [*command, str(traced.gateway.config_file)],
        env={**os.environ, **environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
        check=False,
    )
    assert ran.returncode == 1
    assert ran.stdout == ""
    assert message in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
