"""Everything that rules and alerts ask for is there when it happens, in a real Prometheus.

One run: two workers, a replica that speaks TLS, the simulated cloud, and every kind of event, one
after the other. After it each expression is looked at over the whole run: it must have told
something at some moment, and an alert must have held after its event and not before.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.prometheus import NOT_HERE, PROMETHEUS, Prometheus
from tests.support.stack import CloudProcess, Response, RunningGateway, Stack, eventually, fetch
from tests.support.tls import write_certificate
from tests.support.watched import (
    WatchedExpression,
    dashboard_expressions,
    query_errors,
    returned_nonzero,
    rule_expressions,
    samples,
)

pytestmark = pytest.mark.skipif(PROMETHEUS is None, reason=NOT_HERE)

DEPLOY = Path(__file__).parents[2] / "deploy" / "prometheus"
RULES = rule_expressions(DEPLOY / "rules.yml")
ALERTS = rule_expressions(DEPLOY / "alerts.yml")
PANELS = dashboard_expressions(DEPLOY.parent / "grafana" / "dashboards", window="5s", range_="1m")

WORKERS = 2
SCRAPE_S = 0.5
TWO_SCRAPES_S = 2.5 * SCRAPE_S

LINK_LIFE_S = 15
SLOW_S = 2.7
"""Over the 2.5 s of the goal, under the time that the gateway gives the cloud."""

ACCOUNT: dict[str, Any] = {
    "budget": {
        "console": {"requests": 40, "per_s": 1, "burst": 20},
        "iam": {"requests": 50, "per_s": 1, "burst": 5},
        "wait_max_s": 2,  # long enough for scrapes to see who waits
    },
    "breaker": {"calls_min": 10, "open_s": 0.2, "open_max_s": 0.3},
    "inventory": {"poll_s": 1, "age_max_s": 10},
    "links": {"lifetime_s": LINK_LIFE_S, "min_remaining_s": 1, "renew_before_s": LINK_LIFE_S / 2},
}
CHANGE: dict[str, Any] = {
    "audit": {"stream": True, "on_unavailable": "allow"},
    "metrics": {"teams": {"operators": "datacenter"}},
    "cache": {"tokens_max": 20},
    "log": {"hit_sample_ratio": 0.5},
}
ADMIN_API: dict[str, Any] = {"audience": "console-gateway-admin", "groups": ["console-admins"]}
KEYS_AGE_MAX_S = 12
IAM_TOKEN_LIFE_S = 900
"""Less than the half hour in which a token that is not renewed is an alarm."""


@dataclass
class Scene:
    stack: Stack
    replica: RunningGateway
    prometheus: Prometheus
    began: float = field(default_factory=time.time)
    event_began: dict[Callable[["Scene"], None], float] = field(default_factory=dict)

    @property
    def cloud(self) -> CloudProcess:
        return self.stack.cloud

    def let_happen(self, event: Callable[["Scene"], None]) -> None:
        self.event_began[event] = time.time()
        event(self)

    def counted(self, line: str) -> float:
        """Return the value of one series, over both workers."""
        gateway = self.stack.gateway
        ports = range(gateway.admin_port, gateway.admin_port + WORKERS)
        return sum(gateway.metric(line, port=port) for port in ports)

    def fetch(
        self, count: int, token: str | None, server: int = 0, **headers: str
    ) -> list[Response]:
        """Ask for so many consoles, eight at a time."""
        name = self.cloud.servers[server]
        with ThreadPoolExecutor(8) as pool:
            return list(
                pool.map(lambda _: self.stack.gateway.console(token, name, **headers), range(count))
            )

    def fresh(self, count: int, token: str | None = None) -> list[Response]:
        """Ask past every memory, each as somebody else: nobody shares what is in flight."""
        tokens = [token or self.cloud.token(f"person-{i}") for i in range(count)]
        with ThreadPoolExecutor(count) as pool:
            return list(
                pool.map(
                    lambda one: self.stack.gateway.console(one, Cache_Control="no-cache"), tokens
                )
            )

    def be_scraped(self) -> None:
        time.sleep(TWO_SCRAPES_S)


def started(scene: Scene) -> None:
    """Both are up: a certificate that ends tomorrow, a service token that lasts a few minutes."""
    assert scene.stack.gateway.ready() == 200


def links(scene: Scene) -> None:
    """Links from the cloud, from Redis and from memory, and somebody without a token."""
    token = scene.cloud.token()
    scene.fetch(1, scene.cloud.token("renata"))
    for _ in range(2):
        for server in range(3):
            assert {one.status for one in scene.fetch(8, token, server)} == {200}
        scene.fetch(2, None)
        scene.fetch(2, scene.cloud.token("otto", groups=[]))
        scene.be_scraped()


def keys_away(scene: Scene) -> None:
    """Keep the issuer away during what follows."""
    scene.cloud.fail(scene.cloud.issuer, "reset", path="/.well-known")


def keys_back(scene: Scene) -> None:
    """Let the issuer answer again when its keys are nearly too old."""
    gateway = scene.stack.gateway
    too_old = 0.8 * KEYS_AGE_MAX_S
    eventually(lambda: gateway.metric('gateway_keys_age_seconds{issuer="corp"}') > too_old)
    scene.be_scraped()
    scene.cloud.heal()


def refusals(scene: Scene) -> None:
    """Expired, forged, and without a right."""
    cloud = scene.cloud
    scene.fetch(240, cloud.token(life_s=-600))
    scene.fetch(15, cloud.token(forged="signature"))
    scene.fetch(3, cloud.token(forged="none"))
    scene.fetch(130, cloud.token("otto", groups=[]))
    scene.be_scraped()


def throttled(scene: Scene) -> None:
    """Let the cloud say 429 to several calls at once; during the pause calls are refused."""
    scene.cloud.fail(
        scene.cloud.upstream,
        "throttled",
        path="remote-console",
        delay_s=0.3,
        times=8,
        headers={"Retry-After": "3"},
    )
    scene.fresh(12)
    refused = scene.fresh(24)
    assert {one.error_code for one in refused} == {"CGW.4291"}
    scene.be_scraped()
    scene.cloud.heal()
    eventually(lambda: scene.fresh(1)[0].status == 200)


def renewed(scene: Scene) -> None:
    """Ask for a link near its end, until it was fetched anew for the next who asks."""
    token = scene.cloud.token("renata")
    ok = 'gateway_link_renewals_total{account="prod",outcome="ok"}'
    eventually(lambda: scene.fetch(8, token) and scene.counted(ok) > 0)


def cloud_slow(scene: Scene) -> None:
    """Let one link take longer than is good."""
    scene.cloud.fail(scene.cloud.upstream, "slow", path="remote-console", delay_s=SLOW_S, times=1)
    assert [one.status for one in scene.fresh(1)] == [200]


def cloud_broken(scene: Scene) -> None:
    """Break every connection to the cloud until the breaker has opened again and again."""
    scene.cloud.fail(scene.cloud.upstream, "reset")
    until = time.monotonic() + 5
    while time.monotonic() < until:
        scene.fresh(8)
    scene.be_scraped()
    scene.cloud.heal()
    eventually(lambda: scene.fresh(1)[0].status == 200)


def cloud_odd(scene: Scene) -> None:
    """Let the cloud refuse the account itself."""
    body = json.dumps({"error_code": "iMetal.0004", "error_msg": "x"})
    scene.cloud.fail(scene.cloud.upstream, "answer", path="remote-console", status=403, body=body)
    scene.fresh(2)
    scene.be_scraped()
    scene.fresh(8)
    scene.be_scraped()
    scene.cloud.heal()


def redis_away(scene: Scene) -> None:
    """Let Redis hang, thrice; what is handed out meanwhile goes unrecorded."""
    token = scene.cloud.token()
    for _ in range(3):
        scene.fetch(16, token)
        scene.stack.valkey.hang()
        assert {one.status for one in scene.fetch(16, token)} == {200}
        scene.be_scraped()
        scene.stack.valkey.go_on()
        eventually(lambda: scene.stack.gateway.metric("gateway_store_available") == 1)
        scene.be_scraped()


def stalled(scene: Scene) -> None:
    """Let the workers stand still for a moment."""
    workers = [line["pid"] for line in scene.stack.gateway.log_lines("worker_started")]
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(0.6)
    for pid in workers:
        os.kill(pid, signal.SIGCONT)


def bad_policy(scene: Scene) -> None:
    gateway = scene.stack.gateway
    good = gateway.policy_file.read_text()
    gateway.write_policy({"grants": "all"})
    eventually(lambda: gateway.log_lines("policy_rejected"))
    scene.be_scraped()
    gateway.policy_file.write_text(good)


def bad_config(scene: Scene) -> None:
    gateway = scene.stack.gateway
    gateway.config["listen"]["no_such_key"] = 1
    gateway.write_config()
    eventually(lambda: gateway.log_lines("config_rejected"))
    scene.be_scraped()
    del gateway.config["listen"]["no_such_key"]
    gateway.write_config()


def rules_by_tags(scene: Scene) -> None:
    """Need to know the servers' tags, which the cloud does not tell."""
    gateway = scene.stack.gateway
    scene.cloud.fail(scene.cloud.upstream, "reset", path="/physicalservers?")
    grants = [{"role": "op", "to": {"groups": ["operators"]}, "on": {"tags": {"env": "prod"}}}]
    loaded = len(gateway.log_lines("policy_loaded"))
    gateway.write_policy({"roles": {"op": ["console:open"]}, "grants": grants})
    eventually(lambda: len(gateway.log_lines("policy_loaded")) >= loaded + WORKERS)
    scene.be_scraped()
    scene.cloud.heal()


def revoked(scene: Scene) -> None:
    """Revoke one token, which is tried again; and let somebody try who may not."""
    gateway, cloud = scene.stack.gateway, scene.cloud
    admin, nobody = (
        cloud.token("ada", groups=[group], claims={"aud": ADMIN_API["audience"]})
        for group in (*ADMIN_API["groups"], "operators")
    )
    lost = cloud.token("olga", claims={"jti": "lost"})
    revocation = json.dumps({"issuer": "corp", "token_id": "lost"})

    def revoke(token: str) -> Response:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        return fetch(gateway.admin, "POST", "/admin/revocations", headers, revocation)

    eventually(lambda: revoke(admin).status == 200)  # its issuer was away until now
    assert {revoke(nobody).status for _ in range(6)} == {403}
    eventually(lambda: {one.status for one in scene.fetch(8, lost)} == {401})
    scene.be_scraped()


def worker_killed(scene: Scene) -> None:
    gateway = scene.stack.gateway
    os.kill(gateway.log_lines("worker_started")[-1]["pid"], signal.SIGKILL)
    eventually(lambda: len(gateway.log_lines("worker_started")) > WORKERS)
    eventually(lambda: gateway.ready() == 200)
    scene.be_scraped()


def login_refused(scene: Scene) -> None:
    """IAM is away at first, and then refuses us: nothing is logged in after it."""
    cloud = scene.cloud
    cloud.fail(cloud.iam, "reset")
    cloud.revoke_service_tokens()
    scene.fresh(1)
    scene.be_scraped()
    cloud.heal()
    body = json.dumps({"error": {"code": 401, "message": "x", "title": "Unauthorized"}})
    cloud.fail(cloud.iam, "answer", status=401, body=body)
    eventually(
        lambda: scene.fresh(1) and scene.stack.gateway.log_lines("service_login_refused"),
    )
    scene.be_scraped()


def all_gone(scene: Scene) -> None:
    scene.stack.gateway.stop()
    scene.replica.stop()
    scene.prometheus.wait_for('sum(up{job="console-gateway"}) == 0')
    time.sleep(SCRAPE_S)  # a query's last step may lie so long ago


EVENTS: tuple[Callable[[Scene], None], ...] = (
    started,
    links,
    refusals,
    throttled,
    renewed,
    cloud_broken,
    cloud_odd,
    keys_away,
    cloud_slow,
    redis_away,
    stalled,
    bad_policy,
    bad_config,
    keys_back,
    revoked,
    worker_killed,
    rules_by_tags,
    login_refused,
    all_gone,
)

FIRES: dict[str, Callable[[Scene], None]] = {
    "ConsoleGatewayLinkErrorsFastBurn": throttled,
    "ConsoleGatewayLinkErrorsSlowBurn": throttled,
    "ConsoleGatewayDown": all_gone,
    "ConsoleGatewayTargetDown": stalled,
    "ConsoleGatewayWorkerDied": worker_killed,
    "ConsoleGatewayCertificateExpiresSoon": started,
    "ConsoleGatewayCertificateExpiresVerySoon": started,
    "ConsoleGatewayConfigRejected": bad_config,
    "ConsoleGatewayUpstreamThrottled": throttled,
    "ConsoleGatewayUpstreamFailing": cloud_broken,
    "ConsoleGatewayBreakerOpen": cloud_broken,
    "ConsoleGatewayBreakerFlapping": cloud_broken,
    "ConsoleGatewayBudgetExhausted": throttled,
    "ConsoleGatewayServiceLoginRejected": login_refused,
    "ConsoleGatewayServiceTokenNotRenewed": started,
    "ConsoleGatewayUpstreamRejectsAccount": cloud_odd,
    "ConsoleGatewayRedisUnavailable": redis_away,
    "ConsoleGatewayRedisFlapping": redis_away,
    "ConsoleGatewayKeysStale": keys_away,
    "ConsoleGatewayKeysNearlyExpired": keys_away,
    "ConsoleGatewayMostTokensRejected": refusals,
    "ConsoleGatewayPolicyRejected": bad_policy,
    "ConsoleGatewayPoliciesDiffer": rules_by_tags,
    "ConsoleGatewayInventoryStale": rules_by_tags,
    "ConsoleGatewayInventoryExpired": rules_by_tags,
    "ConsoleGatewayAuditNotDurable": redis_away,
    "ConsoleGatewayAuditRecordsMissing": redis_away,
    "ConsoleGatewayForgedTokens": refusals,
    "ConsoleGatewayManyDenials": refusals,
    "ConsoleGatewayRevokedTokens": revoked,
    "ConsoleGatewayAdminAccessDenied": revoked,
}
"""The event after which the alert's expression, thresholds and all, holds; and not before."""

READS_ONLY: dict[str, str] = {
    "ConsoleGatewayLinkLatencyFastBurn": "most of an hour's links would have to be slow",
    "ConsoleGatewayLinkLatencySlowBurn": "as above",
    "ConsoleGatewayEventLoopLag": "it would slow the other tests, too",
    "ConsoleGatewayMemoryHigh": "as above",
    "ConsoleGatewayFileDescriptorsNearLimit": "as above",
    "ConsoleGatewayQueueLong": "a queue of 10 s takes 10 s",
    "ConsoleGatewayServiceLoginFailing": "five tries, backing off, take half a minute",
    "ConsoleGatewayRedisUnavailableToSome": "both workers are of one machine",
    "ConsoleGatewayRedisSlow": "between 50 and 100 ms lies chance",
    "ConsoleGatewayBudgetLocalFallback": "a Redis that answers PING only",
    "ConsoleGatewayOverridesNotLoaded": "it takes a start without Redis",
    "ConsoleGatewayOverrideFailed": "it is a bug where it happens",
    "ConsoleGatewayAuditLag": "it takes a disk that hangs",
    "ConsoleGatewayAuditSlow": "as above",
    "ConsoleGatewayAuditDiskNearlyFull": "it takes a disk of its own",
    "ConsoleGatewayReplayedSignatures": "it takes a client that signs",
}
"""Why no event is driven so far that the alert holds; what it reads is there."""

NEVER: dict[str, str] = {
    "ConsoleGatewayTaskDied": "it is a bug where it happens",
    "ConsoleGatewayInternalErrors": "it is a bug where it happens",
}
"""Why what the alert reads has no series in this run."""

ONLY_ZERO: dict[str, str] = {
    "job_instance:gateway_store_slow:ratio_rate5m": READS_ONLY["ConsoleGatewayRedisSlow"],
    "gateway_audit_lag_seconds": "a record waits for less than a scrape takes, where no disk hangs",
    "job_instance:gateway_audit_slow:ratio_rate5m": "it takes a disk that is slow, not away",
    "gateway_budget_slots_lost_total": "a process must stand still between a grant and its slot",
    "gateway_log_lines_dropped_total": "it takes a reader of stdout that stalls",
    "gateway_task_restarts_total": NEVER["ConsoleGatewayTaskDied"],
}
"""Why a figure stays zero here; whatever asks for it is shown to return that."""


def as_often_as_the_rest(file: Path, directory: Path) -> Path:
    """Copy rules so that those of long windows are not evaluated once in a minute only."""
    groups = yaml.safe_load(file.read_text())["groups"]
    copied = [{"name": group["name"], "rules": group["rules"]} for group in groups]
    copy = directory / file.name
    copy.write_text(yaml.safe_dump({"groups": copied}))
    return copy


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Let everything happen once."""
    cloud = CloudProcess("--rate", "1000", "--burst", "1000", servers=12)
    settings = json.dumps({"token_life_s": IAM_TOKEN_LIFE_S})
    headers = {"Content-Type": "application/json"}
    assert fetch(cloud.iam, "POST", "/_box/settings", headers, settings).status == 200
    stack = Stack(
        cloud, workers=WORKERS, account=ACCOUNT, change=CHANGE, admin_api=ADMIN_API, start=False
    )
    gateway = stack.gateway
    gateway.config["issuers"][0] |= {"keys_refresh_s": 1, "keys_age_max_s": KEYS_AGE_MAX_S}
    gateway.write_config()
    replica = stack.replica(start=False)
    certificate, key = write_certificate(replica.directory, "127.0.0.1")
    tls = {"certificate_file": str(certificate), "key_file": str(key)}
    replica.config["listen"]["tls"] = tls
    replica.config["audit"] = {"directory": "audit"}
    replica.write_config()
    ports = [*range(gateway.admin_port, gateway.admin_port + WORKERS), replica.admin_port]
    targets = [f"127.0.0.1:{port}" for port in ports]
    directory = tmp_path_factory.mktemp("rules")
    rule_files = [
        as_often_as_the_rest(DEPLOY / name, directory) for name in ("rules.yml", "alerts.yml")
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
        prometheus.start().wait_for_scrapes()
        running = Scene(stack, replica, prometheus)
        for event in EVENTS:
            running.let_happen(event)
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
    """Return those that never told anything, or only zero without a reason."""
    return [
        f"{one.where}: {one.expression}"
        for one in watched
        if not returned_nonzero(scene.prometheus, one.expression, since=scene.began)
        and not (
            any(name in one.expression for name in ONLY_ZERO)
            and samples(scene.prometheus, one.expression, since=scene.began)
        )
    ]


def test_every_recording_rule_has_values(scene: Scene) -> None:
    assert silent(scene, [WatchedExpression(rule.where, rule.where) for rule in RULES]) == []


def test_every_panel_has_data(scene: Scene) -> None:
    # Nothing is a day old here.
    assert silent(scene, [one for one in PANELS if "offset 1d" not in one.expression]) == []


def test_every_series_of_alerts_exists(scene: Scene) -> None:
    absent = {
        (one.where, str(selector))
        for one in ALERTS
        if one.where not in NEVER
        for selector in one.selectors
        if not samples(scene.prometheus, str(selector), since=scene.began)
    }
    assert absent == set()


def test_provoked_alerts_fire_only_after_their_event(
    scene: Scene,
) -> None:
    wrong = []
    for one in ALERTS:
        if one.where not in FIRES:
            continue
        event = FIRES[one.where]
        # A sample bears the time at which its scrape began, and the page is made after that.
        began = scene.event_began[event] - SCRAPE_S
        held = [at for at, _ in samples(scene.prometheus, one.expression, since=scene.began)]
        if not held or max(held) < began:
            wrong.append(f"{one.where} did not hold after {event.__name__}")
        elif min(held) < began:
            wrong.append(f"{one.where} held {began - min(held):.1f} s before {event.__name__}")
    assert wrong == []
