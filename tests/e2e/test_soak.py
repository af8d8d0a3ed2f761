"""A soak of a few seconds: its faults run and it prints a report. Its verdicts do not matter."""

import subprocess
import sys


def test_short_soak_runs_faults_and_reports() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.soak", "--minutes", "0.15", "--rate", "60"],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert "Traceback" not in ran.stdout + ran.stderr, ran.stderr
    assert "Redis dies, for" in ran.stdout, ran.stderr
    if "soak longer" not in ran.stdout:  # on a busy machine nine seconds have no calm sample
        for row in ("private MiB", "link, p99 ms", "Responses outside"):
            assert row in ran.stdout
    assert "ok   The audit log is intact." in ran.stdout
    verdicts = [line for line in ran.stdout.splitlines() if line.startswith(("ok  ", "BAD "))]
    assert ran.returncode == any(line.startswith("BAD ") for line in verdicts)
