"""The policy file that is in force."""

from gateway.config.settings import Settings
from gateway.drivers.files.policy_file import PolicyFile
from gateway.drivers.host.handover import Handover
from gateway.flow.clock import Clock
from gateway.flow.telemetry import Telemetry
from gateway.process.runtime import Runtime


def open_policy(runtime: Runtime, handover: Handover) -> PolicyFile:
    policies = policy_file(runtime.config, runtime.clock, runtime.metrics, handover)
    runtime.tasks["policy"] = policies.run
    gauge = runtime.metrics.gauge
    gauge("gateway_policy_loaded_timestamp_seconds", lambda: policies.loaded_at)
    gauge("gateway_policy_version", lambda: int(policies.current().version[:8] or "0", 16))
    return policies


def policy_file(
    config: Settings, clock: Clock, telemetry: Telemetry, handover: Handover
) -> PolicyFile:
    return PolicyFile(
        config.policy_file,
        known=config.policy_names,
        clock=clock,
        telemetry=telemetry,
        handover=handover,
    )
