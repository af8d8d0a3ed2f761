"""Recording rules, alerts and dashboards against a running gateway, in a real Prometheus.

One run has two workers, a replica with TLS, one with live consoles, the simulated cloud and every
kind of event in turn. Then each expression is evaluated over the whole run: it must have returned
a value, and an alert must have been true after its event and not before.
"""

import asyncio
import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from gateway.domain.rfb.encodings import Encoding
from tests.support import rfb
from tests.support.live_delivery import PROJECT, deliver_live, ticket
from tests.support.live_page import LivePage
from tests.support.prometheus import NOT_HERE, PROMETHEUS, Prometheus
from tests.support.stack import (
    CloudProcess,
    Response,
    RunningGateway,
    Stack,
    eventually,
    fetch,
    make_seal_key,
)
from tests.support.tls import write_certificate
from tests.support.watched import (
    STEP_S,
    WatchedExpression,
    dashboard_expressions,
    query_errors,
    returned_nonzero,
    rule_expressions,
    samples,
)

# Its events take a minute and a half on an idle machine, and many times that on a busy one.
pytestmark = [
    pytest.mark.skipif(PROMETHEUS is None, reason=NOT_HERE),
    pytest.mark.timeout(1_800, method="signal"),
]

DEPLOY = Path(__file__).parents[2] / "deploy" / "prometheus"
RULES = rule_expressions(DEPLOY / "rules.yml")
ALERTS = rule_expressions(DEPLOY / "alerts.yml")
PANELS = dashboard_expressions(DEPLOY.parent / "grafana" / "dashboards", window="20s", range_="1m")

WORKERS = 2
SCRAPE_S = 1.0
"""Also the timeout of a scrape."""
MAY_BE_BRIEF = frozenset(
    {"ConsoleGatewayDown", "ConsoleGatewayTargetDown", "ConsoleGatewayRedisUnavailable"}
)
"""On a busy machine, a missed scrape or heartbeat makes these true for a moment at any time."""
SEEN_WITHIN_S = 60.0

LINK_LIFE_S = 15
SLOW_S = 2.7
"""Above the 2.5 s of the latency objective, below the timeout of a call."""

ACCOUNT: dict[str, Any] = {
    "budget": {
        "console": {"requests": 40, "per_s": 1, "burst": 20},
        "iam": {"requests": 50, "per_s": 1, "burst": 5},
        "wait_max_s": 2,  # long enough for a scrape to see waiting calls
    },
    "breaker": {"calls_min": 10, "open_s": 0.2, "open_max_s": 0.3},
    "inventory": {"poll_s": 1, "age_max_s": 10},
    "links": {
        "lifetime_s": LINK_LIFE_S,
        "min_remaining_s": 1,
        "renew_before_s": LINK_LIFE_S / 2,
        "console_hosts": ["127.0.0.1"],
    },
}
CHANGE: dict[str, Any] = {
    "audit": {"stream": True, "on_unavailable": "allow"},
    "metrics": {"teams": {"operators": "datacenter"}},
    "cache": {"tokens_max": 20},
    "log": {"hit_sample_ratio": 0.5},
}
ADMIN_API: dict[str, Any] = {
    "audience": "console-gateway-admin",
    "groups": {"console-admins": "all"},
}
KEYS_AGE_MAX_S = 12
REDIS_TIMEOUT_S = 3
"""A busy machine must not look like a lost Redis before the event that stops it."""
IAM_TOKEN_LIFE_S = 900
"""Below the half hour at which the alert on token renewal fires."""


@dataclass
class Scene:
    stack: Stack
    replica: RunningGateway
    live: RunningGateway
    """Delivers live consoles; has its own part of Redis."""
    prometheus: Prometheus
    began: float = field(default_factory=time.time)
    event_began: dict[Callable[["Scene"], None], float] = field(default_factory=dict)

    @property
    def cloud(self) -> CloudProcess:
        return self.stack.cloud

    def run_event(self, event: Callable[["Scene"], None]) -> None:
        self.event_began[event] = time.time()
        event(self)
        self.wait_for_alerts(event)

    def repeat_until_alerts(
        self, event: Callable[["Scene"], None], action: Callable[[], object]
    ) -> None:
        """Repeat until Prometheus has seen the alerts of an event; a test reports those missing.

        An alert on a state must be seen before the event ends it.
        """
        since = self.event_began[event] - SCRAPE_S
        alerts = [one.expression for one in ALERTS if FIRES.get(one.where) is event]
        until = time.monotonic() + SEEN_WITHIN_S
        while time.monotonic() < until:
            alerts = [one for one in alerts if not samples(self.prometheus, one, since=since)]
            if not alerts:
                return
            action()

    def wait_for_alerts(self, event: Callable[["Scene"], None]) -> None:
        self.repeat_until_alerts(event, lambda: time.sleep(0.2))

    def repeat_until_seen(self, action: Callable[[], object], *expressions: str) -> None:
        """Repeat until Prometheus has seen a value of each expression that is not zero."""

        def seen() -> bool:
            return all(
                returned_nonzero(self.prometheus, one, since=self.began) for one in expressions
            )

        eventually(
            lambda: seen() or action(), lambda: f"not seen: {expressions}", within_s=SEEN_WITHIN_S
        )

    def counted(self, line: str) -> float:
        """Return the value of one series, over both workers."""
        gateway = self.stack.gateway
        ports = range(gateway.admin_port, gateway.admin_port + WORKERS)
        return sum(gateway.metric(line, port=port) for port in ports)

    def fetch(
        self, count: int, token: str | None, server: int = 0, **headers: str
    ) -> list[Response]:
        """Request `count` consoles, eight at a time."""
        name = self.cloud.servers[server]
        with ThreadPoolExecutor(8) as pool:
            return list(
                pool.map(lambda _: self.stack.gateway.console(token, name, **headers), range(count))
            )

    def fresh(self, count: int, token: str | None = None) -> list[Response]:
        """Request uncached links as different persons, so each costs a call."""
        tokens = [token or self.cloud.token(f"person-{i}") for i in range(count)]
        with ThreadPoolExecutor(count) as pool:
            return list(
                pool.map(
                    lambda one: self.stack.gateway.console(one, Cache_Control="no-cache"), tokens
                )
            )

    def wait_for_samples(self, *expressions: str) -> None:
        """Wait until each expression has a value at a step of the tests' queries."""
        since = time.time()
        for one in expressions:
            eventually(
                lambda one=one: samples(self.prometheus, one, since=since), lambda one=one: one
            )

    def wait_for_scrape(self) -> None:
        """Wait until Prometheus has read all processes from now on."""
        self.prometheus.wait_until_read()


def started(scene: Scene) -> None:
    """Start: a certificate that expires tomorrow, a service token of a few minutes."""
    assert scene.stack.gateway.ready() == 200


def live_consoles(scene: Scene) -> None:
    """Use all live consoles, after five that the cloud refused; send stale resume keys."""
    asyncio.run(_use_live_consoles(scene))


async def _use_live_consoles(scene: Scene) -> None:
    cloud, gateway = scene.cloud, scene.live
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as client:

        async def open_page(server: str) -> LivePage:
            return await _open_page(client, scene, server)

        await LivePage(client, gateway.url).redeem("garbage")
        cloud.fail(cloud.console_control, "wrong_token", times=100)
        for server in cloud.servers[:5]:
            assert await (await open_page(server)).until_closed() == 4010
        cloud.heal()
        pages = [await open_page(server) for server in cloud.servers[5:7]]
        for page in pages:
            await page.until_live()
        for _ in range(40):
            other = LivePage(client, gateway.url)
            other._path, other.cookie = pages[0]._path, pages[0].cookie
            await other.connect(key="stale")
            assert await other.until_closed() == 4009
        await asyncio.to_thread(scene.wait_for_alerts, live_consoles)
        for page in pages:
            await _end(page)


async def _open_page(client: aiohttp.ClientSession, scene: Scene, server: str) -> LivePage:
    """Redeem a ticket and connect, when the sessions before have ended."""
    page = LivePage(client, scene.live.url)
    async with asyncio.timeout(SEEN_WITHIN_S):
        status = 0
        while status != 200:
            text = await asyncio.to_thread(ticket, scene.live, scene.cloud.token(), server)
            status, _ = await page.redeem(text)
    await page.connect()
    return page


async def _end(page: LivePage) -> None:
    await page.send({"type": "end"})
    await page.until_closed()


def recordings(scene: Scene) -> None:
    """Lose the directory of a console that is being recorded; count what others have taken."""
    asyncio.run(_lose_a_recording(scene))
    # What recordings take is counted at the start, and then every ten minutes.
    scene.live.stop()
    scene.live.start()
    scene.wait_for_scrape()


async def _draw(page: LivePage) -> None:
    """Have the whole screen sent again and again, so that bytes wait for the disk at any time.

    Syncs and scrapes both come every second, and may stay in phase.
    """
    await page.send_rfb(rfb.set_pixel_format() + rfb.set_encodings(Encoding.HEXTILE, Encoding.RAW))
    while True:
        await page.send_rfb(rfb.update_request(incremental=False))
        await asyncio.sleep(0.05)


async def _lose_a_recording(scene: Scene) -> None:
    server = scene.cloud.servers[7]
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as client:
        page = await _open_page(client, scene, server)
        await page.until_live()
        await page.initialise()
        drawing = asyncio.create_task(_draw(page))
        lag = "gateway_recording_lag_seconds"
        await asyncio.to_thread(scene.repeat_until_seen, scene.wait_for_scrape, lag)
        drawing.cancel()
        (part,) = (scene.live.directory / "recordings").glob("*/*/part-*.open")
        part.unlink()
        failed = 'gateway_recording_failures_total{account="prod",reason="removed"}'
        await asyncio.to_thread(eventually, lambda: scene.live.metric(failed) == 1)
        await asyncio.to_thread(scene.wait_for_scrape)
        await _end(page)


def links(scene: Scene) -> None:
    """Return links from the cloud, Redis and memory; reject a request without a token."""
    token = scene.cloud.token()
    scene.fetch(1, scene.cloud.token("renata"))
    for _ in range(2):
        for server in range(3):
            got = scene.fetch(8, token, server)
            assert {one.status for one in got} == {200}, [one.body for one in got]
        scene.fetch(2, None)
        scene.fetch(2, scene.cloud.token("otto", groups=[]))
        scene.wait_for_scrape()


def issuer_down(scene: Scene) -> None:
    """Stop the issuer during the next events."""
    scene.cloud.fail(scene.cloud.issuer, "reset", path="/.well-known")


def issuer_recovered(scene: Scene) -> None:
    """Restart the issuer when its keys have nearly expired."""
    gateway = scene.stack.gateway
    too_old = 0.8 * KEYS_AGE_MAX_S
    eventually(lambda: gateway.metric('gateway_keys_age_seconds{issuer="corp"}') > too_old)
    scene.wait_for_alerts(issuer_down)
    scene.cloud.heal()


def rejected_tokens(scene: Scene) -> None:
    """Send expired and forged tokens, and requests without permission."""
    cloud = scene.cloud
    scene.fetch(240, cloud.token(life_s=-600))
    scene.fetch(15, cloud.token(forged="signature"))
    scene.fetch(3, cloud.token(forged="none"))
    scene.fetch(130, cloud.token("otto", groups=[]))
    scene.wait_for_scrape()


def throttled(scene: Scene) -> None:
    """Answer several calls with 429; calls during the pause are rejected."""

    def pause() -> None:
        # The first 429 stops further calls; on a busy machine few have been sent by then.
        scene.cloud.fail(
            scene.cloud.upstream,
            "throttled",
            path="remote-console",
            delay_s=0.3,
            times=8,
            headers={"Retry-After": "6"},  # above `wait_max_s`, so calls are rejected
        )
        scene.fresh(12)
        scene.fresh(24)
        scene.cloud.heal()
        eventually(lambda: scene.fresh(1)[0].status == 200, within_s=SEEN_WITHIN_S)
        scene.wait_for_scrape()

    scene.repeat_until_alerts(throttled, pause)
    scene.repeat_until_seen(pause, "max(gateway_budget_pause_seconds)")


def queued(scene: Scene) -> None:
    """Let calls wait for the end of a short pause, until a scrape has seen them waiting."""

    def wait() -> None:
        scene.cloud.fail(
            scene.cloud.upstream,
            "throttled",
            path="remote-console",
            times=1,
            headers={"Retry-After": "1"},  # below `wait_max_s`, so calls wait
        )
        scene.fresh(9)

    scene.repeat_until_seen(
        wait,
        "max(gateway_budget_queue_length)",
        "max(job_account_budget:gateway_budget_queue_seconds:max)",
    )
    scene.cloud.heal()
    eventually(lambda: scene.fresh(1)[0].status == 200)


def renewed(scene: Scene) -> None:
    """Request a link near its expiry until it is renewed in the background."""
    token = scene.cloud.token("renata")
    ok = 'gateway_link_renewals_total{account="prod",outcome="ok"}'
    eventually(lambda: scene.fetch(8, token) and scene.counted(ok) > 0)


def cloud_slow(scene: Scene) -> None:
    """Delay one link beyond the latency objective."""
    scene.cloud.fail(scene.cloud.upstream, "slow", path="remote-console", delay_s=SLOW_S, times=1)
    (got,) = scene.fresh(1)
    assert got.status == 200, got.body


def cloud_broken(scene: Scene) -> None:
    """Reset connections to the cloud until the breaker has opened repeatedly."""
    scene.cloud.fail(scene.cloud.upstream, "reset")
    scene.repeat_until_alerts(cloud_broken, lambda: scene.fresh(8))
    scene.wait_for_scrape()
    scene.cloud.heal()
    eventually(lambda: scene.fresh(1)[0].status == 200)


def account_rejected(scene: Scene) -> None:
    """Answer 403 for the service account."""
    body = json.dumps({"error_code": "iMetal.0004", "error_msg": "x"})
    scene.cloud.fail(scene.cloud.upstream, "answer", path="remote-console", status=403, body=body)
    scene.fresh(2)
    scene.wait_for_scrape()
    scene.repeat_until_alerts(account_rejected, lambda: scene.fresh(8))
    scene.cloud.heal()


def redis_hung(scene: Scene) -> None:
    """Stop Redis three times; links returned in between have no audit record."""
    token = scene.cloud.token()
    for _ in range(3):
        scene.fetch(16, token)
        scene.stack.valkey.hang()
        got = scene.fetch(16, token)
        assert {one.status for one in got} == {200}, [one.body for one in got if one.status != 200]
        # One alert counts how often Prometheus has seen this value change.
        scene.wait_for_samples(
            "max(gateway_store_available) == 0",
            "gateway_audit_durable == 0",
            "gateway_budget_local_fallback > 0",
        )
        scene.stack.valkey.resume()
        scene.wait_for_samples("min(gateway_store_available) == 1")


def stalled(scene: Scene) -> None:
    """Stop the workers until scrapes have failed."""
    workers = scene.stack.gateway.workers()
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    try:
        scene.wait_for_alerts(stalled)
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
    scene.wait_for_scrape()


def bad_policy(scene: Scene) -> None:
    gateway = scene.stack.gateway
    good = gateway.policy_file.read_text()
    gateway.write_policy({"grants": "all"})
    scene.wait_for_alerts(bad_policy)
    gateway.policy_file.write_text(good)


def bad_config(scene: Scene) -> None:
    gateway = scene.stack.gateway
    gateway.config["listen"]["no_such_key"] = 1
    gateway.write_config()
    scene.wait_for_alerts(bad_config)
    del gateway.config["listen"]["no_such_key"]
    gateway.write_config()


def rules_by_tags(scene: Scene) -> None:
    """Load a policy with tags while the cloud returns no server list."""
    gateway = scene.stack.gateway
    scene.cloud.fail(scene.cloud.upstream, "reset", path="/physicalservers")
    grants = [{"role": "op", "to": {"groups": ["operators"]}, "on": {"tags": {"env": "prod"}}}]
    loaded = len(gateway.log_lines("policy_loaded"))
    gateway.write_policy({"roles": {"op": ["console:open"]}, "grants": grants})
    eventually(lambda: len(gateway.log_lines("policy_loaded")) >= loaded + WORKERS)
    scene.wait_for_alerts(rules_by_tags)
    scene.cloud.heal()
    # A panel shows the age of an inventory, and a failed poll is repeated after seconds.
    age = 'gateway_inventory_age_seconds{account="prod"}'
    ports = range(gateway.admin_port, gateway.admin_port + WORKERS)
    eventually(lambda: any(gateway.metric(age, port=port) < math.inf for port in ports))
    scene.wait_for_scrape()


def revoked(scene: Scene) -> None:
    """Revoke a token that is used again; let a non-administrator try to revoke."""
    gateway, cloud = scene.stack.gateway, scene.cloud
    admin, other = (
        cloud.token("ada", groups=[group], claims={"aud": ADMIN_API["audience"]})
        for group in (*ADMIN_API["groups"], "operators")
    )
    lost = cloud.token("olga", claims={"jti": "lost"})
    revocation = json.dumps({"issuer": "corp", "token_id": "lost"})

    def revoke(token: str) -> Response:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        return fetch(gateway.admin, "POST", "/admin/revocations", headers, revocation)

    eventually(lambda: revoke(admin).status == 200)  # the issuer was down until now
    assert {revoke(other).status for _ in range(6)} == {403}
    eventually(lambda: {one.status for one in scene.fetch(8, lost)} == {401})
    headers = {"Authorization": f"Bearer {admin}", "Content-Type": "application/json"}
    lock = json.dumps({"subject": "mallory"})
    assert fetch(gateway.admin, "POST", "/admin/locks", headers, lock).status == 200
    mallory = cloud.token("mallory")
    eventually(lambda: {one.status for one in scene.fetch(8, mallory)} == {403})
    scene.wait_for_scrape()


def glass_broken(scene: Scene) -> None:
    """Let a person take access without an approval; the policies differ already."""
    gateway, cloud = scene.stack.gateway, scene.cloud
    policy = json.loads(gateway.policy_file.read_text())
    role = next(iter(policy["roles"]))
    rule = {
        "role": role,
        "to": {"users": ["zoe"]},
        "on": "everything",
        "for_max": "1h",
        "approvers": {"groups": ["leads"]},
        "break_glass": {"per_day": 1},
    }
    gateway.write_policy({**policy, "requests": [rule]})
    wanted = {
        "role": role,
        "project_id": cloud.project,
        "server_ids": [cloud.servers[0]],
        "duration_s": 60,
        "reason": "the site is down",
        "break_glass": True,
    }
    headers = {"Authorization": f"Bearer {cloud.token('zoe')}", "Content-Type": "application/json"}
    eventually(
        lambda: fetch(gateway.url, "POST", "/requests", headers, json.dumps(wanted)).status == 201
    )
    scene.wait_for_samples("max(gateway_access_requests_open) > 0")


def worker_killed(scene: Scene) -> None:
    gateway = scene.stack.gateway
    started_before = len(gateway.log_lines("worker_started"))
    os.kill(gateway.workers()[-1], signal.SIGKILL)
    eventually(lambda: len(gateway.log_lines("worker_started")) > started_before)
    eventually(lambda: gateway.ready() == 200)
    scene.wait_for_scrape()


def login_rejected(scene: Scene) -> None:
    """Stop IAM, then let it reject logins; no later event logs in."""
    cloud = scene.cloud
    cloud.fail(cloud.iam, "reset")
    cloud.revoke_service_tokens()
    scene.fresh(1)
    scene.wait_for_scrape()
    cloud.heal()
    body = json.dumps({"error": {"code": 401, "message": "x", "title": "Unauthorized"}})
    cloud.fail(cloud.iam, "answer", status=401, body=body)
    cloud.revoke_service_tokens()  # a retry may have logged in just before
    eventually(
        lambda: scene.fresh(1) and scene.stack.gateway.log_lines("service_login_refused"),
    )
    scene.wait_for_scrape()


def all_stopped(scene: Scene) -> None:
    scene.stack.gateway.stop()
    scene.replica.stop()
    scene.live.stop()
    scene.prometheus.wait_for('sum(up{job="console-gateway"}) == 0')


EVENTS: tuple[Callable[[Scene], None], ...] = (
    started,
    live_consoles,
    recordings,
    links,
    rejected_tokens,
    throttled,
    queued,
    renewed,
    cloud_broken,
    account_rejected,
    cloud_slow,
    redis_hung,
    issuer_down,  # from here on, a token that no worker has verified may be refused
    stalled,
    bad_policy,
    bad_config,
    issuer_recovered,
    revoked,
    worker_killed,
    rules_by_tags,
    glass_broken,
    login_rejected,
    all_stopped,
)

FIRES: dict[str, Callable[[Scene], None]] = {
    "ConsoleGatewayLinkErrorsFastBurn": throttled,
    "ConsoleGatewayLinkErrorsSlowBurn": throttled,
    "ConsoleGatewayDown": all_stopped,
    "ConsoleGatewayTargetDown": stalled,
    "ConsoleGatewayWorkerDied": worker_killed,
    "ConsoleGatewayCertificateExpiresSoon": started,
    "ConsoleGatewayCertificateExpiresVerySoon": started,
    "ConsoleGatewayClientCertificateExpiresSoon": started,
    "ConsoleGatewayConfigRejected": bad_config,
    "ConsoleGatewayUpstreamThrottled": throttled,
    "ConsoleGatewayUpstreamFailing": cloud_broken,
    "ConsoleGatewayBreakerOpen": cloud_broken,
    "ConsoleGatewayBreakerFlapping": cloud_broken,
    "ConsoleGatewayBudgetExhausted": throttled,
    "ConsoleGatewayServiceLoginRejected": login_rejected,
    "ConsoleGatewayServiceTokenNotRenewed": started,
    "ConsoleGatewayUpstreamRejectsAccount": account_rejected,
    "ConsoleGatewayRedisUnavailable": redis_hung,
    "ConsoleGatewayRedisFlapping": redis_hung,
    "ConsoleGatewayKeysStale": issuer_down,
    "ConsoleGatewayKeysNearlyExpired": issuer_down,
    "ConsoleGatewayMostTokensRejected": rejected_tokens,
    "ConsoleGatewayPolicyRejected": bad_policy,
    "ConsoleGatewayPoliciesDiffer": rules_by_tags,
    "ConsoleGatewayInventoryStale": rules_by_tags,
    "ConsoleGatewayInventoryExpired": rules_by_tags,
    "ConsoleGatewayAuditNotDurable": redis_hung,
    "ConsoleGatewayAuditRecordsMissing": redis_hung,
    "ConsoleGatewayForgedTokens": rejected_tokens,
    "ConsoleGatewayManyDenials": rejected_tokens,
    "ConsoleGatewayRevokedTokens": revoked,
    "ConsoleGatewayLockedPersons": revoked,
    "ConsoleGatewayBreakGlassUsed": glass_broken,
    "ConsoleGatewayAdminAccessDenied": revoked,
    "ConsoleGatewayConsolesEndByError": live_consoles,
    "ConsoleGatewayRecordingsFail": recordings,
    "ConsoleGatewayConsolesNearLimit": live_consoles,
    "ConsoleGatewayConsoleResumesFail": live_consoles,
}
"""The event after which the alert's expression is true, and not before."""

READS_ONLY: dict[str, str] = {
    "ConsoleGatewayLinkLatencyFastBurn": "requires an hour of mostly slow links",
    "ConsoleGatewayLinkLatencySlowBurn": "as above",
    "ConsoleGatewayEventLoopLag": "would slow down the other tests",
    "ConsoleGatewayMemoryHigh": "as above",
    "ConsoleGatewayFileDescriptorsNearLimit": "as above",
    "ConsoleGatewayQueueLong": "requires a queue of 10 s",
    "ConsoleGatewayServiceLoginFailing": "five attempts with back-off take half a minute",
    "ConsoleGatewayRedisUnavailableToSome": "both workers are on one machine",
    "ConsoleGatewayRedisNotSubscribed": "requires a Redis user without channels",
    "ConsoleGatewayProxyHeadersRejected": "the listeners of this run have no PROXY protocol",
    "ConsoleGatewayRedisSlow": "latencies between 50 and 100 ms are not deterministic",
    "ConsoleGatewayBudgetLocalFallback": "requires a Redis that answers PING only",
    "ConsoleGatewayOverridesNotLoaded": "requires a start without Redis",
    "ConsoleGatewayOverrideFailed": "requires a bug",
    "ConsoleGatewayAuditLag": "requires a disk that hangs",
    "ConsoleGatewayAuditSlow": "as above",
    "ConsoleGatewayAuditDiskNearlyFull": "requires a separate disk",
    "ConsoleGatewayReplayedSignatures": "requires a client that signs",
    "ConsoleGatewayConsoleRelayBusy": "would slow down the other tests",
    "ConsoleGatewayRecordingsDiskFull": "requires a separate disk",
    "ConsoleGatewayRecordingsLag": "requires a disk that hangs",
    "ConsoleGatewayRecordingsNotClosed": "requires a disk that fails when a recording ends",
    "ConsoleGatewayRecordingsRemovedEarly": "retention runs every ten minutes",
    "ConsoleGatewayRecordingsOnHold": "as above",
}
"""Alerts that no event triggers, with the reason; their series must exist."""

NEVER: dict[str, str] = {
    "ConsoleGatewayTaskDied": "requires a bug",
    "ConsoleGatewayInternalErrors": "requires a bug",
    "ConsoleGatewayWebhooksLate": "no webhook is configured",
    "ConsoleGatewayNoticesGivenUp": "no webhook is configured",
    "ConsoleGatewayBrowserLoginsFailing": "no login is configured",
}
"""Alerts without series in this run, with the reason."""

ONLY_ZERO: dict[str, str] = {
    "job_instance:gateway_store_slow:ratio_rate5m": READS_ONLY["ConsoleGatewayRedisSlow"],
    "gateway_audit_lag_seconds": "without a hung disk a record waits less than a scrape takes",
    "job_instance:gateway_audit_slow:ratio_rate5m": "requires a slow disk",
    "gateway_budget_slots_lost_total": "requires a process that stops between a grant and its slot",
    "gateway_proxy_header_rejections_total": READS_ONLY["ConsoleGatewayProxyHeadersRejected"],
    "gateway_log_lines_dropped_total": "requires a reader of stdout that stalls",
    "gateway_task_restarts_total": NEVER["ConsoleGatewayTaskDied"],
    "gateway_console_on_old_inventory": "the policy of live consoles has no rule by attributes",
    "gateway_recordings_removed_total": READS_ONLY["ConsoleGatewayRecordingsRemovedEarly"],
    "gateway_recordings_on_hold_bytes": READS_ONLY["ConsoleGatewayRecordingsOnHold"],
    "gateway_workers_retired": "a replaced worker without live consoles ends before a scrape",
}
"""Series that are always 0 in this run, with the reason."""


def without_group_intervals(file: Path, directory: Path) -> Path:
    """Copy rules without the longer evaluation intervals of their groups."""
    groups = yaml.safe_load(file.read_text())["groups"]
    copied = [{"name": group["name"], "rules": group["rules"]} for group in groups]
    copy = directory / file.name
    copy.write_text(yaml.safe_dump({"groups": copied}))
    return copy


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Run every event once."""
    cloud = CloudProcess("--rate", "1000", "--burst", "1000", "--live-project", PROJECT, servers=12)
    settings = json.dumps({"token_life_s": IAM_TOKEN_LIFE_S})
    headers = {"Content-Type": "application/json"}
    assert fetch(cloud.iam, "POST", "/_box/settings", headers, settings).status == 200
    stack = Stack(
        cloud, workers=WORKERS, account=ACCOUNT, change=CHANGE, admin_api=ADMIN_API, start=False
    )
    gateway = stack.gateway
    gateway.config["issuers"][0] |= {"keys_refresh_s": 1, "keys_age_max_s": KEYS_AGE_MAX_S}
    gateway.config["store"]["timeout_s"] = REDIS_TIMEOUT_S
    gateway.write_config()
    replica = stack.replica(start=False)
    certificate, key = write_certificate(replica.directory, "127.0.0.1")
    tls = {"certificate_file": str(certificate), "key_file": str(key)}
    replica.config["listen"]["tls"] = tls
    replica.config["accounts"][0]["certificate"] = tls  # unused: the simulated cloud has no TLS
    replica.config["audit"] = {"directory": "audit"}
    replica.config["store"]["timeout_s"] = REDIS_TIMEOUT_S
    replica.write_config()
    live = stack.replica(start=False)
    live.config["store"] = {
        **live.config["store"],
        "namespace": "live",
        "timeout_s": REDIS_TIMEOUT_S,
    }
    deliver_live(live, sessions_max=2)
    live.config["accounts"][0]["console"] |= {
        "sessions_max": 2,
        "websocket": "root",
        "subprotocol": "binary",
        "recording": "when_possible",
    }
    (live.directory / "recording-key").write_text(make_seal_key())
    live.config["recordings"] = {"directory": "recordings", "keys": [{"file": "recording-key"}]}
    live.write_config()
    own_ports = range(gateway.admin_port, gateway.admin_port + WORKERS)
    ports = [*own_ports, replica.admin_port, live.admin_port]
    targets = [f"127.0.0.1:{port}" for port in ports]
    directory = tmp_path_factory.mktemp("rules")
    rule_files = [
        without_group_intervals(DEPLOY / name, directory) for name in ("rules.yml", "alerts.yml")
    ]
    prometheus = Prometheus(
        targets,
        rule_files=rule_files,
        scrape_interval_s=SCRAPE_S,
        evaluation_interval_s=SCRAPE_S,
    )
    try:
        gateway.start()
        replica.start()
        live.start()
        prometheus.start().wait_for_scrapes()
        running = Scene(stack, replica, live, prometheus)
        for event in EVENTS:
            running.run_event(event)
        yield running
    finally:
        prometheus.close()
        stack.close()


def test_prometheus_evaluates_every_expression(scene: Scene) -> None:
    assert query_errors(scene.prometheus, [*RULES, *ALERTS, *PANELS]) == []
    unwell = [rule["name"] for rule in scene.prometheus.rules() if rule["health"] != "ok"]
    assert unwell == []


def test_tables_list_every_alert_once() -> None:
    named = [*FIRES, *READS_ONLY, *NEVER]
    assert sorted(named) == sorted({one.where for one in ALERTS})


def silent(scene: Scene, watched: Iterable[WatchedExpression]) -> list[str]:
    """Return expressions without a value, or with unexplained zeros only."""
    found = []
    for one in watched:
        if returned_nonzero(scene.prometheus, one.expression, since=scene.began):
            continue
        zeros = len(samples(scene.prometheus, one.expression, since=scene.began))
        if not zeros or not any(name in one.expression for name in ONLY_ZERO):
            found.append(f"{one.where}: {one.expression}: {zeros} values, none above 0")
    return found


def test_every_recording_rule_has_values(scene: Scene) -> None:
    assert silent(scene, [WatchedExpression(rule.where, rule.where) for rule in RULES]) == []


def test_every_panel_has_data(scene: Scene) -> None:
    # The run is shorter than a day, and neither a webhook nor a login is configured.
    absent = ("offset 1d", "gateway_webhook_", "gateway_browser_")
    watched = [one for one in PANELS if not any(part in one.expression for part in absent)]
    assert silent(scene, watched) == []


def test_every_series_of_alerts_exists(scene: Scene) -> None:
    absent = {
        (one.where, str(selector))
        for one in ALERTS
        if one.where not in NEVER
        for selector in one.selectors
        if not samples(scene.prometheus, str(selector), since=scene.began)
    }
    assert absent == set()


def described_inputs(scene: Scene, one: WatchedExpression, *, since: float) -> dict[str, str]:
    """Return the values of an alert's series after an event, where they change."""
    described = {}
    for selector in map(str, one.selectors):
        changes: list[str] = []
        for at, value in sorted(samples(scene.prometheus, selector, since=since)):
            if not changes or changes[-1].partition(" ")[2] != f"{value:g}":
                changes.append(f"+{at - since:.0f}s {value:g}")
        described[selector] = ", ".join(changes[:40])
    return described


def test_provoked_alerts_fire_only_after_their_event(
    scene: Scene,
) -> None:
    wrong = []
    for one in ALERTS:
        if one.where not in FIRES:
            continue
        event = FIRES[one.where]
        # A sample has the time at which its scrape began, before the page was rendered.
        began = scene.event_began[event] - SCRAPE_S
        true_at = {at for at, _ in samples(scene.prometheus, one.expression, since=scene.began)}
        if not true_at or max(true_at) < began:
            inputs = described_inputs(scene, one, since=began)
            wrong.append(f"{one.where} was not true after {event.__name__}: {inputs}")
        before = sorted(at for at in true_at if at < began)
        steps = (began - scene.began) / STEP_S
        if len(before) > (steps / 2 if one.where in MAY_BE_BRIEF else 0):
            wrong.append(
                f"{one.where} was true {len(before)} times before {event.__name__}, "
                f"first {began - before[0]:.1f} s before"
            )
    assert wrong == [], "\n".join(wrong)
