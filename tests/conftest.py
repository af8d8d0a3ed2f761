import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support import programs
from tests.support.clock import FakeClock
from tests.support.stack import Stack
from tests.support.valkey import RealValkey

# On a busy machine Hypothesis may be slow to generate examples. That is no failure.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


SLOW_FILES = (
    "e2e/test_console_page.py",
    "e2e/test_player_page.py",
    "e2e/test_admin.py",
    "e2e/test_monitoring.py",
    "e2e/test_rolling.py",
    "e2e/test_demo.py",
    "simulation/test_learned_rate.py",
    "e2e/test_recordings_played.py",
    "e2e/test_real_consoles.py",
    "e2e/test_audit_outcomes.py",
    "e2e/test_openapi.py",
    "e2e/test_lifecycle.py",
    "e2e/test_accounts_and_links.py",
    "e2e/test_faults.py",
    "e2e/test_service_logins.py",
    "tidy/test_alerts.py",
    "simulation/test_fleet.py",
    "simulation/test_live_consoles.py",
    "e2e/test_overrides_persisted.py",
    "contract/test_budget_faults.py",
    "unit/test_no_interference.py",
    "e2e/test_image.py",
    "e2e/test_metrics.py",
    "e2e/test_behind_a_proxy.py",
    "e2e/test_invariants.py",
    "e2e/test_tag_grants.py",
    "contract/test_simulated_cloud_fleet.py",
    "contract/test_budget.py",
    "e2e/test_page_build.py",
    "contract/test_supervisor.py",
    "e2e/test_soak.py",
)
"""These start first: a worker that started one of them last would run it alone."""
TIME_LIMIT_S = 600
"""A test that hangs fails after this time. The slowest takes about a minute on an idle machine."""
_FOLDERS = ("e2e", "contract", "simulation", "wire", "tidy", "unit")


def pytest_collection(session: pytest.Session) -> None:
    """Import another share of the test files first in each worker of pytest-xdist.

    Each worker imports all test files. The first import in a fresh checkout compiles a file, the
    others load what it wrote. In one order, all workers would compile each file.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is None:
        return
    folders = [Path(argument) for argument in session.config.args]
    files = sorted(
        file for folder in folders if folder.is_dir() for file in folder.rglob("test_*.py")
    )
    workers = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    for file in files[int(worker.removeprefix("gw")) :: workers]:
        sys.path.insert(0, str(file.parent.absolute()))
        with suppress(Exception, pytest.skip.Exception):  # the collection reports it
            import_module(file.stem)
        sys.path.pop(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test the marker of its folder and a time limit, and start slow files first.

    The limit is a signal: the exception ends the wait, also of an event loop, and fixtures stop
    what they have started.
    """
    tests = Path(__file__).parent
    order: dict[str, tuple[int, int]] = {}
    for item in items:
        file = item.path.relative_to(tests)
        item.add_marker(file.parts[0])
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TIME_LIMIT_S, method="signal"))
        position = SLOW_FILES.index(str(file)) if str(file) in SLOW_FILES else len(SLOW_FILES)
        order[item.nodeid] = (position, _FOLDERS.index(file.parts[0]))
    items.sort(key=lambda item: order[item.nodeid])


@pytest.fixture(scope="session", autouse=True)
def prepared_programs() -> Iterator[None]:
    """Start commands and gateways from a process that has imported them."""
    with programs.prepared():
        yield


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(scope="session")
def shared_valkey() -> Iterator[RealValkey]:
    """Start one server for all tests that leave it running; each test uses its own namespace."""
    server = RealValkey().start()
    yield server
    server.close()


@pytest.fixture
def own_valkey() -> Iterator[RealValkey]:
    """Start a server that this test may kill, pause or fill."""
    server = RealValkey().start()
    yield server
    server.close()


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Start the product for the tests that leave it unchanged."""
    running = Stack()
    yield running
    running.close()


@pytest.fixture
def own_stack() -> Iterator[Stack]:
    """Start the product for a test that may break it."""
    running = Stack()
    yield running
    running.close()
