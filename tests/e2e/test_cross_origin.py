"""Scripts of pages of other origins, and compressed lists."""

import gzip
import http.client
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from gateway.edge.docs.openapi import openapi
from tests.support.stack import (
    TIMEOUT_S,
    Response,
    RunningGateway,
    Stack,
    console_path,
    fetch,
)

PORTAL = "https://portal.example.com"
STRANGER = "https://evil.example.com"


@pytest.fixture(scope="module")
def gateway(stack: Stack) -> Iterator[RunningGateway]:
    running = stack.replica(start=False)
    running.config["listen"]["cors"] = {"origins": [PORTAL, "http://localhost:3000"]}
    running.write_config()
    running.start()
    yield running
    running.close()


def preflight(gateway: RunningGateway, path: str, origin: str, method: str = "GET") -> Response:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization",
    }
    return fetch(gateway.url, "OPTIONS", path, headers)


def vary(gateway: RunningGateway, path: str, headers: dict[str, str]) -> set[str]:
    """Return the elements of all Vary headers."""
    parts = urlsplit(gateway.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    response.read()
    connection.close()
    return set(", ".join(response.headers.get_all("Vary", [])).split(", "))


def cors_headers(response: Response) -> set[str]:
    return {name for name in response.headers if name.startswith("access-control-")}


def test_preflight_of_a_named_origin_is_answered(stack: Stack, gateway: RunningGateway) -> None:
    path = console_path(stack.cloud.project, stack.cloud.servers[0])
    for target in (path, "/docs", "/v1/p/nothing"):
        response = preflight(gateway, target, PORTAL)
        assert (response.status, response.body) == (204, b"")
        assert response.headers["access-control-allow-origin"] == PORTAL
        assert {"GET", "PUT", "DELETE"} <= set(
            response.headers["access-control-allow-methods"].split(", ")
        )
        allowed = response.headers["access-control-allow-headers"].lower().split(", ")
        assert {"authorization", "content-type", "prefer", "if-none-match"} <= set(allowed)
        assert response.headers["access-control-max-age"] == "600"
        assert response.headers["vary"] == "Origin"
        assert "access-control-allow-credentials" not in response.headers
        assert "content-type" not in response.headers


@pytest.mark.parametrize("origin", [STRANGER, "null", PORTAL + ".evil.com", PORTAL.upper(), "*"])
def test_preflight_of_another_origin_is_not(
    stack: Stack, gateway: RunningGateway, origin: str
) -> None:
    path = console_path(stack.cloud.project, stack.cloud.servers[0])
    response = preflight(gateway, path, origin)
    assert response.status == 401
    assert not cors_headers(response)
    assert response.headers["vary"] == "Origin"


def test_script_of_a_named_origin_reads_responses_and_errors(
    stack: Stack, gateway: RunningGateway
) -> None:
    good = {"Authorization": f"Bearer {stack.cloud.token()}"}
    console = console_path(stack.cloud.project, stack.cloud.servers[0])
    servers = f"/v1/{stack.cloud.project}/physicalservers"
    for path, headers, status in (
        (console, good, 200),
        (console, {}, 401),
        (console_path(stack.cloud.project, stack.cloud.servers[-1]), good, 403),
        ("/v1/p/nothing", good, 404),
        (servers, good, 200),
        (f"{servers}/{stack.cloud.servers[0]}", good, 200),
        ("/openapi.json", {}, 200),
        ("/v3/projects", {}, 401),
    ):
        response = fetch(gateway.url, "GET", path, headers | {"Origin": PORTAL})
        assert response.status == status
        assert response.headers["access-control-allow-origin"] == PORTAL
        exposed = response.headers["access-control-expose-headers"].split(", ")
        assert set(openapi(())["components"]["headers"]) <= set(exposed)
        for origin in ({"Origin": STRANGER}, {}):
            foreign = fetch(gateway.url, "GET", path, headers | origin)
            assert foreign.status == status
            assert not cors_headers(foreign)
            assert "Origin" in vary(gateway, path, headers | origin)


def test_unset_key_allows_no_origin(stack: Stack) -> None:
    headers = {"Origin": PORTAL, "Authorization": f"Bearer {stack.cloud.token()}"}
    console = console_path(stack.cloud.project, stack.cloud.servers[0])
    response = fetch(stack.gateway.url, "GET", console, headers)
    assert (response.status, cors_headers(response)) == (200, set())
    assert "vary" not in response.headers
    assert preflight(stack.gateway, console, PORTAL).status == 401


def test_vary_of_a_read_keeps_its_other_headers(stack: Stack, gateway: RunningGateway) -> None:
    """Without `Authorization` in it, a shared cache could mix callers."""
    path = f"/v1/{stack.cloud.project}/physicalservers"
    for origin in ({}, {"Origin": PORTAL}):
        sent = {"Authorization": f"Bearer {stack.cloud.token()}", **origin}
        found = vary(gateway, path, sent)
        assert {"Authorization", "Accept-Encoding", "Origin"} <= found


def test_list_is_compressed_for_who_accepts_gzip(stack: Stack) -> None:
    path = f"/v1/{stack.cloud.project}/physicalservers?limit=100"
    headers = {"Authorization": f"Bearer {stack.cloud.token()}"}
    plain = fetch(stack.gateway.url, "GET", path, headers)
    coded = fetch(stack.gateway.url, "GET", path, headers | {"Accept-Encoding": "br, gzip"})
    assert "content-encoding" not in plain.headers
    assert coded.headers["content-encoding"] == "gzip"
    assert coded.headers["content-type"] == "application/json"
    assert "Accept-Encoding" in coded.headers["vary"]
    assert len(plain.body) > 1_024
    assert len(coded.body) < len(plain.body) / 2
    assert gzip.decompress(coded.body) == plain.body

    assert coded.headers["etag"] == "W/" + plain.headers["etag"]
    for etag in (plain.headers["etag"], coded.headers["etag"]):
        for accepted in ({}, {"Accept-Encoding": "gzip"}):
            cached = headers | accepted | {"If-None-Match": etag}
            unchanged = fetch(stack.gateway.url, "GET", path, cached)
            assert (unchanged.status, unchanged.body) == (304, b"")
            assert "content-encoding" not in unchanged.headers
    refused = headers | {"Accept-Encoding": "gzip;q=0"}
    assert "content-encoding" not in fetch(stack.gateway.url, "GET", path, refused).headers


def test_links_are_not_compressed_and_head_equals_get(stack: Stack) -> None:
    headers = {
        "Authorization": f"Bearer {stack.cloud.token()}",
        "Accept-Encoding": "gzip",
    }
    base = f"/v1/{stack.cloud.project}"
    link = fetch(
        stack.gateway.url, "GET", console_path(stack.cloud.project, stack.cloud.servers[0]), headers
    )
    assert "content-encoding" not in link.headers
    target = f"{base}/physicalservers?limit=100"
    head = fetch(stack.gateway.url, "HEAD", target, headers)
    get = fetch(stack.gateway.url, "GET", target, headers)
    assert head.headers["content-encoding"] == "gzip"
    assert head.headers["content-length"] == get.headers["content-length"]


def test_compression_of_lists_can_be_switched_off(stack: Stack) -> None:
    gateway = stack.replica(change={"lists": {"gzip": False}})
    headers = {"Authorization": f"Bearer {stack.cloud.token()}", "Accept-Encoding": "gzip"}
    path = f"/v1/{stack.cloud.project}/physicalservers?limit=100"
    assert "content-encoding" not in fetch(gateway.url, "GET", path, headers).headers
    gateway.close()
