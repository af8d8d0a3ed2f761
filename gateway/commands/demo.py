"""`gateway demo`; the production image does not contain the demo."""

import sys

_DEMO_MODULE = "gateway.demo"


def demo(*, as_json: bool) -> int:
    """Run the demo and return its exit code; 1 if it is not installed."""
    try:
        from gateway.demo.run import run_demo
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith(_DEMO_MODULE):
            raise
        sys.stderr.write(
            "The demo is not part of this image: run `make demo` in a checkout, or install the"
            " console-gateway wheel and run `gateway demo`.\n"
        )
        return 1
    return run_demo(as_json=as_json)
