"""`gateway serve`: check the config, then run the workers below a supervisor."""

import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from aiohttp import http_parser

from gateway.config.environment import tracing_variable
from gateway.config.store import RedisEmbedded
from gateway.drivers.host.handover import Handovers
from gateway.drivers.telemetry import log as logs
from gateway.drivers.valkey.embedded import EmbeddedValkey
from gateway.process.startup_checks import check_policy, load_config
from gateway.process.supervisor import Supervisor
from gateway.process.tracing_packages import require_tracing_packages
from gateway.process.worker import run_worker


def serve(config_file: Path, *, workers: int) -> int:
    """Run the gateway until SIGTERM or SIGINT; raise InvalidConfig for an invalid config."""
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        # CVE-2026-111750: the pure-Python parser is open to request smuggling.
        sys.stderr.write("aiohttp's C parser is missing; refusing to serve\n")
        return 1
    load = partial(load_config, config_file, workers=workers)
    config = load()
    handovers = Handovers()
    check_policy(config_file, config, handovers.policies)
    require_tracing_packages(tracing_variable())
    logs.set_up(config.log.levels, config.log.format)
    with ExitStack() as stack:
        embedded_url = None
        if isinstance(config.store.redis, RedisEmbedded):
            embedded_url = stack.enter_context(EmbeddedValkey()).url
        work = partial(run_worker, embedded_url=embedded_url)
        supervisor = Supervisor(
            config_file, load, work, workers=workers, config=config, handovers=handovers
        )
        return supervisor.run()
