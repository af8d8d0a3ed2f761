"""`gateway recordings export`: save a recording as one HTML file that plays offline."""

import argparse
import os
from pathlib import Path

from gateway.commands.arguments import CommandParser
from gateway.commands.client_options import add_client_options, run_client_command
from gateway.commands.exit_codes import OK, CommandFailed, usage_error
from gateway.commands.gateway_client import GatewayClient
from gateway.commands.recordings import add_recording_argument
from gateway.commands.terminal import print_error, print_json


def register(parser: CommandParser) -> None:
    add_client_options(parser)
    add_recording_argument(parser)
    parser.add_argument("file", metavar="FILE", type=Path, help="new file; only you may read it")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    return run_client_command(options, _export)


def _export(options: argparse.Namespace, gateway: GatewayClient) -> int:
    path, file = f"/console/recordings/{options.recording}", options.file
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise usage_error(f"{file} exists. Name a new file; nothing was changed.") from None
    except OSError as error:
        raise _not_written(file, error) from None

    def write(data: bytes) -> None:
        try:
            while data:
                data = data[os.write(descriptor, data) :]
        except OSError as error:  # not of the network
            raise _not_written(file, error) from None

    try:
        gateway.download(f"{path}/export", {}, write)
    except BaseException:
        file.unlink(missing_ok=True)  # a part of a recording would pass for all of it
        raise
    finally:
        os.close(descriptor)
    if options.json:
        print_json({"file": str(file), "encrypted": False})
    print_error(f"Saved. {file} is NOT encrypted: protect it as you would protect the console.")
    return OK


def _not_written(file: Path, error: OSError) -> CommandFailed:
    return usage_error(f"{file} cannot be written: {error.strerror}.")
