from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.support.clock import FakeClock
from tests.support.stack import Stack
from tests.support.valkey import RealValkey

# A busy machine is slow to make an example: that says nothing of what the example shows.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(scope="session")
def shared_valkey() -> Iterator[RealValkey]:
    """One server for all tests that do not harm it; each takes a namespace of its own."""
    server = RealValkey().start()
    yield server
    server.close()


@pytest.fixture
def own_valkey() -> Iterator[RealValkey]:
    """Start a server that this test may kill, hang or fill."""
    server = RealValkey().start()
    yield server
    server.close()


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Start the product, for all tests that leave it as they found it."""
    running = Stack()
    yield running
    running.close()


@pytest.fixture
def own_stack() -> Iterator[Stack]:
    """Start the product for a test that may break it."""
    running = Stack()
    yield running
    running.close()
