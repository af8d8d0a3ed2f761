"""What operators can see, and that no caller can make it grow."""

import json
import uuid

from tests.support.stack import Stack, ask, console_path, eventually


def series(stack: Stack) -> set[str]:
    return {line.rpartition(" ")[0] for line in stack.gateway.metrics().splitlines()}


def test_no_caller_can_make_a_label_grow(own_stack: Stack) -> None:
    gateway, box = own_stack.gateway, own_stack.box

    def provoke(count: int) -> None:
        for i in range(count):
            gateway.console(box.token(f"person-{uuid.uuid4()}"), str(uuid.uuid4()))
            gateway.console(box.token(), str(uuid.uuid4()), X_Request_Id=uuid.uuid4().hex)
            gateway.console(box.token(headers={"kid": uuid.uuid4().hex}))
            gateway.console(box.token(claims={"iss": f"https://{uuid.uuid4()}"}))
            gateway.console(uuid.uuid4().hex)
            headers = {"Authorization": f"Bearer {box.token()}"}
            path = console_path(uuid.uuid4().hex, box.servers[0])
            ask(gateway.url, ("GET", "POST", "PURGE")[i % 3], path, headers)
            ask(gateway.url, "GET", f"/{uuid.uuid4()}", headers)

    provoke(3)
    before = series(own_stack)
    provoke(40)
    assert series(own_stack) == before


def test_each_outcome_is_counted(own_stack: Stack) -> None:
    gateway, box = own_stack.gateway, own_stack.box
    token = box.token()
    for _ in range(3):
        assert gateway.console(token).status == 200
    gateway.console(None)
    gateway.console(box.token("otto", groups=[]))
    assert gateway.metric('gateway_links_total{source="upstream"}') == 1
    assert gateway.metric('gateway_links_total{source="local"}') == 2
    ok = 'gateway_requests_total{error_code="",operation="ShowRemoteConsole",status="200"}'
    assert gateway.metric(ok) == 3
    forbidden = (
        'gateway_requests_total{error_code="CGW.4030",operation="ShowRemoteConsole",status="403"}'
    )
    assert gateway.metric(forbidden) == 1
    assert gateway.metric('gateway_identifications_total{issuer="corp",outcome="remembered"}') == 2
    assert gateway.metric('gateway_stage_duration_seconds_count{stage="obtain"}') == 3
    assert gateway.metric('gateway_service_logins_total{account="prod",outcome="ok"}') == 1


def test_health_and_readiness_are_on_the_admin_listener(stack: Stack) -> None:
    assert ask(stack.gateway.admin, "GET", "/healthz").status == 200
    ready = ask(stack.gateway.admin, "GET", "/readyz")
    assert ready.status == 200
    assert json.loads(ready.body)["parts"]["redis"] == "ok"


def test_openmetrics_is_spoken_to_those_who_ask(stack: Stack) -> None:
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    page = ask(stack.gateway.admin, "GET", "/metrics", accept)
    assert page.headers["content-type"].startswith("application/openmetrics-text")
    assert page.body.endswith(b"# EOF\n")


def test_each_request_has_one_log_line(own_stack: Stack) -> None:
    gateway, box = own_stack.gateway, own_stack.box
    ids = [f"request-{i:04d}" for i in range(8)]
    for i, request_id in enumerate(ids):
        token = box.token() if i % 2 else None
        gateway.console(token, X_Request_Id=request_id)
    eventually(lambda: len(gateway.log_lines("request")) == len(ids))
    lines = gateway.log_lines("request")
    assert [line["request_id"] for line in lines] == ids
    assert {line["status"] for line in lines} == {200, 401}
