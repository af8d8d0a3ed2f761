"""`python -m gateway.demo.cloud --json`: run the simulated cloud in this process until SIGTERM.

Prints its addresses as one JSON line. Each listener has control paths under /_box/.
"""

import argparse
import asyncio
import json
import signal

from gateway.demo.cloud.simulated_cloud import SimulatedCloud, SimulatedCloudSettings


async def _run(settings: SimulatedCloudSettings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with SimulatedCloud(settings) as cloud:
        addresses = {
            "issuer": cloud.idp.url,
            "iam": cloud.iam.url,
            "upstream": cloud.upstream.url,
            "consoles": cloud.consoles.url,
            "consoles_control": cloud.consoles.control_url,
            "project_id": cloud.project,
            "servers": cloud.servers,
        }
        print(json.dumps(addresses), flush=True)  # noqa: T201 - a command's output
        await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="gateway.demo.cloud", description=__doc__)
    parser.add_argument("--json", action="store_true", help="accepted; the output is always JSON")
    parser.add_argument("--servers", type=int, default=6)
    parser.add_argument("--rate", type=float, default=10.0, help="calls per second")
    parser.add_argument("--burst", type=float, default=10.0)
    parser.add_argument(
        "--latency", type=float, nargs=2, default=(0.05, 0.15), metavar=("FROM_S", "TO_S")
    )
    parser.add_argument("--token-bytes", type=int, default=2_048)
    parser.add_argument(
        "--other-project", action="append", default=[], metavar="ID", help="a further project"
    )
    parser.add_argument(
        "--live-project",
        action="append",
        default=[],
        metavar="ID",
        help="a project whose console links lead to the simulated console host",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on, used in every URL"
    )
    for name in ("idp", "iam", "cloud", "console"):
        parser.add_argument(f"--{name}-port", type=int, default=0)
    options = vars(parser.parse_args())
    del options["json"]
    low_s, high_s = options.pop("latency")
    options["other_projects"] = tuple(options.pop("other_project"))
    options["live_projects"] = tuple(options.pop("live_project"))
    asyncio.run(_run(SimulatedCloudSettings(latency_s=(low_s, high_s), **options)))


if __name__ == "__main__":
    main()
