"""The Kubernetes manifests are valid and consistent with config and image."""

import json
import re
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from deploy.kubernetes.prometheusrule import prometheus_rule
from tests.support.compose import ROOT
from tests.support.deployment import (
    KUBERNETES,
    PINNED,
    RECORD_BYTES,
    RECORDS_PER_S,
    config_text,
    manifest,
    manifests,
    named_secrets,
    read_config,
    rendered,
)
from tests.support.image import image_facts


@pytest.mark.parametrize("name", ["base", "example"])
def test_manifests_fit_the_kubernetes_schemas(name: str) -> None:
    for one in rendered(name):
        if not one["apiVersion"].startswith(("monitoring.coreos.com/", "gateway.networking")):
            kubernetes_validate.validate(one, "1.37", strict=True)


def test_ingress_component_fits_the_schemas() -> None:
    directory = KUBERNETES / "ingress"
    for name in yaml.safe_load((directory / "kustomization.yaml").read_text())["resources"]:
        one = yaml.safe_load((directory / name).read_text())
        kubernetes_validate.validate(one, "1.37", strict=True)


def backends() -> dict[str, list[object]]:
    """Return the service and port to which each kind of route leads."""
    (rule,) = manifest("HTTPRoute")["spec"]["rules"]
    (backend,) = rule["backendRefs"]
    ingress = yaml.safe_load((KUBERNETES / "ingress" / "ingress.yaml").read_text())
    (host,) = ingress["spec"]["rules"]
    (path,) = host["http"]["paths"]
    service = path["backend"]["service"]
    return {
        "HTTPRoute": [backend["name"], backend["port"]],
        "Ingress": [service["name"], service["port"]["name"]],
    }


def test_routes_lead_to_the_public_port_and_have_no_timeout() -> None:
    (service,) = [one for one in manifests("Service") if one["spec"].get("clusterIP") != "None"]
    (port,) = service["spec"]["ports"]
    name = service["metadata"]["name"]
    assert backends() == {"HTTPRoute": [name, port["port"]], "Ingress": [name, port["name"]]}
    (rule,) = manifest("HTTPRoute")["spec"]["rules"]
    assert set(rule["timeouts"].values()) == {"0s"}
    assert "retry" not in rule


@pytest.mark.parametrize("name", ["gateway-api", "ingress"])
def test_network_policy_admits_maintained_proxies_only(name: str) -> None:
    text = (KUBERNETES / name / "networkpolicy.yaml").read_text()
    (rule,) = yaml.safe_load(text)["spec"]["ingress"]
    namespaces = {
        source["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
        for source in rule["from"]
    }
    assert "ingress-nginx" not in namespaces
    wanted = manifest("HTTPRoute")["spec"]["parentRefs"][0]["namespace"]
    ingress = yaml.safe_load((KUBERNETES / "ingress" / "ingress.yaml").read_text())
    expected = {"gateway-api": wanted, "ingress": ingress["spec"]["ingressClassName"]}
    assert expected[name] in namespaces


def test_dashboards_are_config_maps_of_the_sidecar() -> None:
    maps = {
        one["metadata"]["name"]: one
        for one in manifests("ConfigMap")
        if one["metadata"].get("labels", {}).get("grafana_dashboard") == "1"
    }
    files = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
    assert maps.keys() == {f"console-gateway-dashboard-{file.stem}" for file in files}
    for file in files:
        one = maps[f"console-gateway-dashboard-{file.stem}"]
        assert one["data"] == {file.name: file.read_text()}
        assert one["metadata"]["annotations"]["grafana_folder"]
        assert len(json.dumps(one)) < 250_000, "`kubectl apply` accepts 256 KB"


def test_pod_fits_the_restricted_profile() -> None:
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


def test_selectors_match_only_the_pod() -> None:
    pods = manifest("StatefulSet")
    labels = pods["spec"]["template"]["metadata"]["labels"]
    wanted = {"app.kubernetes.io/name": "console-gateway"}
    assert wanted.items() <= labels.items()
    assert pods["spec"]["selector"]["matchLabels"] == wanted
    assert manifest("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == wanted
    for policy in manifests("NetworkPolicy"):
        assert policy["spec"]["podSelector"]["matchLabels"] == wanted
    assert all(service["spec"]["selector"] == wanted for service in manifests("Service"))
    for spread in pods["spec"]["template"]["spec"]["topologySpreadConstraints"]:
        assert spread["labelSelector"]["matchLabels"] == wanted
    scaled = manifest("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert (scaled["kind"], scaled["name"]) == ("StatefulSet", pods["metadata"]["name"])
    account = pods["spec"]["template"]["spec"]["serviceAccountName"]
    assert account == manifest("ServiceAccount")["metadata"]["name"]


def test_service_monitor_finds_the_admin_service() -> None:
    monitor = manifest("ServiceMonitor")["spec"]
    wanted = monitor["selector"]["matchLabels"]
    (found,) = [
        one for one in manifests("Service") if wanted.items() <= one["metadata"]["labels"].items()
    ]
    assert found["metadata"]["labels"][monitor["jobLabel"]] == "console-gateway"
    (endpoint,) = monitor["endpoints"]
    assert endpoint["port"] in {port["name"] for port in found["spec"]["ports"]}


def test_prometheus_rule_matches_the_rule_files() -> None:
    stored = yaml.safe_load((KUBERNETES / "monitoring" / "prometheusrule.yaml").read_text())
    assert stored == prometheus_rule(), "run deploy/kubernetes/prometheusrule.py"


def test_policy_is_mounted_and_config_triggers_rollout() -> None:
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
def test_documented_secrets_match_the_config(name: str) -> None:
    text = (KUBERNETES / "example" / "kustomization.yaml").read_text()
    assert set(re.findall(r"--from-file=(\S+)", text)) == named_secrets(name)
    pod = manifest("StatefulSet")["spec"]["template"]["spec"]
    secrets = {
        one["name"]: one["secret"]["secretName"] for one in pod["volumes"] if "secret" in one
    }
    assert f"create secret generic {secrets['secrets']} " in text
    assert secrets["admin-tls"] in text
    (endpoint,) = manifest("ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["tlsConfig"]["ca"]["secret"]["name"] == secrets["admin-tls"]
    mounts = {one["name"]: one["mountPath"] for one in pod["containers"][0]["volumeMounts"]}
    tls = yaml.safe_load(config_text(name))["admin"]["tls"]
    assert {file.rpartition("/")[0] for file in tls.values()} == {mounts["admin-tls"]}
    assert not list(manifests("Secret"))


@pytest.mark.parametrize("name", ["kubernetes", "kubernetes example"])
def test_processes_max_covers_the_autoscaler(name: str, tmp_path: Path) -> None:
    most = manifest("HorizontalPodAutoscaler")["spec"]["maxReplicas"]  # a rollout adds no pod
    assert read_config(name, tmp_path).store.processes_max >= most


def test_audit_volume_outlives_its_pod() -> None:
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
def test_volume_fits_the_audit_retention(name: str, tmp_path: Path) -> None:
    (claim,) = manifest("StatefulSet")["spec"]["volumeClaimTemplates"]
    storage = claim["spec"]["resources"]["requests"]["storage"]
    days = read_config(name, tmp_path).audit.keep_days
    assert 0 < RECORDS_PER_S * days * 86_400 * RECORD_BYTES < int(storage[:-2]) * 2**30 * 0.9


def test_rollout_leaves_two_pods_serving() -> None:
    assert manifest("StatefulSet")["spec"]["updateStrategy"] == {"type": "RollingUpdate"}
    assert manifest("StatefulSet")["spec"]["podManagementPolicy"] == "Parallel"
    for name in ("base", "example"):
        (scaler,) = [one for one in rendered(name) if one["kind"] == "HorizontalPodAutoscaler"]
        assert scaler["spec"]["minReplicas"] >= 3
    headless = {
        one["metadata"]["name"]: one["spec"].get("clusterIP") for one in manifests("Service")
    }
    assert headless[manifest("StatefulSet")["spec"]["serviceName"]] == "None"
