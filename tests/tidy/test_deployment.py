"""All deployments agree on configs, ports, probes, timeouts and monitoring."""

import json
import re
from pathlib import Path

import pytest
import yaml

from gateway.commands.parser import main
from gateway.config.located_yaml import load
from gateway.config.policy_parser import parse_policy
from gateway.process.supervisor import _SESSIONS_CLOSED_S, _STOP_GRACE_S
from tests.support.compose import REPLICAS, ROOT
from tests.support.deployment import (
    CONFIGS,
    DEPLOY,
    manifest,
    manifests,
    read_config,
    services,
    unit,
)
from tests.support.image import image_facts
from tests.support.stack import Stack, fetch


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_and_policies_are_valid(name: str, tmp_path: Path) -> None:
    settings = read_config(name, tmp_path)
    policy = CONFIGS[name] / "policy.yaml"
    if name == "systemd":  # uses the policy in config/
        policy = CONFIGS["config"] / "policy.yaml"
    rules = parse_policy(
        load(policy),
        issuers=[issuer.name for issuer in settings.issuers],
        projects=[project for account in settings.accounts for project in account.projects],
        version="1",
    )
    assert rules.size > 0


@pytest.mark.parametrize("name", CONFIGS)
def test_check_strict_is_clean(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read_config(name, tmp_path)
    policy = (CONFIGS["config"] if name == "systemd" else CONFIGS[name]) / "policy.yaml"
    (tmp_path / "policy.yaml").write_text(policy.read_text())
    config = tmp_path / "gateway.yaml"
    assert main(["check", "--strict", "--config", str(config)]) == 0, capsys.readouterr()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["store-cluster.yaml", "store-sentinel.yaml"])
def test_check_strict_is_clean_with_each_store(name: str, tmp_path: Path) -> None:
    read_config("config", tmp_path)
    config = tmp_path / "gateway.yaml"
    store = (CONFIGS["config"] / name).read_text().replace("secrets/", f"{tmp_path}/")
    whole = yaml.safe_load(config.read_text()) | yaml.safe_load(store)
    config.write_text(yaml.safe_dump(whole))
    (tmp_path / "policy.yaml").write_text((CONFIGS["config"] / "policy.yaml").read_text())
    assert main(["check", "--strict", "--config", str(config)]) == 0


@pytest.mark.parametrize("name", ["compose", "kubernetes", "kubernetes example"])
def test_ports_match_the_config(name: str, tmp_path: Path) -> None:
    settings = read_config(name, tmp_path)
    public, admin = settings.listen.port, settings.admin.port
    assert image_facts().ports == {public, admin}
    assert f"'127.0.0.1', {admin}" in image_facts().health[-1]
    (container,) = manifest("StatefulSet")["spec"]["template"]["spec"]["containers"]
    named = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert named == {"http": public, "admin": admin}
    for service in manifests("Service"):
        assert all(port["targetPort"] in named for port in service["spec"]["ports"])
    admitted = {
        one["metadata"]["name"]: [
            port["port"] for rule in one["spec"]["ingress"] for port in rule["ports"]
        ]
        for one in manifests("NetworkPolicy")
    }
    assert admitted == {"console-gateway": [admin], "console-gateway-from-proxies": [public]}


def probed_paths() -> set[str]:
    (container,) = manifest("StatefulSet")["spec"]["template"]["spec"]["containers"]
    probes = [container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")]
    (endpoint,) = manifest("ServiceMonitor")["spec"]["endpoints"]
    paths = {probe["path"] for probe in probes} | {endpoint["path"]}
    assert {probe["port"] for probe in probes} | {endpoint["port"]} == {"admin"}
    assert {probe["scheme"] for probe in probes} == {"HTTPS"}
    assert endpoint["scheme"] == "https"
    programs = [
        image_facts().health[-1],
        *(services()[one]["healthcheck"]["test"][-1] for one in REPLICAS),
    ]
    return paths | {path for one in programs for path in re.findall(r"'(/\w+)'", one)}


def test_probed_paths_exist_on_the_admin_listener(stack: Stack) -> None:
    paths = probed_paths()
    assert paths == {"/healthz", "/readyz", "/metrics"}
    for path in paths:
        assert fetch(stack.gateway.admin, "GET", path).status == 200


@pytest.mark.parametrize("name", ["compose", "kubernetes", "kubernetes example", "systemd"])
def test_stop_timeouts_exceed_the_drain_time(name: str, tmp_path: Path) -> None:
    """Also that of live consoles, so that an account can be switched without a new manifest."""
    config = read_config(name, tmp_path)
    drain_s = max(config.request.drain_s, config.console.drain_s + _SESSIONS_CLOSED_S)
    needed_s = config.request.drain_delay_s + drain_s + _STOP_GRACE_S
    pod = manifest("StatefulSet")["spec"]["template"]["spec"]
    given_s = {
        "compose": _seconds(services()["gateway-1"]["stop_grace_period"]),
        "systemd": _seconds(unit()["TimeoutStopSec"][0]),
    }.get(name, pod["terminationGracePeriodSeconds"])
    assert given_s > needed_s


def _seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def test_prometheus_scrapes_both_gateways_of_compose() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    (job,) = [one for one in config["scrape_configs"] if one["job_name"] == "console-gateway"]
    targets = {target for group in job["static_configs"] for target in group["targets"]}
    assert {f"{name}:9090" for name in REPLICAS} <= targets
    assert job.get("metrics_path", "/metrics") == "/metrics"
    for name in config["rule_files"]:
        assert list((DEPLOY / "prometheus").glob(name.removeprefix("/etc/prometheus/"))), name
    (option,) = [one for one in services()["prometheus"]["command"] if "config.file" in one]
    assert option == "--config.file=/etc/prometheus/prometheus.yml"


def test_alert_links_lead_to_grafana_of_compose() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    labels = config["global"]["external_labels"]
    assert labels["grafana"].removeprefix("http://") in services()["grafana"]["ports"][0]
    (runbook,) = (DEPLOY / "grafana" / "dashboards").glob("runbook.json")
    assert labels["runbook"] == f"{labels['grafana']}/d/{json.loads(runbook.read_text())['uid']}"


def test_grafana_finds_dashboards_and_prometheus() -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    mounted = {
        target: ROOT / source
        for source, target, _ in (one.split(":") for one in services()["grafana"]["volumes"][:2])
    }
    assert mounted["/etc/grafana/provisioning"] == provisioning
    for file in (provisioning / "dashboards").iterdir():
        for provider in yaml.safe_load(file.read_text())["providers"]:
            assert list(mounted[provider["options"]["path"]].glob("*.json"))
    for file in (provisioning / "datasources").iterdir():
        for source in yaml.safe_load(file.read_text())["datasources"]:
            assert source["url"] == "http://prometheus:9090"


def test_memory_limits_match_the_memory_alert() -> None:
    alerts = (DEPLOY / "prometheus" / "alerts.yml").read_text()
    (limit_mib,) = map(int, re.findall(r"> 0\.8 \* (\d+) \* 1024 \* 1024", alerts))
    (workers,) = map(int, re.findall(r"--workers (\d+)", unit()["ExecStart"][0]))
    assert int(unit()["MemoryHigh"][0].removesuffix("M")) > workers * limit_mib
    for name in REPLICAS:
        assert services()[name]["deploy"]["resources"]["limits"]["memory"] == f"{limit_mib}M"
    (container,) = manifest("StatefulSet")["spec"]["template"]["spec"]["containers"]
    assert "--workers" not in container["args"]
    assert container["resources"]["limits"]["memory"] == f"{limit_mib}Mi"


def test_compose_variables_are_documented() -> None:
    head, _, rest = (ROOT / "docker-compose.yml").read_text().partition("\nname:")
    named = set(re.findall(r"\$\{([A-Z_]+)", rest))
    assert named
    assert named == set(re.findall(r"[A-Z]+(?:_[A-Z]+)+", head))


@pytest.mark.parametrize(
    "guide",
    [
        "install-with-compose",
        "install-on-kubernetes",
        "install-with-systemd",
        "upgrade",
        "back-up-and-restore",
    ],
)
def test_paths_in_deployment_guides_exist(guide: str) -> None:
    text = (ROOT / "docs" / "how-to" / f"{guide}.md").read_text()
    named = set(re.findall(r"(?<![\w/.])(?:deploy|config|tests)/[\w./-]+", text))
    assert named
    for one in (path.rstrip(".") for path in named):
        # Created by the reader: secrets, and a copy of the Kubernetes example.
        if not one.startswith(("deploy/compose/secrets", "deploy/kubernetes/my-cluster")):
            assert (ROOT / one).exists(), one


def test_deployment_readme_names_existing_files() -> None:
    text = (DEPLOY / "README.md").read_text()
    rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    assert len(rows) > 5
    for one in re.findall(r"`([^`]+)`", " ".join(rows)):
        assert (DEPLOY / one).exists(), one
