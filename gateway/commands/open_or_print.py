"""Commands with a secret address: open it in the browser, or print it."""

import argparse
import sys

from gateway.commands.terminal import print_error, print_line


def add_open_options(parser: argparse.ArgumentParser) -> argparse._MutuallyExclusiveGroup:
    """Add `--print` and `--open`; return their group."""
    output = parser.add_mutually_exclusive_group()
    output.add_argument(
        "--print",
        action="store_true",
        help="print the link (default without a terminal, and on machines without a browser)",
    )
    output.add_argument(
        "--open", action="store_true", help="open the link in the browser (default on a terminal)"
    )
    return output


def open_or_print(options: argparse.Namespace, url: str, *, expires_in_s: int) -> None:
    """Raise CommandFailed if no browser opens the link."""
    if options.open or (sys.stdout.isatty() and not options.print):
        from gateway.commands.browser import has_browser, open_secretly

        if options.open or has_browser():
            open_secretly(url, expires_in_s=expires_in_s)
            print_error(f"Opened; the link expires in {expires_in_s} s.")
            return
    print_line(url)
