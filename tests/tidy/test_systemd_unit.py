"""The systemd unit is valid, confined and consistent with the config."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.deployment import UNIT, config_text, named_secrets, read_config, unit


def test_unit_loads_the_secrets_of_the_config(tmp_path: Path) -> None:
    loaded = dict(one.split(":") for one in unit()["LoadCredential"])
    assert loaded == {name: f"/etc/console-gateway/secrets/{name}" for name in loaded}
    assert set(loaded) == named_secrets("systemd")
    assert "/run/credentials/console-gateway.service/" in config_text("systemd")
    assert f"directory: /var/lib/{unit()['StateDirectory'][0]}" in config_text("systemd")
    workers = int(re.findall(r"--workers (\d+)", unit()["ExecStart"][0])[0])
    assert read_config("systemd", tmp_path).store.processes_max >= workers


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="requires systemd-analyze")
def test_systemd_analyze_accepts_the_unit(tmp_path: Path) -> None:
    file, socket = tmp_path / UNIT.name, UNIT.with_suffix(".socket")
    # `verify` requires an existing program; tests/e2e/test_image.py starts the real one.
    file.write_text(UNIT.read_text().replace("/opt/gateway/bin/gateway", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", file, shutil.copy(socket, tmp_path)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=15", file],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-500:]


def test_socket_unit_listens_on_the_public_port(tmp_path: Path) -> None:
    listen = read_config("systemd", tmp_path).listen
    socket = unit(UNIT.with_suffix(".socket"))
    assert socket["ListenStream"] == [f"{listen.host}:{listen.port}"]
    assert unit()["Requires"] == unit()["Also"] == ["console-gateway.socket"]


def test_unit_exposes_proc_to_process_metrics() -> None:
    """prometheus-client reads /proc/stat; without it the process_* metrics are missing."""
    assert "ProcSubset" not in unit()
    assert unit()["ProtectProc"] == ["invisible"]
