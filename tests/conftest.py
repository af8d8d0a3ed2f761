from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.clock import FakeClock
from tests.support.stack import Stack
from tests.support.valkey import RealValkey

# On a busy machine Hypothesis may be slow to generate examples. That is no failure.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test the marker of its folder: `pytest -m unit`, `-m "e2e or wire"`."""
    tests = Path(__file__).parent
    for item in items:
        item.add_marker(item.path.relative_to(tests).parts[0])


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
