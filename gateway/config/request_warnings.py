"""Warnings about access requests: rules that no one can use, and access that a restart loses."""

from collections.abc import Iterator

from gateway.config.errors import ConfigWarning
from gateway.config.located_yaml import Document
from gateway.config.policy_parser import ParsedPolicy
from gateway.config.settings import Settings


def request_warnings(
    settings: Settings, document: Document, parsed: ParsedPolicy
) -> Iterator[ConfigWarning]:
    """Yield the warnings; `document` is that of the config."""
    if not parsed.requests:
        return
    if not settings.overrides.enabled:
        message = "must be `true` with the policy's `requests`: an early end is an override"
        yield ConfigWarning("requests_unusable", document.error(("overrides", "enabled"), message))
    for section, file in (
        ("requests", settings.requests.file),
        ("overrides", settings.overrides.file),
    ):
        if file is None and settings.overrides.enabled:
            message = (
                "is not set while the policy has `requests`: if Redis loses its data,"
                f" {'approved access' if section == 'requests' else 'an early end'} is lost"
            )
            yield ConfigWarning("requests_not_saved", document.error((section, "file"), message))
    if settings.requests.person_claim is None:
        yield from _without_approver(parsed)


def _without_approver(parsed: ParsedPolicy) -> Iterator[ConfigWarning]:
    for located, request in parsed.requests:
        requesters, approvers = located.rule.issuer, request.approvers.issuer
        if None not in (requesters, approvers) and requesters != approvers:
            message = (
                f"are people of issuer {approvers}, and the requesters of issuer {requesters}:"
                " approvals require `requests.person_claim` in the config"
            )
            error = parsed.document.error((*located.path, "approvers"), message)
            yield ConfigWarning("requests_unusable", error)
