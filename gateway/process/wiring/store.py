"""Redis or Valkey, and what all replicas share in it."""

import secrets

from gateway.drivers.crypto.sealer import Sealer
from gateway.drivers.valkey.client import ClientFactory
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.shared_store import ValkeySharedStore
from gateway.flow.single_flight import SingleFlight
from gateway.process.runtime import Runtime


async def open_valkey(runtime: Runtime, new_client: ClientFactory) -> Valkey:
    valkey = Valkey(
        runtime.config.store,
        new_client,
        process_id=secrets.token_hex(8),
        clock=runtime.clock,
        telemetry=runtime.metrics,
    )
    runtime.stack.push_async_callback(valkey.close)
    if runtime.config.audit.stream:
        valkey.require_audit_stream()
    await valkey.probe()
    runtime.tasks["valkey heartbeat"] = valkey.run_heartbeat
    runtime.tasks["valkey listener"] = valkey.run_subscription
    runtime.tasks["valkey cleanup"] = valkey.run_cleanup
    return valkey


def open_single_flight(runtime: Runtime, valkey: Valkey) -> SingleFlight:
    sealer = Sealer(runtime.config.store.seal_keys)
    single_flight = SingleFlight(ValkeySharedStore(valkey, sealer), runtime.clock)
    runtime.stack.push_async_callback(single_flight.close)
    runtime.metrics.gauge("gateway_fetches_in_flight", lambda: single_flight.in_flight)
    return single_flight
