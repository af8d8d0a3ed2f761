"""`gateway policy`: test the policy against expected decisions, and list who has a permission."""

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gateway.commands.arguments import CommandParser, add_config_option
from gateway.commands.described_rules import describe_request_rule, describe_rule
from gateway.commands.policy_question import (
    ANY_SERVER,
    GivenAttributes,
    OfflinePolicy,
    add_attribute_options,
    given_attributes,
)
from gateway.commands.terminal import print_error, print_line
from gateway.commands.times import TIME_HELP, instant, time_or_age
from gateway.config.errors import InvalidConfig, KeyPath
from gateway.config.located_yaml import load
from gateway.config.policy_form import PolicyForm
from gateway.config.policy_schema import POLICY_PERMISSIONS
from gateway.domain.model import SERVER_ID, Principal, ProjectId, RuleKind, ServerId
from gateway.domain.policy.inventory import Inventory
from gateway.domain.policy.rules import Decision
from gateway.drivers.host.clock import SystemClock

_EXPECTED: Final = {"allowed": True, "denied": False}
_CASE_KEYS: Final = ("name", "user", "groups", "issuer", "can", "server", "at", "expect")
_SERVER_KEYS: Final = ("project", "id", "tags", "location", "model", "name")


def register(parser: CommandParser) -> None:
    kinds = parser.add_subparsers(required=True, metavar="COMMAND")

    description = "compare the decisions of the policy with those that a file expects"
    test: CommandParser = kinds.add_parser("test", help=description, description=description)
    add_config_option(test)
    test.add_argument("file", type=Path, metavar="FILE", help="YAML file with `cases`")
    test.exit_codes = {
        0: "every case is as expected",
        1: "invalid config, policy or file",
        2: "wrong usage",
        3: "a case is not as expected",
    }
    test.set_defaults(run=lambda options: test_policy(options.config, options.file))

    description = "list who has a permission on a server, and which denials apply"
    who: CommandParser = kinds.add_parser("who", help=description, description=description)
    add_config_option(who)
    add_attribute_options(who)
    who.add_argument("--at", type=time_or_age, metavar="TIME", help=f"{TIME_HELP} (default: now)")
    who.add_argument("permission", metavar="CAN", help="permission, for example console:open")
    who.add_argument("target", metavar="PROJECT/SERVER", help="server by ID, or a project")
    who.exit_codes = {
        0: "at least one grant applies",
        1: "invalid config or policy",
        2: "wrong usage",
        3: "no grant applies",
    }
    who.set_defaults(run=_run_who)


def _run_who(options: argparse.Namespace) -> int:
    offline = OfflinePolicy.load(options.config)
    given = given_attributes(options)
    try:
        project, server = offline.target(options.target, given)
    except ValueError as error:
        print_error(error)
        return 2
    if options.permission not in POLICY_PERMISSIONS:
        known = ", ".join(sorted(POLICY_PERMISSIONS))
        print_error(f"CAN must be one of: {known}")
        return 2
    now = options.at if options.at is not None else SystemClock().now()
    inventory = offline.inventory(project, server, given, now)
    found = list(offline.policy.rules_on(options.permission, project, server, now, inventory))
    grants = [rule for rule in found if rule.ref.kind is RuleKind.GRANT]
    denials = [rule for rule in found if rule.ref.kind is RuleKind.DENIAL]
    for rule in grants:
        print_line(describe_rule(rule))
    if not grants:
        print_line("no grant applies")
    requests = list(offline.policy.requests_on(options.permission, project, server, now, inventory))
    _print_list("may request it:", map(describe_request_rule, requests))
    if (grants or requests) and denials:
        _print_list("except the people of:", map(describe_rule, denials))
    return 0 if grants else 3


def _print_list(head: str, described: Iterable[str]) -> None:
    lines = [f"  {one}" for one in described]
    for line in [head, *lines] if lines else ():
        print_line(line)


@dataclass(frozen=True, slots=True)
class PolicyCase:
    """One question to the policy, and the expected decision."""

    name: str
    line: int
    principal: Principal
    permission: str
    project: ProjectId
    server: ServerId | None
    given: GivenAttributes
    at: float
    expected: bool


def test_policy(config_file: Path, file: Path) -> int:
    """Print each case whose decision is not the expected one; return 0 if there is none."""
    offline = OfflinePolicy.load(config_file)
    cases = _read_cases(file, offline)
    failed = 0
    for case in cases:
        inventory = offline.inventory(case.project, case.server, case.given, case.at)
        decision = _decide(offline, case, inventory)
        if decision.allowed != case.expected:
            failed += 1
            rule = "no grant applies" if decision.rule is None else f"by {decision.rule.location}"
            got, expected = (_word(one) for one in (decision.allowed, case.expected))
            print_line(f"{file}:{case.line}: {case.name}: {got} ({rule}), expected {expected}")
    print_line(f"{len(cases) - failed} of {len(cases)} cases are as expected")
    return 3 if failed else 0


def _word(allowed: bool) -> str:  # noqa: FBT001
    return "allowed" if allowed else "denied"


def _decide(offline: OfflinePolicy, case: PolicyCase, inventory: Inventory) -> Decision:
    return offline.policy.decide(
        case.principal, case.permission, case.project, case.server, case.at, inventory
    )


def _read_cases(file: Path, offline: OfflinePolicy) -> list[PolicyCase]:
    """Return the cases; raise InvalidConfig with every error."""
    document = load(file)
    form = PolicyForm(document)
    top = form.mapping((), document.data, ("cases",))
    reader = _CaseReader(form, offline)
    cases = [
        reader.read(("cases", i), raw)
        for i, raw in enumerate(form.items(("cases",), top.get("cases")))
    ]
    if not cases:
        form.error(("cases",), "must not be empty")
    if form.errors:
        raise InvalidConfig(form.errors)
    return cases


class _CaseReader:
    def __init__(self, form: PolicyForm, offline: OfflinePolicy) -> None:
        self._form = form
        self._offline = offline

    def read(self, path: KeyPath, raw: Any) -> PolicyCase:
        form = self._form
        body = form.mapping(path, raw, _CASE_KEYS)
        issuers = self._offline.config.policy_names.issuers
        issuer = body.get("issuer", issuers[0] if len(issuers) == 1 else None)
        if issuer not in issuers:
            form.error((*path, "issuer"), form.unknown("issuer", issuer, issuers))
        permission = body.get("can")
        if permission not in POLICY_PERMISSIONS:
            message = form.unknown("permission", permission, POLICY_PERMISSIONS)
            form.error((*path, "can"), message)
        if body.get("expect") not in _EXPECTED:
            form.error((*path, "expect"), "must be `allowed` or `denied`")
        now = self._instant((*path, "at"), body.get("at"))
        groups = form.names((*path, "groups"), body.get("groups", []))
        user = form.name((*path, "user"), body.get("user"))
        project, server, given = self._server((*path, "server"), body.get("server"))
        return PolicyCase(
            name=str(body.get("name", f"case {path[-1]}")),
            line=form.document.line(path),
            principal=Principal(str(issuer), user, self._offline.groups(groups), now, now, None),
            permission=str(permission),
            project=project,
            server=server,
            given=given,
            at=now,
            expected=_EXPECTED.get(str(body.get("expect")), False),
        )

    def _instant(self, path: KeyPath, raw: Any) -> float:
        if raw is None:
            return SystemClock().now()
        try:
            return instant(str(raw))
        except argparse.ArgumentTypeError as error:
            self._form.error(path, str(error))
            return 0.0

    def _server(
        self, path: KeyPath, raw: Any
    ) -> tuple[ProjectId, ServerId | None, GivenAttributes]:
        form = self._form
        body = form.mapping(path, raw, _SERVER_KEYS)
        projects = self._offline.config.project_ids
        project = body.get("project", projects[0] if len(projects) == 1 else None)
        if project not in projects:
            form.error((*path, "project"), form.unknown("project", project, projects))
        server = str(body["id"]).lower() if "id" in body else None
        if server is not None and not SERVER_ID.fullmatch(server):
            form.error((*path, "id"), "must be a server ID (a UUID)")
        given = GivenAttributes(
            tags=frozenset(self._tags((*path, "tags"), body["tags"])) if "tags" in body else None,
            location=self._location((*path, "location"), body["location"])
            if "location" in body
            else None,
            model=form.name((*path, "model"), body["model"]) if "model" in body else None,
            name=form.name((*path, "name"), body["name"]) if "name" in body else None,
        )
        if server is None and given.any:
            server = ANY_SERVER
        return ProjectId(str(project)), None if server is None else ServerId(server), given

    def _tags(self, path: KeyPath, raw: Any) -> Iterator[tuple[str, str]]:
        for key, value in self._form.mapping(path, raw, None).items():
            yield key, self._form.name((*path, key), value)

    def _location(self, path: KeyPath, raw: Any) -> tuple[str, str, str]:
        body = self._form.mapping(path, raw, ("dc", "rack", "unit"))
        dc, rack, unit = (str(body.get(key, "")) for key in ("dc", "rack", "unit"))
        return dc, rack, unit
