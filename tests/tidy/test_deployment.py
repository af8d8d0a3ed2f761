"""What deploys the gateway is valid, and names only what is there."""

import json
import re
import shutil
import subprocess
import sys
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
from gateway.located_yaml import load
from gateway.rules.policy_text import read_policy
from gateway.settings import Settings, load_settings
from gateway.supervisor import _END_LEEWAY_S
from tests.support.compose import REPLICAS, ROOT, compose_file, make_secrets
from tests.support.image import DOCKERFILE, image_facts
from tests.support.stack import Stack, ask
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
    rules = read_policy(
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
    pod = manifest("Deployment")["spec"]["template"]["spec"]["securityContext"]
    assert f"{pod['runAsUser']}:{pod['runAsGroup']}" == user
    assert pod["fsGroup"] == pod["runAsGroup"]


# docker-compose.yml.


def services() -> dict[str, Any]:
    found: dict[str, Any] = compose_file()["services"]
    return found


def own_services() -> dict[str, Any]:
    return {name: one for name, one in services().items() if "console-gateway" in one["image"]}


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
    make_secrets(directory)
    assert {file.name: file.read_bytes() for file in directory.iterdir()} == made
    assert named_secrets("compose") <= set(services()["gateway-1"]["secrets"]) <= set(made)
    ignored = subprocess.run(
        ["git", "check-ignore", "deploy/compose/secrets/seal-key"], check=False, cwd=ROOT
    )
    assert ignored.returncode == 0


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
    (container,) = manifest("Deployment")["spec"]["template"]["spec"]["containers"]
    named = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert named == {"http": public, "admin": admin}
    for service in manifests("Service"):
        assert all(port["targetPort"] in named for port in service["spec"]["ports"])
    ingress = manifest("NetworkPolicy")["spec"]["ingress"]
    assert [[one["port"] for one in rule["ports"]] for rule in ingress] == [[public], [admin]]


def asked_paths() -> set[str]:
    (container,) = manifest("Deployment")["spec"]["template"]["spec"]["containers"]
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
        assert ask(stack.gateway.admin, "GET", path).status == 200


@pytest.mark.parametrize("name", ["compose", "kubernetes", "kubernetes example", "systemd"])
def test_nobody_is_killed_while_draining(name: str, tmp_path: Path) -> None:
    request = read_config(name, tmp_path).request
    delay_s = getattr(request, "drain_delay_s", 0.0)
    needed_s = delay_s + request.drain_s + _END_LEEWAY_S
    pod = manifest("Deployment")["spec"]["template"]["spec"]
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
    pod = manifest("Deployment")["spec"]["template"]["spec"]
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
    deployment = manifest("Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    wanted = {"app.kubernetes.io/name": "console-gateway"}
    assert wanted.items() <= labels.items()
    assert deployment["spec"]["selector"]["matchLabels"] == wanted
    assert manifest("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == wanted
    assert manifest("NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == wanted
    assert all(service["spec"]["selector"] == wanted for service in manifests("Service"))
    for spread in deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]:
        assert spread["labelSelector"]["matchLabels"] == wanted
    scaled = manifest("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert (scaled["kind"], scaled["name"]) == ("Deployment", deployment["metadata"]["name"])
    account = deployment["spec"]["template"]["spec"]["serviceAccountName"]
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
    pod = manifest("Deployment")["spec"]["template"]["spec"]
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
    pod = manifest("Deployment")["spec"]["template"]["spec"]
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
    surge = manifest("Deployment")["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
    most = manifest("HorizontalPodAutoscaler")["spec"]["maxReplicas"] + surge
    assert read_config(name, tmp_path).store.processes_max >= most


def test_an_audit_trail_in_a_pod_is_kept_in_redis_too() -> None:
    for name in ("kubernetes", "kubernetes example"):
        assert yaml.safe_load(config_text(name))["audit"]["stream"] is True


# systemd.


def unit() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
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
    file = tmp_path / UNIT.name
    # What it starts must be there to be verified; the image's test starts the real thing.
    file.write_text(UNIT.read_text().replace("/opt/gateway/bin/gateway", "/bin/true"))
    said = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", file], check=False, capture_output=True, text=True
    )
    assert (said.returncode, said.stderr) == (0, "")
    said = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=15", file],
        check=False,
        capture_output=True,
        text=True,
    )
    assert said.returncode == 0, said.stdout[-500:]


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


# Words about it.


def test_every_variable_of_the_compose_file_is_told() -> None:
    head, _, rest = (ROOT / "docker-compose.yml").read_text().partition("\nname:")
    named = set(re.findall(r"\$\{([A-Z_]+)", rest))
    assert named
    assert named == set(re.findall(r"[A-Z]+_[A-Z]+", head))


def test_every_path_that_the_page_names_is_there() -> None:
    text = (DEPLOY / "README.md").read_text()
    named = set(re.findall(r"(?<![\w/.])(?:deploy|config|kubernetes)/[\w./-]+", text))
    assert len(named) > 8
    for one in named:
        if not one.startswith("deploy/compose/secrets"):
            assert any((base / one).exists() for base in (ROOT, DEPLOY)), one
