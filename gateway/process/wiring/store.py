"""Redis or Valkey, and what all replicas share in it."""

import secrets

from gateway.drivers.crypto.sealer import Sealer
from gateway.drivers.valkey.client import RedisClient
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.shared_store import ValkeySharedStore
from gateway.flow.single_flight import SingleFlight
from gateway.process.runtime import Runtime


async def open_valkey(runtime: Runtime, client: RedisClient) -> Valkey:
    valkey = Valkey(
        runtime.config.store,
        client,
        process_id=secrets.token_hex(8),
        clock=runtime.clock,
        telemetry=runtime.metrics,
    )
    runtime.stack.push_async_callback(valkey.close)
    await valkey.probe()
    runtime.tasks["valkey heartbeat"] = valkey.run_heartbeat
    runtime.tasks["valkey listener"] = valkey.run_subscription
    return valkey


def open_single_flight(runtime: Runtime, valkey: Valkey) -> SingleFlight:
    sealer = Sealer(runtime.config.store.seal_keys)
    flight = SingleFlight(ValkeySharedStore(valkey, sealer), runtime.clock)
    runtime.stack.push_async_callback(flight.close)
    runtime.metrics.gauge("gateway_fetches_in_flight", lambda: flight.in_flight)
    return flight
