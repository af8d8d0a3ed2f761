"""The whole config: its sections, the checks across sections, and `load_settings`.

Only gateway.config reads the environment. Secrets come from files or variables that the config
names, never from the config file itself. Times are in seconds (`_s`), sizes in bytes (`_bytes`).
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, NamedTuple, Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from gateway.config.access_requests import AccessRequestSettings
from gateway.config.accounts import Account
from gateway.config.audit import AuditSettings
from gateway.config.consoles import ConsoleSettings
from gateway.config.contact import ContactSettings
from gateway.config.egress import EgressSettings
from gateway.config.errors import InvalidConfig, InvalidKey, KeyPath, reject_duplicates
from gateway.config.files import ConfigPath
from gateway.config.issuers import DiscoveryKeys, Issuer
from gateway.config.limits import (
    CacheSizes,
    CallerLimitSettings,
    FairnessSettings,
    ListSettings,
    RequestLimits,
)
from gateway.config.listen import AdminListen, PublicListen, hosts_overlap
from gateway.config.located_yaml import Document, load
from gateway.config.login import LoginSettings
from gateway.config.operations import OperationChanges, built_in_operations
from gateway.config.overrides import OverrideSettings
from gateway.config.people_page import PeoplePageSettings
from gateway.config.policy_names import KnownNames
from gateway.config.recordings import RecordingSettings
from gateway.config.store import RedisAccess, StoreSettings
from gateway.config.telemetry import LogSettings, MetricsSettings
from gateway.config.validation import config_errors
from gateway.config.values import Section
from gateway.domain.catalogue.catalogue import SHOW_PERMISSIONS
from gateway.domain.model import Operation
from gateway.domain.quoted import quoted


class WritableDirectory(NamedTuple):
    """A directory that `serve` writes to."""

    key: KeyPath
    """The key that names it."""
    directory: Path
    is_required: bool
    """Without it the gateway must not start: it could not serve, or would lose revocations."""


class Settings(Section):
    listen: PublicListen = PublicListen()
    """The public listener: address, TLS, trusted proxies."""
    request: RequestLimits = RequestLimits()
    """Time limits of requests and of shutdown."""
    issuers: Annotated[tuple[Issuer, ...], Field(min_length=1)]
    """Identity providers of callers."""
    login: LoginSettings = LoginSettings()
    """Sessions of people who log in with a browser (`issuers[].login`)."""
    contact: ContactSettings | None = None
    """Contact for people whose request is rejected. Pages and commands show it."""
    admin: AdminListen = AdminListen()
    """The admin listener: metrics, health checks and the admin API."""
    policy_file: ConfigPath
    """The policy file. A changed file is loaded within a second, or rejected as a whole."""
    accounts: Annotated[tuple[Account, ...], Field(min_length=1)]
    """Cloud accounts and their projects."""
    console: ConsoleSettings = ConsoleSettings()
    """Limits of live consoles that run through the gateway."""
    recordings: RecordingSettings = RecordingSettings()
    """Recordings of live consoles: directory, keys and retention."""
    egress: EgressSettings = EgressSettings()
    """How the gateway reaches clouds, IAM and issuers."""
    store: StoreSettings
    """Redis or Valkey, and the keys that encrypt what is stored there."""
    caller_limits: CallerLimitSettings = CallerLimitSettings()
    """Rate limit per person over all replicas."""
    fairness: FairnessSettings = FairnessSettings()
    """Fair-share weights of groups."""
    lists: ListSettings = ListSettings()
    """Cache and bounds of lists."""
    operations: OperationChanges = OperationChanges()
    """Changes to the built-in catalogue of operations."""
    cache: CacheSizes = CacheSizes()
    """Entries that a process caches."""
    overrides: OverrideSettings = OverrideSettings()
    """Revocations and other overrides that administrators set at runtime."""
    requests: AccessRequestSettings = AccessRequestSettings()
    """Access requests: bounds, retention, and what shows that two people differ."""
    page: PeoplePageSettings = PeoplePageSettings()
    """Whether people see their servers over all accounts: the page, and `GET /servers`."""
    metrics: MetricsSettings = MetricsSettings()
    """Labels of metrics."""
    log: LogSettings = LogSettings()
    """Log levels and sampling."""
    audit: Annotated[AuditSettings, Field(default_factory=dict, validate_default=True)]
    """Destinations of the audit log; at least one is required."""

    @field_validator("overrides")
    @classmethod
    def _is_enabled_with_an_admin_api(
        cls, overrides: OverrideSettings, info: ValidationInfo
    ) -> OverrideSettings:
        admin = info.data.get("admin")
        if not overrides.enabled and admin is not None and admin.api is not None:
            raise InvalidKey(("enabled",), "must be `true` with `admin.api`")
        return overrides

    @property
    def catalogue(self) -> tuple[Operation, ...]:
        """Return the operations that callers may use."""
        return (*self._enabled_operations, *self.operations.add)

    @property
    def _enabled_operations(self) -> tuple[Operation, ...]:
        disabled = frozenset(self.operations.disable)
        enabled = (row for row in built_in_operations() if row.name not in disabled)
        return (*enabled, SHOW_PERMISSIONS)

    @property
    def delivers_proxied(self) -> bool:
        """Whether live consoles of any account run through the gateway."""
        return any(account.delivers_proxied for account in self.accounts)

    @property
    def has_logins(self) -> bool:
        """Whether people can log in with a browser."""
        return any(issuer.login is not None for issuer in self.issuers)

    @property
    def public_contact(self) -> dict[str, str] | None:
        """Return `contact` as pages and commands get it; None if there is none."""
        return None if self.contact is None else self.contact.model_dump()

    @property
    def project_ids(self) -> list[str]:
        return [project for account in self.accounts for project in account.projects]

    @property
    def policy_names(self) -> KnownNames:
        """Return the names that the policy may refer to."""
        regions: dict[str, tuple[str, ...]] = {}
        for account in self.accounts:
            if account.region is not None:
                regions[account.region] = (*regions.get(account.region, ()), *account.projects)
        return KnownNames(
            issuers=tuple(issuer.name for issuer in self.issuers),
            projects=tuple(self.project_ids),
            accounts={account.name: account.projects for account in self.accounts},
            regions=regions,
        )

    @property
    def writable_directories(self) -> Iterator[WritableDirectory]:
        if self.audit.directory is not None:
            denies = self.audit.on_unavailable == "deny"
            yield WritableDirectory(
                ("audit", "directory"), self.audit.directory, is_required=denies
            )
        if self.recordings.directory is not None:
            key = ("recordings", "directory")
            is_required = any(one.requires_recording for one in self.accounts)
            yield WritableDirectory(key, self.recordings.directory, is_required=is_required)
        if self.overrides.file is not None:
            directory = self.overrides.file.parent
            yield WritableDirectory(("overrides", "file"), directory, is_required=True)
        if self.requests.file is not None:
            directory = self.requests.file.parent
            yield WritableDirectory(("requests", "file"), directory, is_required=False)
        for i, account in enumerate(self.accounts):
            if account.inventory.directory is not None:
                path = ("accounts", i, "inventory", "directory")
                yield WritableDirectory(path, account.inventory.directory, is_required=False)

    def admin_ports(self, workers: int) -> range:
        """Return the admin port of each worker; empty if the operating system chooses them."""
        first = self.admin.port
        return range(first, first + workers) if first else range(0)

    @property
    def admin_issuers(self) -> tuple[Issuer, ...]:
        """Return the issuers of administrators' tokens."""
        api = self.admin.api
        if api is None:
            return ()
        return tuple(one for one in self.issuers if api.issuers is None or one.name in api.issuers)

    @field_validator("admin")
    @classmethod
    def _administrators_are_distinct(cls, admin: AdminListen, info: ValidationInfo) -> AdminListen:
        api, issuers = admin.api, info.data.get("issuers", ())
        if api is None or not issuers:
            return admin
        for issuer in issuers:
            if api.audience in issuer.audience:
                problem = (
                    f"must differ from every `issuers[].audience`; {issuer.name} has"
                    f" {quoted(api.audience)} too"
                )
                raise InvalidKey(("api", "audience"), problem)
        names = {issuer.name for issuer in issuers}
        if (len(names) > 1 and api.issuers is None) or not names.issuperset(api.issuers or ()):
            # Otherwise every issuer could appoint administrators.
            problem = f"must name the issuers of administrators' tokens: {', '.join(sorted(names))}"
            raise InvalidKey(("api", "issuers"), problem)
        return admin

    @model_validator(mode="after")
    def _browsers_can_reach_live_consoles(self) -> Self:
        if self.delivers_proxied and self.listen.public_url is None:
            problem = "is required: an account has `console.delivery: proxied`"
            raise InvalidKey(("listen", "public_url"), problem)
        return self

    @model_validator(mode="after")
    def _browsers_can_log_in(self) -> Self:
        for i, issuer in enumerate(self.issuers):
            if issuer.login is not None and self.listen.public_url is None:
                raise InvalidKey(("issuers", i, "login"), "requires `listen.public_url`")
        if self.console.browser_login == "required" and not self.has_logins:
            problem = "requires an issuer with `login`"
            raise InvalidKey(("console", "browser_login"), problem)
        return self

    @model_validator(mode="after")
    def _administrators_can_log_in(self) -> Self:
        login = self.admin.login
        if login is None:
            return self
        issuer = next((one for one in self.admin_issuers if one.name == login.issuer), None)
        if issuer is None:
            names = ", ".join(sorted(one.name for one in self.admin_issuers))
            problem = f"must be an issuer of administrators' tokens: {names}"
            raise InvalidKey(("admin", "login", "issuer"), problem)
        if not isinstance(issuer.keys, DiscoveryKeys):
            raise InvalidKey(("admin", "login", "issuer"), "must have `keys.discovery`")
        if login.client_id in self._audiences:
            problem = "must differ from every other `client_id` and `audience` of the config"
            raise InvalidKey(("admin", "login", "client_id"), problem)
        origins = {
            urlsplit(url or "").netloc for url in (self.admin.public_url, self.listen.public_url)
        }
        if len(origins) == 1:
            # Pages of one origin may read each other.
            problem = "must have another host or port than `listen.public_url`"
            raise InvalidKey(("admin", "public_url"), problem)
        return self

    @property
    def _audiences(self) -> Iterator[str]:
        """Yield the audiences of other tokens than those of the client of `admin.login`."""
        if self.admin.api is not None:
            yield self.admin.api.audience
        for issuer in self.issuers:
            yield from issuer.audience
            yield from (one.client_id for one in (issuer.login, issuer.cli) if one is not None)

    @model_validator(mode="after")
    def _recordings_have_a_place(self) -> Self:
        recordings = self.recordings
        if recordings.directory is not None and not recordings.keys:
            raise InvalidKey(("recordings", "keys"), "is required with `recordings.directory`")
        if recordings.directory is not None and self.listen.public_url is None:
            problem = "is required with `recordings.directory`: the player is below it"
            raise InvalidKey(("listen", "public_url"), problem)
        for i, account in enumerate(self.accounts):
            if account.records and recordings.directory is None:
                problem = "requires `recordings.directory` and `recordings.keys`"
                raise InvalidKey(("accounts", i, "console", "recording"), problem)
        return self

    @model_validator(mode="after")
    def _listeners_have_distinct_ports(self, info: ValidationInfo) -> Self:
        workers = (info.context or {}).get("workers", 1)
        ports = self.admin_ports(workers)
        if ports.stop > 65_536:
            problem = f"leaves no port for each of {workers} workers; worker i uses this port + i"
            raise InvalidKey(("admin", "port"), problem)
        listen = self.listen
        is_on_port = listen.unix_socket is None and hosts_overlap(listen.host, self.admin.host)
        if is_on_port and listen.port in ports:
            worker = ports.index(listen.port)
            problem = f"is the admin port of worker {worker}; worker i uses `admin.port` + i"
            raise InvalidKey(("listen", "port"), problem)
        return self

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        added = enumerate(self.operations.add)
        issuers, accounts = tuple(enumerate(self.issuers)), tuple(enumerate(self.accounts))
        reject_duplicates(
            [
                *(((), row.name) for row in self._enabled_operations),
                *((("operations", "add", i, "name"), row.name) for i, row in added),
            ]
        )
        reject_duplicates((("issuers", i, "name"), issuer.name) for i, issuer in issuers)
        webhooks = enumerate(self.requests.webhooks)
        reject_duplicates((("requests", "webhooks", i, "name"), one.name) for i, one in webhooks)
        reject_duplicates((("issuers", i, "issuer"), issuer.issuer) for i, issuer in issuers)
        reject_duplicates((("accounts", i, "name"), account.name) for i, account in accounts)
        reject_duplicates(
            (("accounts", i, "projects", j), project)
            for i, account in accounts
            for j, project in enumerate(account.projects)
        )
        return self


def egress_files(settings: Settings) -> Iterator[Path]:
    """Yield the certificate files of outgoing connections."""
    owners: tuple[Account | Issuer, ...] = (*settings.accounts, *settings.issuers)
    for one in owners:
        if one.ca_file is not None:
            yield one.ca_file
        if one.certificate is not None:
            yield from (one.certificate.certificate_file, one.certificate.key_file)


def client_certificates(settings: Settings) -> Iterator[tuple[str, KeyPath, Path]]:
    """Yield each client certificate of outgoing connections: its use, its key, and the file."""
    for i, account in enumerate(settings.accounts):
        if account.certificate is not None:
            path: KeyPath = ("accounts", i, "certificate", "certificate_file")
            yield f"account {account.name}", path, account.certificate.certificate_file
    for i, issuer in enumerate(settings.issuers):
        if issuer.certificate is not None:
            path = ("issuers", i, "certificate", "certificate_file")
            yield f"issuer {issuer.name}", path, issuer.certificate.certificate_file
    redis = settings.store.redis
    if isinstance(redis, RedisAccess) and redis.tls_certificate_file is not None:
        path = ("store", "redis", "tls_certificate_file")
        yield "redis", path, redis.tls_certificate_file


def load_settings(
    file: Path, environ: Mapping[str, str] = os.environ, *, workers: int = 1
) -> Settings:
    """Read and validate the config file for this number of worker processes.

    Raises InvalidConfig with every error.
    """
    return validate_settings(load(file), environ, workers=workers)


def validate_settings(
    document: Document, environ: Mapping[str, str] = os.environ, *, workers: int = 1
) -> Settings:
    """Validate a config file that is loaded already; see `load_settings`."""
    base = Path(document.file).parent
    try:
        return Settings.model_validate(
            document.data if document.data is not None else {},
            context={"base": base, "environ": environ, "workers": workers},
        )
    except ValidationError as error:
        raise InvalidConfig(config_errors(error, document, Settings)) from None
