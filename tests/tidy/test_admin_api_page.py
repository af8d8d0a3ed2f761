"""The page of the admin API, and the commands that it names."""

from typing import Any

import pytest

from gateway.commands import admin
from gateway.commands.parser import build_parser
from gateway.edge.admin.api import PREFIX
from gateway.flow.admin.action_specs import ACTION_SPECS, ActionSpec
from tests.support.admin_client import RecordingAdminClient, RequestRecorded

ARGUMENTS = {
    "consoles end": ["consoles", "end", "00000000000000000000000000000000"],
    "logins end": ["logins", "end", "00" * 32],
    "clear ID": ["clear", "0a1b"],
    "revoke": ["revoke", "--issuer", "corp", "--subject", "mallory"],
    "lock": ["lock", "--group", "contractors"],
    "unlock ID": ["unlock", "0a1b"],
    "drop-links": ["drop-links", "--all"],
    "rate-ceiling ACCOUNT CALLS_PER_SECOND": ["rate-ceiling", "prod", "5"],
    "explain PROJECT/SERVER": ["explain", "--issuer", "corp", "--subject", "olga", "p/s"],
    "log-level LOGGER=LEVEL": ["log-level", "gateway.policy=debug"],
}


@pytest.mark.parametrize("spec", ACTION_SPECS.values(), ids=lambda spec: spec.name)
def test_named_command_calls_the_action(spec: ActionSpec) -> None:
    words = ARGUMENTS.get(spec.command) or spec.command.split()
    options = build_parser().parse_args(["admin", *words, "--gateway", "http://127.0.0.1:1"])
    client: Any = RecordingAdminClient()
    with pytest.raises(RequestRecorded):
        admin._perform(options, client)
    assert (client.method, client.path) == (spec.method, PREFIX + spec.path)
