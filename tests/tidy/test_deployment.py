"""What deploys the gateway is valid, and names only what is there."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from deploy.kubernetes.prometheusrule import prometheus_rule
from gateway import __version__
from gateway.config.located_yaml import load
from gateway.config.policy_parser import parse_policy
from gateway.config.settings import Settings, load_settings
from gateway.process.supervisor import _STOP_GRACE_S
from tests.support.compose import REPLICAS, ROOT, compose_file, make_secrets
from tests.support.image import DOCKERFILE, image_facts
from tests.support.stack import Stack, fetch
from tests.support.tls import Authority

BIN = Path(sys.executable).parent
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
UNIT = DEPLOY / "systemd" / "console-gateway.service"
CONFIGS = {
    "config": ROOT / "config",
    "compose": DEPLOY / "compose" / "gateway",
    "systemd": DEPLOY / "systemd",
    "kubernetes": KUBERNETES / "base",
    "kubernetes example": KUBERNETES / "example",
}
SECRET_DIRECTORIES = ("/run/secrets/", "/run/credentials/console-gateway.service/", "secrets/")
RECORDS_PER_S, RECORD_BYTES = 3, 700
"""What a pod's volume is reckoned for: day and night, and a link's record with some groups."""
PINNED = re.compile(r"[a-z0-9./-]+:v?\d+\.\d+\.\d+[a-z0-9.-]*")


def config_text(name: str) -> str:
    return (CONFIGS[name] / "gateway.yaml").read_text()


def named_secrets(name: str) -> set[str]:
    """Return the names of the files that a config reads its secrets from."""
    found = re.findall(r"\{file: ([^}]+)\}", config_text(name))
    assert all(one.startswith(SECRET_DIRECTORIES) for one in found), found
    return {one.rpartition("/")[2] for one in found}


def read_config(name: str, directory: Path) -> Settings:
    text = config_text(name)
    for one in SECRET_DIRECTORIES:
        text = text.replace(one, f"{directory}/")
    make_secrets(directory / "made")
    for secret in named_secrets(name):
        (directory / secret).write_bytes((directory / "made" / secret).read_bytes())
    Authority().issue("console-gateway-admin").write(directory / "tls.crt", directory / "tls.key")
    text = text.replace("/run/admin-tls/", f"{directory}/")
    file = directory / "gateway.yaml"
    file.write_text(text.replace("/var/lib/console-gateway", str(directory)))
    return load_settings(file, environ={})


@pytest.mark.parametrize("name", CONFIGS)
def test_each_config_and_its_policy_are_good(name: str, tmp_path: Path) -> None:
    settings = read_config(name, tmp_path)
    policy = CONFIGS[name] / "policy.yaml"
    if name == "systemd":  # its policy is the one in config/
        policy = CONFIGS["config"] / "policy.yaml"
    rules = parse_policy(
        load(policy),
        issuers=[issuer.name for issuer in settings.issuers],
        projects=[project for account in settings.accounts for project in account.projects],
        version="1",
    )
    assert rules.size > 0


# The image.


def test_the_dockerfile_has_nothing_to_criticize() -> None:
    subprocess.run([BIN / "hadolint", "--failure-threshold", "style", DOCKERFILE], check=True)


def test_the_image_installs_from_the_lock_with_hashes() -> None:
    text = DOCKERFILE.read_text()
    assert re.search(r"install [^&]*--require-hashes[^&]*--requirement requirements\.lock", text)
    assert text.count("FROM ${PYTHON_IMAGE}") == 2
    (base,) = re.findall(r"ARG PYTHON_IMAGE=(\S+)", text)
    assert PINNED.fullmatch(base)
    assert f"PYTHON_IMAGE:-{base}}}" in (ROOT / "docker-compose.yml").read_text()


def test_the_image_runs_what_was_tested_and_can_trace() -> None:
    def pins(lock: str) -> set[str]:
        return set(re.findall(r"^\S+==\S+", (ROOT / lock).read_text(), re.MULTILINE))

    deployed = pins("deploy/requirements.lock")
    assert pins("requirements.lock") <= deployed <= pins("requirements-dev.lock")
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for one in extra["otel"]:
        assert any(pin.startswith(one.partition(">=")[0] + "==") for pin in deployed), one


def test_one_version_is_deployed() -> None:
    assert f"ARG VERSION={__version__}\n" in DOCKERFILE.read_text()
    images = {one["image"] for one in own_services().values()}
    assert images == {f"console-gateway:{__version__}"}
    (image,) = yaml.safe_load((KUBERNETES / "example" / "kustomization.yaml").read_text())["images"]
    assert image["newTag"] == __version__


def test_the_container_is_the_same_user_everywhere() -> None:
    user = image_facts().user
    assert re.fullmatch(r"(\d{4,}):\1", user)
    assert {one["user"] for one in own_services().values()} == {user}
    pod = manifest("StatefulSet")["spec"]["template"]["spec"]["securityContext"]
    assert f"{pod['runAsUser']}:{pod['runAsGroup']}" == user
    assert pod["fsGroup"] == pod["runAsGroup"]


# docker-compose.yml.


def services() -> dict[str, Any]:
    found: dict[str, Any] = compose_file()["services"]
    return found


def own_services() -> dict[str, Any]:
    return {name: one for name, one in services().items() if "console-gateway" in one["image"]}


def test_one_service_builds_the_image_and_nobody_pulls_it() -> None:
    """Two that build one tag fail beside each other, and no registry has it."""
    assert [name for name, one in own_services().items() if "build" in one] == ["gateway-1"]
    policies = {name: one["pull_policy"] for name, one in own_services().items()}
    assert policies.pop("gateway-1") == "build"
    assert set(policies.values()) == {"never"}


def test_the_compose_file_fits_the_specification() -> None:
    vendored = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    jsonschema.validate(compose_file(), json.loads(vendored.read_text()))


@pytest.mark.parametrize("name", services())
def test_each_service_is_pinned_and_confined(name: str) -> None:
    service = services()[name]
    assert PINNED.fullmatch(re.sub(r"^\$\{[A-Z_]+:-(.+)\}$", r"\1", service["image"]))
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert int(service["user"].partition(":")[0]) > 0
    assert {"cpus", "memory", "pids"} <= service["deploy"]["resources"]["limits"].keys()
    assert service["healthcheck"].get("test") or service["healthcheck"] == {"disable": True}
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    assert "privileged" not in service


def test_what_the_compose_file_mounts_is_there() -> None:
    named = compose_file()
    for service in services().values():
        for volume in service.get("volumes", ()):
            source, target, *_ = re.sub(r"\$\{[A-Z_]+:-([^}]+)\}", r"\1", volume).split(":")
            assert target.startswith("/")
            if not source.startswith("./"):
                assert source in named["volumes"]
            else:
                assert (ROOT / source).is_dir(), source
        assert set(service.get("secrets", ())) <= set(named["secrets"])
        assert set(service["networks"]) <= set(named["networks"])


def test_valkey_of_the_compose_file_keeps_what_it_was_told() -> None:
    command = services()["valkey"]["command"]
    said = dict(zip(command[1::2], command[2::2], strict=True))
    assert said["--maxmemory-policy"] == "noeviction"
    assert said["--appendonly"] == "yes"


def test_each_replica_has_an_audit_volume_of_its_own(tmp_path: Path) -> None:
    volumes = [volume for name in REPLICAS for volume in services()[name]["volumes"]]
    sources = [
        one.partition(":")[0] for one in volumes if one.endswith(":/var/lib/console-gateway")
    ]
    assert len(set(sources)) == len(REPLICAS)
    assert "directory: /var/lib/console-gateway" in config_text("compose")
    assert read_config("compose", tmp_path).store.processes_max >= len(REPLICAS)


def test_make_compose_secrets_makes_each_secret_once(tmp_path: Path) -> None:
    directory = tmp_path / "secrets"
    make_secrets(directory)
    made = {file.name: file.read_bytes() for file in directory.iterdir()}
    named = compose_file()["secrets"]
    assert {name: Path(one["file"]).name for name, one in named.items()} == {n: n for n in made}
    assert {Path(one["file"]).parent for one in named.values()} == {Path("deploy/compose/secrets")}
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in directory.iterdir()} == {0o644}
    make_secrets(directory)
    assert {file.name: file.read_bytes() for file in directory.iterdir()} == made
    assert named_secrets("compose") <= set(services()["gateway-1"]["secrets"]) <= set(made)
    ignored = subprocess.run(
        ["git", "check-ignore", "deploy/compose/secrets/seal-key"], check=False, cwd=ROOT
    )
    assert ignored.returncode == 0


@pytest.mark.parametrize(
    ("name", "user"), [("redis-password", "gateway"), ("redis-operator-password", "operator")]
)
def test_a_password_taken_away_is_made_anew_with_what_depends_on_it(
    name: str, user: str, tmp_path: Path
) -> None:
    make_secrets(tmp_path)
    users = tmp_path / "valkey-users"
    before = users.stat().st_ino
    users.chmod(0o444)  # as earlier versions made it
    with users.open() as held:  # by a container, so that its number is not used again
        (tmp_path / name).unlink()
        make_secrets(tmp_path)
        assert users.stat().st_ino != before
        assert users.read_text() != held.read()
    password = (tmp_path / name).read_text().strip()
    assert f"user {user} on #{hashlib.sha256(password.encode()).hexdigest()} " in users.read_text()


def test_the_runbook_s_way_to_redis_is_there_in_the_compose_file(tmp_path: Path) -> None:
    (told,) = re.findall(r"`docker compose exec (\w+) (.*)`", (DEPLOY / "runbook.md").read_text())
    service, command = told
    (secret,) = re.findall(r"/run/secrets/([\w-]+)", command)
    assert secret in services()[service]["secrets"]
    make_secrets(tmp_path)
    (user,) = re.findall(r"--user (\w+)", command)
    assert f"user {user} on #" in (tmp_path / "valkey-users").read_text()


def test_no_admin_port_is_published() -> None:
    for name in REPLICAS:
        assert {one.rpartition(":")[2] for one in services()[name]["ports"]} == {"8080"}


# Ports, paths and times.


@pytest.mark.parametrize("name", ["compose", "kubernetes", "kubernetes example"])
def test_ports_are_those_of_the_config(name: str, tmp_path: Path) -> None:
    settings = read_config(name, tmp_path)
    public, admin = settings.listen.port, settings.admin.port
    assert image_facts().ports == {public, admin}
    assert f"'127.0.0.1', {admin}" in image_facts().health[-1]
    (container,) = manifest("StatefulSet")["spec"]["template"]["spec"]["containers"]
    named = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert named == {"http": public, "admin": admin}
    for service in manifests("Service"):
        assert all(port["targetPort"] in named for port in service["spec"]["ports"])
    ingress = manifest("NetworkPolicy")["spec"]["ingress"]
    assert [[one["port"] for one in rule["ports"]] for rule in ingress] == [[public], [admin]]


def asked_paths() -> set[str]:
    (container,) = manifest("StatefulSet")["spec"]["template"]["spec"]["containers"]
    probes = [container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")]
    (endpoint,) = manifest("ServiceMonitor")["spec"]["endpoints"]
    asked = {probe["path"] for probe in probes} | {endpoint["path"]}
    assert {probe["port"] for probe in probes} | {endpoint["port"]} == {"admin"}
    assert {probe["scheme"] for probe in probes} == {"HTTPS"}
    assert endpoint["scheme"] == "https"
    programs = [
        image_facts().health[-1],
        *(services()[one]["healthcheck"]["test"][-1] for one in REPLICAS),
    ]
    return asked | {path for one in programs for path in re.findall(r"'(/\w+)'", one)}


def test_probes_ask_for_paths_of_the_admin_listener(stack: Stack) -> None:
    paths = asked_paths()
    assert paths == {"/healthz", "/readyz", "/metrics"}
    for path in paths:
        assert fetch(stack.gateway.admin, "GET", path).status == 200


@pytest.mark.parametrize("name", ["compose", "kubernetes", "kubernetes example", "systemd"])
def test_nobody_is_killed_while_draining(name: str, tmp_path: Path) -> None:
    request = read_config(name, tmp_path).request
    delay_s = getattr(request, "drain_delay_s", 0.0)
    needed_s = delay_s + request.drain_s + _STOP_GRACE_S
    pod = manifest("StatefulSet")["spec"]["template"]["spec"]
    given_s = {
        "compose": _seconds(services()["gateway-1"]["stop_grace_period"]),
        "systemd": _seconds(unit()["TimeoutStopSec"][0]),
    }.get(name, pod["terminationGracePeriodSeconds"])
    assert given_s > needed_s


def _seconds(text: str) -> float:
    return float(text.removesuffix("s"))


# Kubernetes.


@cache
def rendered(name: str) -> tuple[dict[str, Any], ...]:
    built = subprocess.run(
        [BIN / "kubectl", "kustomize", KUBERNETES / name], check=True, capture_output=True
    )
    return tuple(yaml.safe_load_all(built.stdout))


def manifests(kind: str) -> Iterator[dict[str, Any]]:
    return (one for one in rendered("example") if one["kind"] == kind)


def manifest(kind: str) -> dict[str, Any]:
    (found,) = manifests(kind)
    return found


@pytest.mark.parametrize("name", ["base", "example"])
def test_manifests_fit_the_schemas_of_kubernetes(name: str) -> None:
    for one in rendered(name):
        if not one["apiVersion"].startswith("monitoring.coreos.com/"):
            kubernetes_validate.validate(one, "1.37", strict=True)


def test_the_pod_fits_the_restricted_profile() -> None:
    pod = manifest("StatefulSet")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert {next(iter(volume.keys() - {"name"})) for volume in pod["volumes"]} <= {
        "projected",
        "secret",
        "emptyDir",
    }
    assert PINNED.fullmatch(container["image"])
    enforced = manifest("Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
    assert enforced == "restricted"


def test_every_selector_finds_the_pod_and_no_other() -> None:
    pods = manifest("StatefulSet")
    labels = pods["spec"]["template"]["metadata"]["labels"]
    wanted = {"app.kubernetes.io/name": "console-gateway"}
    assert wanted.items() <= labels.items()
    assert pods["spec"]["selector"]["matchLabels"] == wanted
    assert manifest("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == wanted
    assert manifest("NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == wanted
    assert all(service["spec"]["selector"] == wanted for service in manifests("Service"))
    for spread in pods["spec"]["template"]["spec"]["topologySpreadConstraints"]:
        assert spread["labelSelector"]["matchLabels"] == wanted
    scaled = manifest("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert (scaled["kind"], scaled["name"]) == ("StatefulSet", pods["metadata"]["name"])
    account = pods["spec"]["template"]["spec"]["serviceAccountName"]
    assert account == manifest("ServiceAccount")["metadata"]["name"]


def test_prometheus_finds_the_admin_service_under_the_job_of_the_dashboards() -> None:
    monitor = manifest("ServiceMonitor")["spec"]
    wanted = monitor["selector"]["matchLabels"]
    (found,) = [
        one for one in manifests("Service") if wanted.items() <= one["metadata"]["labels"].items()
    ]
    assert found["metadata"]["labels"][monitor["jobLabel"]] == "console-gateway"
    (endpoint,) = monitor["endpoints"]
    assert endpoint["port"] in {port["name"] for port in found["spec"]["ports"]}


def test_the_prometheus_rule_is_what_deploy_prometheus_says() -> None:
    stored = yaml.safe_load((KUBERNETES / "monitoring" / "prometheusrule.yaml").read_text())
    assert stored == prometheus_rule(), "run deploy/kubernetes/prometheusrule.py"


def test_a_changed_policy_reaches_running_pods_and_a_changed_config_rolls_them() -> None:
    pod = manifest("StatefulSet")["spec"]["template"]["spec"]
    volumes = {one["name"]: one for one in pod["volumes"]}
    mounts = {one["name"]: one for one in pod["containers"][0]["volumeMounts"]}
    maps = {one["metadata"]["name"]: one["data"] for one in manifests("ConfigMap")}
    sources = [one["configMap"]["name"] for one in volumes["config"]["projected"]["sources"]]
    assert {key for name in sources for key in maps[name]} == {"gateway.yaml", "policy.yaml"}
    assert "policy.yaml" in maps["console-gateway-policy"]
    assert "console-gateway-config" not in maps
    assert "subPath" not in mounts["config"]
    config = f"{mounts['config']['mountPath']}/gateway.yaml"
    assert pod["containers"][0]["args"] == image_facts().command == ["serve", "--config", config]
    assert maps[sources[0]]["gateway.yaml"] == config_text("kubernetes example")


@pytest.mark.parametrize("name", ["kubernetes", "kubernetes example"])
def test_the_secret_has_what_the_config_reads(name: str) -> None:
    told = (KUBERNETES / "example" / "kustomization.yaml").read_text()
    assert set(re.findall(r"--from-file=(\S+)", told)) == named_secrets(name)
    pod = manifest("StatefulSet")["spec"]["template"]["spec"]
    secrets = {
        one["name"]: one["secret"]["secretName"] for one in pod["volumes"] if "secret" in one
    }
    assert f"create secret generic {secrets['secrets']} " in told
    assert secrets["admin-tls"] in told
    (endpoint,) = manifest("ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["tlsConfig"]["ca"]["secret"]["name"] == secrets["admin-tls"]
    mounts = {one["name"]: one["mountPath"] for one in pod["containers"][0]["volumeMounts"]}
    tls = yaml.safe_load(config_text(name))["admin"]["tls"]
    assert {file.rpartition("/")[0] for file in tls.values()} == {mounts["admin-tls"]}
    assert not list(manifests("Secret"))


@pytest.mark.parametrize("name", ["kubernetes", "kubernetes example"])
def test_the_fleet_is_never_larger_than_the_budget_reckons(name: str, tmp_path: Path) -> None:
    most = manifest("HorizontalPodAutoscaler")["spec"]["maxReplicas"]  # a rollout adds none
    assert read_config(name, tmp_path).store.processes_max >= most


def test_the_audit_trail_outlives_its_pod_on_a_volume_of_its_own() -> None:
    spec = manifest("StatefulSet")["spec"]
    (claim,) = spec["volumeClaimTemplates"]
    assert set(spec["persistentVolumeClaimRetentionPolicy"].values()) == {"Retain"}
    mounts = spec["template"]["spec"]["containers"][0]["volumeMounts"]
    (path,) = [one["mountPath"] for one in mounts if one["name"] == claim["metadata"]["name"]]
    for name in ("kubernetes", "kubernetes example"):
        config = yaml.safe_load(config_text(name))
        assert config["audit"]["directory"] == path
        assert Path(config["overrides"]["file"]).parent == Path(path)


@pytest.mark.parametrize("name", ["kubernetes", "kubernetes example"])
def test_the_volume_holds_what_the_trail_keeps(name: str, tmp_path: Path) -> None:
    (claim,) = manifest("StatefulSet")["spec"]["volumeClaimTemplates"]
    storage = claim["spec"]["resources"]["requests"]["storage"]
    days = read_config(name, tmp_path).audit.keep_days
    assert 0 < RECORDS_PER_S * days * 86_400 * RECORD_BYTES < int(storage[:-2]) * 2**30 * 0.9


def test_a_rollout_leaves_two_to_serve() -> None:
    assert manifest("StatefulSet")["spec"]["updateStrategy"] == {"type": "RollingUpdate"}
    assert manifest("StatefulSet")["spec"]["podManagementPolicy"] == "Parallel"
    for name in ("base", "example"):
        (scaler,) = [one for one in rendered(name) if one["kind"] == "HorizontalPodAutoscaler"]
        assert scaler["spec"]["minReplicas"] >= 3
    headless = {
        one["metadata"]["name"]: one["spec"].get("clusterIP") for one in manifests("Service")
    }
    assert headless[manifest("StatefulSet")["spec"]["serviceName"]] == "None"


# systemd.


def unit(file: Path = UNIT) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in file.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and name.isalpha():
            found.setdefault(name, []).append(value)
    return found


def test_the_unit_loads_what_the_config_reads(tmp_path: Path) -> None:
    loaded = dict(one.split(":") for one in unit()["LoadCredential"])
    assert loaded == {name: f"/etc/console-gateway/secrets/{name}" for name in loaded}
    assert set(loaded) == named_secrets("systemd")
    assert "/run/credentials/console-gateway.service/" in config_text("systemd")
    assert f"directory: /var/lib/{unit()['StateDirectory'][0]}" in config_text("systemd")
    workers = int(re.findall(r"--workers (\d+)", unit()["ExecStart"][0])[0])
    assert read_config("systemd", tmp_path).store.processes_max >= workers


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_knows_every_line_of_the_unit_and_finds_it_confined(tmp_path: Path) -> None:
    file, socket = tmp_path / UNIT.name, UNIT.with_suffix(".socket")
    # What it starts must be there to be verified; the image's test starts the real thing.
    file.write_text(UNIT.read_text().replace("/opt/gateway/bin/gateway", "/bin/true"))
    said = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", file, shutil.copy(socket, tmp_path)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (said.returncode, said.stderr) == (0, "")
    said = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=15", file],
        check=False,
        capture_output=True,
        text=True,
    )
    assert said.returncode == 0, said.stdout[-500:]


def test_systemd_keeps_the_port_open_that_the_gateway_listens_on(tmp_path: Path) -> None:
    listen = read_config("systemd", tmp_path).listen
    socket = unit(UNIT.with_suffix(".socket"))
    assert socket["ListenStream"] == [f"{listen.host}:{listen.port}"]
    assert unit()["Requires"] == unit()["Also"] == ["console-gateway.socket"]


def test_the_unit_lets_the_process_see_what_its_metrics_are_made_of() -> None:
    """prometheus-client reads the boot time from /proc/stat; without it no process_* is told."""
    assert "ProcSubset" not in unit()
    assert unit()["ProtectProc"] == ["invisible"]


# Prometheus and Grafana.


def test_prometheus_of_the_compose_file_asks_both_gateways() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    (job,) = [one for one in config["scrape_configs"] if one["job_name"] == "console-gateway"]
    targets = {target for group in job["static_configs"] for target in group["targets"]}
    assert {f"{name}:9090" for name in REPLICAS} <= targets
    assert job.get("metrics_path", "/metrics") == "/metrics"
    for name in config["rule_files"]:
        assert list((DEPLOY / "prometheus").glob(name.removeprefix("/etc/prometheus/"))), name
    (option,) = [one for one in services()["prometheus"]["command"] if "config.file" in one]
    assert option == "--config.file=/etc/prometheus/prometheus.yml"


def test_links_of_alerts_lead_to_the_grafana_of_the_compose_file() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    labels = config["global"]["external_labels"]
    assert labels["grafana"].removeprefix("http://") in services()["grafana"]["ports"][0]
    (runbook,) = (DEPLOY / "grafana" / "dashboards").glob("runbook.json")
    assert labels["runbook"] == f"{labels['grafana']}/d/{json.loads(runbook.read_text())['uid']}"


def test_grafana_of_the_compose_file_finds_its_dashboards_and_prometheus() -> None:
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


def test_limits_give_each_process_the_memory_that_the_alert_supposes() -> None:
    alerts = (DEPLOY / "prometheus" / "alerts.yml").read_text()
    (supposed_mib,) = map(int, re.findall(r"> 0\.8 \* (\d+) \* 1024 \* 1024", alerts))
    (workers,) = map(int, re.findall(r"--workers (\d+)", unit()["ExecStart"][0]))
    assert int(unit()["MemoryHigh"][0].removesuffix("M")) > workers * supposed_mib
    for name in REPLICAS:
        assert services()[name]["deploy"]["resources"]["limits"]["memory"] == f"{supposed_mib}M"
    (container,) = manifest("StatefulSet")["spec"]["template"]["spec"]["containers"]
    assert "--workers" not in container["args"]
    assert container["resources"]["limits"]["memory"] == f"{supposed_mib}Mi"


# Words about it.


def test_every_variable_of_the_compose_file_is_told() -> None:
    head, _, rest = (ROOT / "docker-compose.yml").read_text().partition("\nname:")
    named = set(re.findall(r"\$\{([A-Z_]+)", rest))
    assert named
    assert named == set(re.findall(r"[A-Z]+(?:_[A-Z]+)+", head))


def test_every_path_that_the_page_names_is_there() -> None:
    text = (DEPLOY / "README.md").read_text()
    named = set(re.findall(r"(?<![\w/.])(?:deploy|config|kubernetes)/[\w./-]+", text))
    assert len(named) > 8
    for one in named:
        if not one.startswith("deploy/compose/secrets"):
            assert any((base / one).exists() for base in (ROOT, DEPLOY)), one
