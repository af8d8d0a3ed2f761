"""Tracing: always propagated, exported if the environment configures an exporter."""

from gateway.config.environment import tracing_variable
from gateway.drivers.telemetry.trace_propagation import PropagatedTracing
from gateway.flow import context
from gateway.flow.context import Tracing
from gateway.process.runtime import Runtime


def open_tracing(runtime: Runtime) -> Tracing:
    if not tracing_variable():
        return PropagatedTracing()
    from gateway.drivers.telemetry import tracing  # noqa: PLC0415 - an optional dependency

    config = runtime.config
    exported = tracing.open_tracing(
        routes={row.name: "/v1/{project_id}" + row.path for row in config.catalogue},
        accounts={project: one.name for one in config.accounts for project in one.projects},
    )
    runtime.stack.push_async_callback(exported.close)
    context.trace.set(exported.background)  # each request has its own trace instead
    return exported
