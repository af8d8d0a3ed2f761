"""Inputs that every part of the wiring shares."""

from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from random import Random, SystemRandom

from gateway.config.settings import Settings
from gateway.drivers.host.clock import SystemClock
from gateway.drivers.telemetry.metrics import Metrics
from gateway.process.tasks import BackgroundTask


@dataclass(frozen=True, slots=True)
class Runtime:
    """Each `open_*` function of `gateway.process.wiring` takes one.

    An `open_*` function adds what must be closed to `stack`, its background tasks to `tasks` and
    its gauges to `metrics`.
    """

    config: Settings
    stack: AsyncExitStack
    clock: SystemClock
    metrics: Metrics
    random: Random = field(default_factory=SystemRandom)
    tasks: dict[str, BackgroundTask] = field(default_factory=dict)
    """By the names that `gateway_task_restarts_total` has as its label."""
