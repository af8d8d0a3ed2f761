"""Whether serving could use a Redis, and why not."""

import secrets

from gateway.config.store import StoreSettings
from gateway.domain.errors import StoreUnavailable
from gateway.drivers.host.clock import SystemClock
from gateway.drivers.valkey.client import client_factory
from gateway.drivers.valkey.connection import Valkey
from tests.support.budget_queues import SEAL_KEY, AnyRedis
from tests.support.telemetry import RecordingTelemetry


def a_valkey(redis: AnyRedis) -> Valkey:
    store = StoreSettings(
        redis=redis,
        seal_keys=(SEAL_KEY,),
        namespace=f"t-{secrets.token_hex(4)}",
        timeout_s=1.0,
        connect_timeout_s=3.0,
    )
    return Valkey(
        store,
        client_factory(store),
        process_id="p",
        clock=SystemClock(),
        telemetry=RecordingTelemetry(),
    )


async def problem_of(redis: AnyRedis) -> str:
    """Return why serving could not use it; "" if it can."""
    valkey = a_valkey(redis)
    try:
        await valkey.check()
    except StoreUnavailable as error:
        return str(error)
    finally:
        await valkey.close()
    return ""
