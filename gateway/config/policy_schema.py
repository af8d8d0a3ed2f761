"""The form of the policy file: its keys, what each means, and its JSON Schema.

The parser takes the keys from here, so that file, schema and reference agree.
"""

from typing import Any, Final

from gateway.config.policy_names import NAME_CHARS_MAX, NAME_PATTERN
from gateway.domain.model import PERMISSIONS

POLICY_PERMISSIONS: Final = PERMISSIONS
TAG_KEY_CHARS_MAX: Final = 128
TAG_VALUE_CHARS_MAX: Final = NAME_CHARS_MAX
"""Limits of the cloud: upstream-api.md#1.5."""
ROLE_NAME: Final = "[a-z0-9][a-z0-9_.-]{0,63}"
EVERYTHING: Final = "everything"
EVERYONE: Final = "everyone"
ALL_PERMISSIONS: Final = "all"

DURATION: Final = r"^[1-9][0-9]{0,4}[mhd]$"
DURATION_MAX_S: Final = 30 * 86_400.0
BREAK_GLASS_PER_DAY_MAX: Final = 100
BREAK_GLASS_REASON_MIN: Final = 10
BREAK_GLASS_REASON_MAX: Final = 500
_UUID: Final = "^[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"
PATTERN_PATTERN: Final = r"^[^\s?](?:[^?]*[^\s?])?$"
_INSTANT: Final = r"^[0-9W-]+[T ][0-9:.,]+(?:Z|[+-][0-9]{2}(?::?[0-9]{2})?)$"

_Schema = dict[str, Any]


def _text(description: str = "", **more: Any) -> _Schema:
    described = {"description": description} if description else {}
    return {**described, "type": "string", "minLength": 1, **more}


def _name(description: str = "", *, chars_max: int = NAME_CHARS_MAX) -> _Schema:
    """Return the schema of a name without surrounding blanks and wildcards."""
    return _text(description, maxLength=chars_max, pattern=NAME_PATTERN)


def _list(description: str, items: _Schema, **more: Any) -> _Schema:
    return {"description": description, "type": "array", "items": items, **more}


def _mapping(description: str, properties: _Schema, **more: Any) -> _Schema:
    return {
        "description": description,
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        **more,
    }


def _permissions(description: str) -> _Schema:
    return {
        "description": description,
        "anyOf": [
            {"const": ALL_PERMISSIONS},
            {
                "type": "array",
                "items": {"enum": sorted(POLICY_PERMISSIONS)},
                "minItems": 1,
            },
        ],
    }


_TAG_VALUE: Final = _name(chars_max=TAG_VALUE_CHARS_MAX)
_TAGS: Final = {
    "description": "Tags by key: one value, or a list of which one must match.",
    "type": "object",
    "propertyNames": {"maxLength": TAG_KEY_CHARS_MAX, "pattern": NAME_PATTERN},
    "additionalProperties": {
        "anyOf": [_TAG_VALUE, {"type": "array", "items": _TAG_VALUE, "minItems": 1}]
    },
    "minProperties": 1,
}
_LOCATION: Final = _mapping(
    "A location: each key given here must match.",
    {
        "dc": _name("Data centre."),
        "rack": _name("Rack."),
        "unit": _name("Rack unit."),
    },
    minProperties=1,
)
_TARGETS: Final = {
    "projects": _list(
        "IDs of projects of the config. Alone: all their servers.", _text(), minItems=1
    ),
    "servers": _list(
        "IDs of servers. With `projects`: only in these projects.",
        {"type": "string", "pattern": _UUID},
        minItems=1,
    ),
    "tags": _TAGS,
    "locations": _list("Locations; one must match.", _LOCATION, minItems=1),
    "models": _list("Hardware models; one must match.", _name(), minItems=1),
    "names": _list(
        "Server names; one must match. `*` matches any characters: `web-*`.",
        _text(maxLength=NAME_CHARS_MAX, pattern=PATTERN_PATTERN),
        minItems=1,
    ),
    "accounts": _list("Names of accounts of the config: all their projects.", _text(), minItems=1),
    "regions": _list(
        "Regions of accounts of the config: all projects of these accounts.", _text(), minItems=1
    ),
}
_NOT: Final = _mapping(
    "Excludes servers that match any item of any key given here. The keys are those of `on`.",
    _TARGETS,
    minProperties=1,
)
_ON: Final = {
    "description": "Servers that the rule applies to: `everything`, or a selection in which every"
    " key and every tag must match.",
    "anyOf": [
        {"const": EVERYTHING},
        _mapping(
            "A selection of servers.",
            {
                **_TARGETS,
                EVERYTHING: {
                    "description": "Select everything. Other keys than `not` are not allowed.",
                    "const": True,
                },
                "not": _NOT,
            },
            anyOf=[
                *({"required": [key], "properties": {EVERYTHING: False}} for key in _TARGETS),
                {"required": [EVERYTHING], "properties": dict.fromkeys(_TARGETS, False)},
            ],
        ),
    ],
}
_TO: Final = {
    "description": "People that the rule applies to: `everyone`; or each of `users`, and the"
    " members of each of `groups`.",
    "anyOf": [
        {"const": EVERYONE},
        _mapping(
            "A selection of people.",
            {
                "users": _list("Subjects of tokens.", _name()),
                "groups": _list("Groups of tokens, or aliases from `groups` above.", _name()),
                EVERYONE: {
                    "description": "Every person of the issuer. `users` and `groups` are not"
                    " allowed beside it.",
                    "const": True,
                },
                "issuer": _text(
                    "Name of an issuer of the config, or `any`. Required if the config has several"
                    " issuers."
                ),
            },
            anyOf=[
                *(
                    {
                        "required": [key],
                        "properties": {key: {"minItems": 1}, EVERYONE: False},
                    }
                    for key in ("users", "groups")
                ),
                {"required": [EVERYONE], "properties": {"users": False, "groups": False}},
            ],
        ),
    ],
}
_RULE: Final = {
    "to": _TO,
    "on": _ON,
    "from": {
        "description": "First instant at which the rule applies, with time zone.",
        "type": "string",
        "pattern": _INSTANT,
    },
    "until": {
        "description": "First instant at which the rule no longer applies, with time zone.",
        "type": "string",
        "pattern": _INSTANT,
    },
    "reason": {"description": "Why the rule exists; not evaluated.", "type": "string"},
}
_GRANT: Final = _mapping(
    "A grant allows.",
    {"role": _text("The role to grant."), **_RULE},
    required=["role", "to", "on"],
)
_DENIAL: Final = _mapping(
    "A denial forbids, whatever is granted.",
    {
        "role": _text("Deny the permissions of this role."),
        "permissions": _permissions("Deny these permissions, or `all`. Instead of `role`."),
        **_RULE,
    },
    required=["to", "on"],
    oneOf=[{"required": ["role"]}, {"required": ["permissions"]}],
)

_REQUEST: Final = _mapping(
    "A rule by which people may request a role for a limited time.",
    {
        "name": _text(
            "Name of the rule, unique; default: the role. Requests refer to it: after a rename the"
            " access that it has given ends.",
            pattern=f"^{ROLE_NAME}$",
        ),
        "role": _text("The role that may be requested."),
        **_RULE,
        "for_max": _text(
            "Longest time for which the access may last: `30m`, `4h`, `7d`; at most 30 days.",
            pattern=DURATION,
        ),
        "approvers": _mapping(
            "The people who approve or deny: each of `users`, and the members of each of `groups`."
            " People never decide on their own requests.",
            {
                "users": _list("Subjects of tokens.", _name()),
                "groups": _list("Groups of tokens, or aliases from `groups` above.", _name()),
                "issuer": _text(
                    "Name of an issuer of the config. Required if the config has several issuers."
                ),
            },
            anyOf=[
                {"required": [key], "properties": {key: {"minItems": 1}}}
                for key in ("users", "groups")
            ],
        ),
        "approvals": {
            "description": "How many people must approve.",
            "enum": [1, 2],
            "default": 1,
        },
        "ticket_required": {
            "description": "A request must name a ticket.",
            "type": "boolean",
            "default": False,
        },
        "break_glass": _mapping(
            "Lets these people have the access at once, without approval. They may have one such"
            " access at a time.",
            {
                "per_day": {
                    "description": "How often a person may use it in 24 hours.",
                    "type": "integer",
                    "minimum": 1,
                    "maximum": BREAK_GLASS_PER_DAY_MAX,
                },
                "reason_min": {
                    "description": "Least number of characters of the reason.",
                    "type": "integer",
                    "minimum": 1,
                    "maximum": BREAK_GLASS_REASON_MAX,
                    "default": BREAK_GLASS_REASON_MIN,
                },
            },
            required=["per_day"],
        ),
    },
    required=["role", "to", "on", "for_max", "approvers"],
)

POLICY_SCHEMA: Final = _mapping(
    "The permissions of people on servers. Without a grant, everything is forbidden.",
    {
        "roles": {
            "description": "Sets of permissions by name.",
            "type": "object",
            "propertyNames": {"pattern": f"^{ROLE_NAME}$"},
            "additionalProperties": _permissions(
                "Permissions of the role. `all` means all but `recording:*` and"
                " `server:tag_policy`, which a role must name."
            ),
        },
        "groups": {
            "description": "Aliases: a readable name for one or several groups of tokens, such as"
            " GUIDs. Rules use the alias.",
            "type": "object",
            "propertyNames": {"maxLength": NAME_CHARS_MAX, "pattern": NAME_PATTERN},
            "additionalProperties": {
                "anyOf": [
                    _name("The group in tokens, or a list of them."),
                    {"type": "array", "items": _name(), "minItems": 1},
                ]
            },
        },
        "grants": _list("Grants. `grants: []` forbids everything.", _GRANT),
        "denials": _list("Denials; each overrides every grant.", _DENIAL),
        "requests": _list(
            "Rules of access requests: what people may have for a limited time if another person"
            " approves.",
            _REQUEST,
        ),
    },
    required=["grants"],
)

POLICY_KEYS: Final = tuple(POLICY_SCHEMA["properties"])
GRANT_KEYS: Final = tuple(_GRANT["properties"])
DENIAL_KEYS: Final = tuple(_DENIAL["properties"])
REQUEST_KEYS: Final = tuple(_REQUEST["properties"])
APPROVER_KEYS: Final = ("users", "groups", "issuer")
BREAK_GLASS_KEYS: Final = ("per_day", "reason_min")
TO_KEYS: Final = ("users", "groups", EVERYONE, "issuer")
TARGET_KEYS: Final = tuple(_TARGETS)
LOCATION_KEYS: Final = tuple(_LOCATION["properties"])
ATTRIBUTE_KEYS: Final = ("tags", "locations", "models", "names")
PROJECT_KEYS: Final = ("projects", "accounts", "regions")
