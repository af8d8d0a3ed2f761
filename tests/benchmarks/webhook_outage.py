"""Access requests and console links while the receiver of webhooks is up, hangs, or is down.

The rounds of all gateways are interleaved, so that the machine's other work hits each alike.
"""

import base64
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from statistics import median, quantiles
from typing import Any

from tests.support.stack import RunningGateway, Stack, console_path, fetch, make_policy

_ROUNDS = 12
_REQUESTS_PER_ROUND = 6
_LINKS_PER_ROUND = 40
_SECRET = "whsec_" + base64.b64encode(b"w" * 32).decode()
_WITHOUT = "no webhook"


class _Quick(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def receivers() -> Iterator[dict[str, str]]:
    """Yield the address of each receiver; the one that hangs accepts and never answers."""
    quick = ThreadingHTTPServer(("127.0.0.1", 0), _Quick)
    threading.Thread(target=quick.serve_forever, daemon=True).start()
    with socket.create_server(("127.0.0.1", 0), backlog=1_000) as hanging:
        yield {
            _WITHOUT: "",
            "it answers": f"http://127.0.0.1:{quick.server_port}/hook",
            "it hangs": f"http://127.0.0.1:{hanging.getsockname()[1]}/hook",
            "it is down": "http://127.0.0.1:1/hook",
        }
    quick.shutdown()
    quick.server_close()


def open_gateway(stack: Stack, name: str, url: str) -> RunningGateway:
    gateway = stack.replica(start=False)
    gateway.config["store"]["namespace"] = name.replace(" ", "-")  # an outbox of its own
    if url:
        (gateway.directory / "webhook-secret").write_text(_SECRET)
        (gateway.directory / "webhook-url").write_text(url)
        webhook = {
            "name": "security",
            "url": {"file": "webhook-url"},
            "secrets": [{"file": "webhook-secret"}],
        }
        gateway.config["requests"] = {"webhooks": [webhook]}
        gateway.config["console"] = {"private_networks": ["127.0.0.0/8"]}
    gateway.write_config()
    gateway.write_policy(_policy(stack))
    return gateway.start()


def _policy(stack: Stack) -> dict[str, Any]:
    rule = {
        "role": "operator",
        "to": {"groups": ["staff"]},
        "on": {"projects": [stack.cloud.project]},
        "for_max": "4h",
        "approvers": {"groups": ["leads"]},
    }
    return {**make_policy(stack.cloud), "requests": [rule]}


def step(gateway: RunningGateway, token: str, path: str, body: object) -> tuple[float, Any]:
    """Return the seconds that a step took, and its response."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    began = time.perf_counter()
    response = fetch(gateway.url, "POST", f"/requests{path}", headers, json.dumps(body))
    took = time.perf_counter() - began
    assert response.status in (200, 201), response.body
    return took, response.json


def one_round(stack: Stack, gateway: RunningGateway) -> tuple[list[float], list[float]]:
    """Return the seconds of each step of access requests, and of each cached link."""
    cloud = stack.cloud
    ann, lea = cloud.token("ann", groups=["staff"]), cloud.token("lea", groups=["leads"])
    steps = []
    for _ in range(_REQUESTS_PER_ROUND):
        wanted = {
            "role": "operator",
            "project_id": cloud.project,
            "server_ids": [cloud.servers[-1]],
            "duration_s": 3_600,
            "reason": "measure",
        }
        created, made = step(gateway, ann, "", wanted)
        approved, _ = step(gateway, lea, f"/{made['id']}/approve", {"hash": made["hash"]})
        ended, _ = step(gateway, ann, f"/{made['id']}/end", {"reason": ""})
        steps += [created, approved, ended]
    olga, links = {"Authorization": f"Bearer {cloud.token()}"}, []
    path = console_path(cloud.project, cloud.servers[0])
    for _ in range(_LINKS_PER_ROUND):
        began = time.perf_counter()
        assert fetch(gateway.url, "GET", path, olga).status == 200
        links.append(time.perf_counter() - began)
    return steps, links


def main() -> None:
    stack = Stack(start=False)
    try:
        with receivers() as urls:
            gateways = {name: open_gateway(stack, name, url) for name, url in urls.items()}
            found: dict[str, tuple[list[float], list[float]]] = {one: ([], []) for one in urls}
            for number in range(_ROUNDS + 1):
                for name, gateway in gateways.items():
                    steps, links = one_round(stack, gateway)
                    if number:  # the first one fills caches
                        found[name][0].extend(steps)
                        found[name][1].extend(links)
    finally:
        stack.close()
    print("steps of access requests and cached links by the receiver of webhooks, ms p50 (p95)")
    for name, kinds in found.items():
        texts = [
            f"{median(one) * 1e3:6.2f} ({quantiles(one, n=20)[18] * 1e3:6.2f})" for one in kinds
        ]
        more = [
            median(one) / median(base) - 1 for one, base in zip(kinds, found[_WITHOUT], strict=True)
        ]
        print(f"  {name:10}  steps {texts[0]} {more[0]:+4.0%}   links {texts[1]} {more[1]:+4.0%}")


if __name__ == "__main__":
    main()
