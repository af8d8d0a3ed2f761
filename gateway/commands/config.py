"""`gateway config`: print the effective config, or the JSON Schema of config and policy."""

import json
import sys
from pathlib import Path


def show(config_file: Path) -> int:
    """Print the config with every default; a secret is shown by its source only."""
    from gateway.config.effective import effective_config
    from gateway.config.located_yaml import load
    from gateway.config.settings import validate_settings

    document = load(config_file)
    sys.stdout.write(effective_config(validate_settings(document), document))
    return 0


def print_schema(*, of_policy: bool) -> int:
    """Print the JSON Schema of the config file, or that of the policy file."""
    from gateway.config.schema import config_schema, policy_schema

    print(json.dumps(policy_schema() if of_policy else config_schema(), indent=2))
    return 0
