"""Rules of the policy as commands print them."""

from gateway.domain.policy.request_rules import RequestRule
from gateway.domain.policy.rules import Rule
from gateway.domain.timestamps import iso


def describe_rule(rule: Rule) -> str:
    issuer = "" if rule.issuer is None else f", issuer {rule.issuer}"
    until = "" if rule.valid_until == float("inf") else f", until {iso(rule.valid_until)}"
    return f"{rule.ref.location}: {rule.ref.label}{issuer}{until}"


def describe_request_rule(request: RequestRule) -> str:
    approvers = request.approvers
    names = [*sorted(approvers.users), *(f"group {one}" for one in sorted(approvers.groups))]
    if approvers.issuer is not None:
        names.append(f"of issuer {approvers.issuer}")
    return (
        f"{describe_rule(request.scope)}, for at most {request.for_max_s / 3600:g} h; approvals:"
        f" {request.approvals} by {', '.join(names)}"
        f"{'; or break-glass' if request.break_glass else ''}"
    )
