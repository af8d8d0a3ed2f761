"""The soak itself, for moments: so short a time is not judged, only that it says what it found."""

import subprocess
import sys


def test_a_soak_drives_its_faults_and_says_what_it_found() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.soak", "--minutes", "0.15", "--rate", "60"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "Traceback" not in ran.stdout + ran.stderr, ran.stderr
    assert "Redis dies, for" in ran.stdout, ran.stderr
    if "soak longer" not in ran.stdout:  # a busy machine finds no calm in nine seconds
        for told in ("private MiB", "link, p99 ms", "Answers while"):
            assert told in ran.stdout
    assert "ok   The audit log is whole." in ran.stdout
    verdicts = [line for line in ran.stdout.splitlines() if line.startswith(("ok  ", "BAD "))]
    assert ran.returncode == any(line.startswith("BAD ") for line in verdicts)
