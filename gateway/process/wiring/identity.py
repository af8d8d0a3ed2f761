"""Issuers' keys, and the verification of callers' and administrators' tokens."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import aiohttp

from gateway.config.issuers import Issuer
from gateway.domain.identity.claims import TokenRules
from gateway.domain.model import Principal
from gateway.drivers.host.handover import Handover
from gateway.drivers.issuers.groups_claims import MissingGroupsClaims
from gateway.drivers.issuers.issuer_keys import IssuerKeys
from gateway.drivers.issuers.signatures import JwtSignatures, TrustedIssuer
from gateway.drivers.network.egress import EgressRoute
from gateway.flow.active_overrides import ActiveOverrides
from gateway.flow.decide import Policies
from gateway.flow.identify import Identify
from gateway.process.runtime import Runtime

_ADMINS_MAX = 1_000
_CONNECTIONS_MAX = 8


@dataclass(frozen=True, slots=True)
class Identity:
    callers: Identify
    admins: Identify
    admin_sessions: Identify
    """Checks the sessions of the pages of the admin listener."""
    keys: tuple[IssuerKeys, ...]
    signatures: JwtSignatures
    """Of all issuers."""


async def open_identity(
    runtime: Runtime,
    handover: Handover,
    policies: Policies | None = None,
    overrides: ActiveOverrides | None = None,
) -> Identity:
    """Open the issuers' keys and both verifications.

    Without `overrides` no token is revoked and no person is locked. Without `policies` no groups
    claim is required.
    """
    verifiers: list[Identify] = []

    def forget(issuer: str) -> None:
        for verifier in verifiers:
            verifier.drop_issuer(issuer)

    keys = await _open_keys(runtime, handover, on_rotation=forget)
    trusted = {
        issuer.name: TrustedIssuer(
            issuer.name, issuer.issuer, frozenset(issuer.algorithms), its_keys
        )
        for issuer, its_keys in zip(runtime.config.issuers, keys, strict=True)
    }
    missing = MissingGroupsClaims(
        {issuer.name: _as_tuple(issuer.claims.groups) for issuer in runtime.config.issuers}
    )
    signatures = JwtSignatures(trusted.values())
    callers = _open_callers(runtime, signatures, missing, policies, overrides)
    admins = _open_admins(
        runtime,
        trusted,
        missing,
        overrides,
        # An administrator can revoke even where the revocations are not loaded yet.
        revoked=_never_revoked if overrides is None else overrides.is_known_revoked,
        find_lock=_never_locked,  # `Administration` checks locks, also of certificates
    )
    admin_sessions = _open_admins(
        runtime,
        trusted,
        missing,
        overrides,
        revoked=_never_revoked if overrides is None else overrides.is_revoked,
        find_lock=_never_locked if overrides is None else overrides.find_lock,
    )
    verifiers += [callers, admins]
    if overrides is not None:
        for verifier in verifiers:
            overrides.on_change(verifier.drop_revoked)
    return Identity(callers, admins, admin_sessions, keys, signatures)


async def _open_keys(
    runtime: Runtime, handover: Handover, *, on_rotation: Callable[[str], None]
) -> tuple[IssuerKeys, ...]:
    http = await runtime.stack.enter_async_context(
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_CONNECTIONS_MAX),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=True,
        )
    )
    keys = tuple(
        IssuerKeys(
            issuer,
            http=http,
            clock=runtime.clock,
            telemetry=runtime.metrics,
            on_rotation=on_rotation,
            jitter=runtime.random,
            handover=handover,
            route=EgressRoute(
                runtime.config.egress,
                proxy=issuer.proxy,
                ca_file=issuer.ca_file,
                certificate=issuer.certificate,
            ),
        )
        for issuer in runtime.config.issuers
    )
    for one in keys:
        runtime.tasks[f"keys of {one.issuer}"] = one.run
        for name in ("age", "age_max"):
            read = partial(getattr, one, f"{name}_s")
            runtime.metrics.gauge(f"gateway_keys_{name}_seconds", read, issuer=one.issuer)
    return keys


def _open_callers(
    runtime: Runtime,
    signatures: JwtSignatures,
    missing: MissingGroupsClaims,
    policies: Policies | None,
    overrides: ActiveOverrides | None,
) -> Identify:
    config = runtime.config
    required = {issuer.name: issuer.claims.groups_required for issuer in config.issuers}
    person_claim = config.requests.person_claim

    def groups_required(issuer: str) -> bool:
        if overrides is not None and overrides.current.locks_groups(issuer):
            return True  # whatever the setting: a lock must not be bypassed
        setting = required[issuer]
        if setting is not None or policies is None:
            return bool(setting)
        return policies.current().denies_groups(runtime.clock.now())

    callers = Identify(
        signatures=signatures,
        rules={one.name: token_rules(one, person_claim) for one in config.issuers},
        revoked=_never_revoked if overrides is None else overrides.is_revoked,
        find_lock=_never_locked if overrides is None else overrides.find_lock,
        groups_required=groups_required,
        groups_missing=missing.report,
        tokens_max=config.cache.tokens_max,
        clock=runtime.clock,
        telemetry=runtime.metrics,
    )
    runtime.metrics.gauge("gateway_tokens_cached", lambda: callers.cached_count)
    return callers


def _open_admins(
    runtime: Runtime,
    trusted: Mapping[str, TrustedIssuer],
    missing: MissingGroupsClaims,
    overrides: ActiveOverrides | None,
    *,
    revoked: Callable[[Principal], bool],
    find_lock: Callable[[Principal], str | None],
) -> Identify:
    config = runtime.config
    api = config.admin.api
    audiences = frozenset(() if api is None else (api.audience,))
    return Identify(
        signatures=JwtSignatures(trusted[issuer.name] for issuer in config.admin_issuers),
        rules={
            issuer.name: replace(token_rules(issuer), audiences=audiences)
            for issuer in config.admin_issuers
        },
        revoked=revoked,
        find_lock=find_lock,
        # With several groups claims, the one with the locked group may be absent.
        groups_required=lambda issuer: (
            overrides is not None and overrides.current.locks_groups(issuer)
        ),
        groups_missing=missing.report,
        tokens_max=_ADMINS_MAX,
        clock=runtime.clock,
        telemetry=runtime.metrics,
    )


def _never_revoked(_: Principal) -> bool:
    return False


def _never_locked(_: Principal) -> None:
    return None


def token_rules(issuer: Issuer, person_claim: str | None = None) -> TokenRules:
    groups, cli = _as_tuple(issuer.claims.groups), issuer.cli
    return TokenRules(
        issuer=issuer.name,
        iss=issuer.issuer,
        audiences=frozenset(issuer.audience),
        leeway_s=issuer.leeway_s,
        token_age_max_s=issuer.token_age_max_s,
        token_type=issuer.token_type,
        subject_claim=issuer.claims.subject,
        groups_claim=groups[0],
        more_groups_claims=groups[1:],
        token_id_claim=issuer.claims.token_id,
        audience_claim=issuer.claims.audience,
        required_claims=tuple(
            (claim, frozenset((type(one), one) for one in _as_tuple(values)))
            for claim, values in issuer.required_claims.items()
        ),
        person_claim=person_claim,
        id_token_client=cli.client_id if cli is not None and cli.sends_id_token else None,
    )


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
