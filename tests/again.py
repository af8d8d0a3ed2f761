"""Runs once more, alone, the tests with real processes that failed in the run before.

Four workers with browsers, Prometheus and servers share two cores, and one of nine thousand tests
may fail because of that. A test that passes only alone is a fault to mend, so the run names it; but
it does not stop a release. Many failures, or one of a test without processes, are final.
"""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

FILES_MAX = 3
_FAILED = Path(".pytest_cache/v/cache/lastfailed")
_FOLDERS = ("tests/contract/", "tests/e2e/", "tests/wire/")
_PYTEST = (sys.executable, "-m", "pytest", "--last-failed", "--last-failed-no-failures", "none")


def may_run_again(failed: Iterable[str]) -> bool:
    """Return whether the failures may be the machine's; `failed` has the IDs of the tests."""
    files = {name.partition("::")[0] for name in failed}
    return 0 < len(files) <= FILES_MAX and all(one.startswith(_FOLDERS) for one in files)


def main() -> int:
    failed = sorted(json.loads(_FAILED.read_text())) if _FAILED.exists() else []
    if not may_run_again(failed):
        return 1
    print("\nRunning again, alone, what failed:", *failed, sep="\n  ", flush=True)
    code = subprocess.run(_PYTEST, check=False).returncode
    if code == 0:
        print("\nThese pass only alone. Find out why, and mend them:", *failed, sep="\n  ")
    return code


if __name__ == "__main__":
    sys.exit(main())
