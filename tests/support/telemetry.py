"""A Telemetry that records its calls."""

from collections import Counter

from gateway.domain.model import BudgetClass, LinkSource, StageTimes
from gateway.flow.telemetry import HitCounts


class RecordingTelemetry:
    def __init__(self) -> None:
        self.times: list[StageTimes] = []
        self.identifications: list[tuple[str, str]] = []
        self.links: Counter[LinkSource] = Counter()
        self.upstream_calls: list[tuple[str, str]] = []
        self.logins: list[tuple[str, str]] = []
        self.expires: dict[tuple[str, str], float] = {}
        self.login_refused: dict[tuple[str, str], bool] = {}
        self.key_refreshes: list[tuple[str, str]] = []
        self.reloads: list[tuple[str, int]] = []
        self.waits: list[tuple[str, BudgetClass, float]] = []
        self.budget_refusals: list[tuple[str, BudgetClass]] = []
        self.slots_lost: list[tuple[str, BudgetClass]] = []
        self.breakers_opened: list[str] = []
        self.renewals: list[tuple[str, str]] = []
        self.store: list[bool] = []
        self.subscribed: list[bool] = []
        self.polls: list[tuple[str, str]] = []
        self.decisions: list[tuple[str, bool]] = []
        self.evictions: list[str] = []
        self.store_calls: Counter[bool] = Counter()
        self.audit_records_missing = 0
        self.audit_events: Counter[str] = Counter()
        self.audit_commits: list[float] = []
        self.audit_failures = 0

    def identified(self, issuer: str, outcome: str) -> None:
        self.identifications.append((issuer, outcome))

    def decided(self, permission: str, *, allowed: bool) -> None:
        self.decisions.append((permission, allowed))

    def hit_counts(self, *_: object, **__: object) -> HitCounts:
        raise NotImplementedError  # the hit path's tests use the real metrics

    def evicted(self, kind: str) -> None:
        self.evictions.append(kind)

    def store_called(self, seconds: float, *, ok: bool) -> None:
        self.store_calls[ok] += 1

    def audit_record_missing(self) -> None:
        self.audit_records_missing += 1

    def link_served(
        self, account: str, groups: frozenset[str], source: LinkSource, times: StageTimes
    ) -> None:
        self.times.append(times)
        self.links[source] += 1

    def upstream_call(self, account: str, outcome: str, seconds: float) -> None:
        self.upstream_calls.append((account, outcome))

    def service_login(self, account: str, outcome: str) -> None:
        self.logins.append((account, outcome))

    def service_credential_expires(self, account: str, project: str, at: float) -> None:
        self.expires[account, project] = at

    def service_login_refused(self, account: str, project: str, *, refused: bool) -> None:
        self.login_refused[account, project] = refused

    def keys_refreshed(self, issuer: str, outcome: str) -> None:
        self.key_refreshes.append((issuer, outcome))

    def policy_reloaded(self, outcome: str, rules: int) -> None:
        self.reloads.append((outcome, rules))

    def budget_wait(self, account: str, budget: BudgetClass, seconds: float) -> None:
        self.waits.append((account, budget, seconds))

    def budget_refused(self, account: str, budget: BudgetClass) -> None:
        self.budget_refusals.append((account, budget))

    def budget_slot_lost(self, account: str, budget: BudgetClass) -> None:
        self.slots_lost.append((account, budget))

    def breaker_opened(self, account: str) -> None:
        self.breakers_opened.append(account)

    def link_renewed(self, account: str, outcome: str) -> None:
        self.renewals.append((account, outcome))

    def inventory_polled(self, account: str, outcome: str) -> None:
        self.polls.append((account, outcome))

    def store_available(self, *, available: bool) -> None:
        self.store.append(available)

    def store_subscribed(self, *, subscribed: bool) -> None:
        self.subscribed.append(subscribed)

    def audit_recorded(self, event: str, count: int = 1) -> None:
        self.audit_events[event] += count

    def audit_committed(self, seconds: float) -> None:
        self.audit_commits.append(seconds)

    def audit_failed(self) -> None:
        self.audit_failures += 1
