"""Warnings about the config: valid settings that are probably not what was meant."""

from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Address, IPv6Network
from typing import Final

from gateway.config.errors import ConfigWarning
from gateway.config.issuers import StaticKeys
from gateway.config.key_material import keys_for_algorithms, parse_key_file, read_key_file
from gateway.config.located_yaml import Document
from gateway.config.secrets import SecretOfFile, secrets_of
from gateway.config.settings import Settings

WARNINGS: Final = {
    "trusts_everyone": "`listen.trusted_proxies` contains addresses of the whole internet: anyone"
    " can then choose the client address in logs and in the audit log.",
    "secret_has_blanks": "A secret begins or ends with a blank, which is sent as a part of it.",
    "secret_has_byte_order_mark": "A secret file begins with a byte order mark, which is ignored.",
    "setting_without_effect": "A setting of `links` does not apply, because the account's consoles"
    " are live consoles through the gateway.",
    "page_without_login": "`page.enabled` is set, but no issuer has `login`: commands and programs"
    " get the list of servers, browsers no page.",
    "recordings_disk_small": "At the rate of the last 7 days, the disk with"
    " `recordings.directory` is full before `keep_days`.",
    "recordings_bytes_max_small": "At the rate of the last 7 days, `recordings.bytes_max` removes"
    " recordings before `keep_days`.",
    "recordings_key_missing": "No key of `recordings.keys` opens some recordings. Add the key that"
    " encrypted them, until `gateway recordings rewrap` has run.",
    "key_ignored": "A key in `public_key_file` verifies no token.",
    "redis_may_evict": "Redis may evict keys without expiry, such as revocations, when its memory"
    " is full, or its user may not read the policy by INFO. Set `maxmemory-policy noeviction`."
    " Only with `--online`.",
    "tags_are_permissions": "A grant has `server:tag` while rules use tags: its holders cannot"
    " write the tag keys of rules without `server:tag_policy`.",
    "tags_change_permissions": "A grant has `server:tag_policy` while rules use tags: its holders"
    " change who may do what.",
    "view_by_all": "A grant has a role with `all` permissions while an account has live consoles:"
    " its holders may watch those of others (`console:view`).",
    "everyone_of_any_issuer": "A grant to `everyone` applies to several issuers.",
    "rule_ended": "A rule ended more than 30 days ago.",
    "rule_without_effect": "A rule can never apply.",
    "requests_unusable": "A rule of the policy's `requests` cannot be used: overrides are off, or"
    " its approvers are of another issuer and `requests.person_claim` is not set.",
    "requests_not_saved": "The policy has `requests`, but `requests.file` or `overrides.file` is"
    " not set: approved access, or its early end, is lost with the data of Redis.",
    "role_not_used": "No rule uses a role.",
    "alias_not_used": "No rule uses an alias of `groups`.",
    "group_without_alias": "A rule names a group that is not an alias, while other groups are.",
    "empty_list": "`users` or `groups` is empty.",
}
"""What each warning means, by its code."""

_CACHED_LINKS_ONLY: Final = {"reuse", "lifetime_s", "min_remaining_s", "renew_before_s"}
_PROXY_PREFIX_MIN: Final = {4: 8, 6: 7}
"""Shorter prefixes contain more than the largest private networks, 10.0.0.0/8 and fc00::/7."""
_MAPPED_PREFIX: Final = 96
"""IPv4 addresses in IPv6 are below ::ffff:0:0/96."""


def config_warnings(settings: Settings, document: Document) -> Iterator[ConfigWarning]:
    for i, network in enumerate(settings.listen.trusted_proxies):
        if not isinstance(network, str) and _is_wide(network):
            yield ConfigWarning(
                "trusts_everyone",
                document.error(
                    ("listen", "trusted_proxies", i),
                    f"{network} is not only your proxies: name their networks",
                ),
            )
    yield from _without_effect(settings, document)
    yield from _ignored_keys(settings, document)
    for path, secret in secrets_of(settings):
        if secret.reveal() != secret.reveal().strip():
            message = "the secret begins or ends with a blank"
            yield ConfigWarning("secret_has_blanks", document.error(path, message))
        if isinstance(secret, SecretOfFile) and secret.has_byte_order_mark:
            message = f"{secret.file} begins with a byte order mark, which is ignored"
            yield ConfigWarning("secret_has_byte_order_mark", document.error(path, message))


def _without_effect(settings: Settings, document: Document) -> Iterator[ConfigWarning]:
    if settings.page.enabled and not settings.has_logins:
        message = "serves `GET /servers` only: the page requires an issuer with `login`"
        yield ConfigWarning("page_without_login", document.error(("page", "enabled"), message))
    for i, account in enumerate(settings.accounts):
        if not account.delivers_proxied:
            continue
        for key in sorted(account.links.model_fields_set & _CACHED_LINKS_ONLY):
            message = "does not apply: with `console.delivery: proxied` no link is cached"
            path = ("accounts", i, "links", key)
            yield ConfigWarning("setting_without_effect", document.error(path, message))


def _ignored_keys(settings: Settings, document: Document) -> Iterator[ConfigWarning]:
    for i, issuer in enumerate(settings.issuers):
        if isinstance(issuer.keys, StaticKeys):
            ignored: list[str] = []
            found = parse_key_file(read_key_file(issuer.keys.public_key_file), ignored.append)
            keys_for_algorithms(found, issuer.algorithms, ignored.append)
            path = ("issuers", i, "keys", "public_key_file")
            for reason in ignored:
                message = f"{issuer.keys.public_key_file}: ignored: {reason}"
                yield ConfigWarning("key_ignored", document.error(path, message))


def _is_wide(network: IPv4Network | IPv6Network) -> bool:
    address, prefix = network.network_address, network.prefixlen
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return prefix - _MAPPED_PREFIX < _PROXY_PREFIX_MIN[4]
    return prefix < _PROXY_PREFIX_MIN[network.version]
