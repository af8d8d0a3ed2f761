"""Reading of the policy file that a config names."""

import hashlib
from pathlib import Path

from gateway.config.errors import InvalidConfig
from gateway.config.located_yaml import load, parse, read
from gateway.config.policy_parser import ParsedPolicy, make_policy, read_policy
from gateway.config.settings import Settings
from gateway.domain.policy.policy import Policy


def load_policy(config_file: Path, config: Settings) -> Policy:
    """Return the policy in the policy file; raise InvalidConfig if it is unreadable or invalid."""
    return load_parsed_policy(config_file, config)[0]


def load_parsed_policy(config_file: Path, config: Settings) -> tuple[Policy, ParsedPolicy]:
    """Return the policy, and the parsed file that it was made of; raise InvalidConfig."""
    try:
        content = read(config.policy_file)
    except InvalidConfig as invalid:
        (unreadable,) = invalid.errors
        message = f"{unreadable.file} {unreadable.message}"
        raise InvalidConfig([load(config_file).error(("policy_file",), message)]) from None
    parsed = read_policy(parse(config.policy_file, content), config.policy_names)
    return make_policy(parsed, version=policy_version(policy_digest(content))), parsed


def policy_digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def policy_file_digest(file: Path) -> str:
    """Return the digest of a file's text without holding the text; raise OSError."""
    with file.open("rb", buffering=0) as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def policy_version(digest: str) -> str:
    """Return the version of the policy with this digest of its text."""
    return digest[:12]
