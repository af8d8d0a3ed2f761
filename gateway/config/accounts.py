"""Config section `accounts`: cloud accounts, their login, links, budget and inventory."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from gateway.config.consoles import AccountConsole
from gateway.config.egress import EgressCertificate, Proxy
from gateway.config.errors import InvalidKey, reject_duplicates
from gateway.config.files import AuthoritiesFile, Directory, File
from gateway.config.secrets import SecretValue
from gateway.config.values import (
    ApiUrl,
    ConsoleHost,
    HttpUrl,
    Integer,
    Name,
    Number,
    Seconds,
    Section,
    reject_plain_http,
)
from gateway.domain.model import BudgetClass, Reuse
from gateway.domain.recordings.model import RecordingPolicy


class Agency(Section):
    """An agency: the right of another account's users to act in the account that created it."""

    domain: Annotated[str, Field(min_length=1, max_length=64)]
    """Name of the account (IAM domain) that created the agency. The `projects` belong to it."""
    name: Annotated[str, Field(min_length=1, max_length=64)]
    """Name of the agency."""


class PasswordLogin(Section):
    """Name and password of an IAM user: POST /v3/auth/tokens."""

    method: Literal["password"]
    """`password`: log in as an IAM user."""
    iam_endpoint: ApiUrl
    """Base URL of IAM, without `/v3`."""
    insecure_http: bool = False
    """Allow plain HTTP to another host. The password and the service tokens can then be read on
    the way."""
    user: str
    """Name of the IAM user."""
    domain: str
    """Name of the user's IAM domain (the account name)."""
    password: SecretValue
    """Password of the IAM user."""
    agency: Agency | None = None
    """Agency of another account, which the user assumes: the gateway logs in to the user's own
    domain, then obtains tokens of the agency. The user needs the permission Agent Operator. Each
    login is two calls of `budget.iam`. Unset: `projects` belong to the user's account."""
    renew_before_s: Seconds = 3_600.0
    """Seconds before its expiry at which a token is renewed in the background; at most half of
    its lifetime, which is 24 hours."""

    @model_validator(mode="after")
    def _is_encrypted(self) -> Self:
        reject_plain_http("iam_endpoint", self.iam_endpoint, insecure_http=self.insecure_http)
        return self


class KeyPairLogin(Section):
    """AK/SK: each request is signed with SDK-HMAC-SHA256; no token is fetched."""

    method: Literal["aksk"]
    """`aksk`: sign each request."""
    access_key: SecretValue
    """Access key ID (AK)."""
    secret_key: SecretValue
    """Secret access key (SK)."""
    security_token: SecretValue | None = None
    """Security token of a temporary key pair. Another program must renew the three files before
    they expire. Unset: the key pair is permanent."""


class MetadataLogin(Section):
    """Temporary keys of the ECS server on which the gateway runs; the server needs an agency."""

    method: Literal["ecs_metadata"]
    """`ecs_metadata`: sign each request with keys of the metadata endpoint."""
    metadata_endpoint: HttpUrl = "http://169.254.169.254"
    """Base URL of the metadata endpoint. It is reached without a proxy."""


class TokenFileLogin(Section):
    """A valid X-Auth-Token in a file that another program renews."""

    method: Literal["token_file"]
    """`token_file`: read the token from a file."""
    token_file: File
    """File that holds the token. A changed file is read again."""


class Timeouts(Section):
    """Time limits of one call to the cloud."""

    connect_s: Seconds = 3.0
    """Longest time to connect, in seconds."""
    read_s: Seconds = 10.0
    """Longest time between two parts of a response, in seconds."""
    total_s: Seconds = 15.0
    """Longest time of a whole call, in seconds."""


class LinkSettings(Section):
    """Console links: how long they are valid, and which requests share one."""

    lifetime_s: Seconds = 300.0
    """Seconds for which the cloud accepts a link. The cloud documents no value; similar APIs
    use 600 or less."""
    min_remaining_s: Seconds = 30.0
    """A link with fewer seconds left is not returned. It must be less than `lifetime_s`."""
    reuse: Reuse = Reuse.CALLER
    """Which requests share a link: `shared`, one per server; `caller`, one per server and person;
    `never`, only concurrent requests of one person."""
    renew_before_s: Annotated[Number, Field(ge=0, le=86_400)] = 60.0
    """Seconds before the end of a link's usable time from which a request renews it in the
    background, from spare budget. At most half of the usable time; 0 disables renewal."""
    console_hosts: Annotated[tuple[ConsoleHost, ...], Field(min_length=1)] = ("*.huaweicloud.com",)
    """Hosts that a link may lead to: exact names, or `*.domain` for every host below a domain.
    `host:443` allows this port only; without a port, every port is allowed."""

    @model_validator(mode="after")
    def _links_are_usable(self) -> Self:
        if self.min_remaining_s >= self.lifetime_s:
            problem = (
                f"{self.min_remaining_s:g} must be less than `lifetime_s`, which is"
                f" {self.lifetime_s:g}"
            )
            raise InvalidKey(("min_remaining_s",), problem)
        return self


class Rate(Section):
    """A rate limit: `requests` in `per_s` seconds, and `burst` of them at once."""

    requests: Annotated[Number, Field(ge=0.001, le=100_000)]
    """Calls per `per_s` seconds."""
    per_s: Seconds = 1.0
    """Period in seconds."""
    burst: Annotated[Integer, Field(ge=1, le=100_000)] = 1
    """Calls that may be sent at once after an idle period."""


def _as_list(value: object) -> object:
    return [value] if isinstance(value, Mapping) else value


_RateList = Annotated[tuple[Rate, ...], Field(min_length=1, max_length=4)]
Rates = Annotated[_RateList, BeforeValidator(_as_list, json_schema_input_type=Rate | _RateList)]


class AccountBudget(Section):
    """Rate ceilings and queue of the calls to one account.

    The rate in use is learned from the cloud's 429 responses and never exceeds the ceilings.
    """

    console: Rates = (Rate(requests=5, per_s=1, burst=5),)
    """Ceiling of calls to the servers API: one rate, or up to four that all apply. The first
    adapts to 429 responses. The cloud publishes no limit: start low."""
    iam: Rates = (Rate(requests=10, per_s=60, burst=2),)
    """Ceiling of logins at IAM, in the same form."""
    override_max: Annotated[Number, Field(gt=0, le=100_000)] | None = None
    """Highest rate in calls per second that `gateway admin rate-ceiling` may set. Unset: the rate
    of `console`, or that of `iam` for its budget."""
    wait_max_s: Seconds = 20.0
    """Longest wait in the queue, in seconds. A request that would wait longer is answered 429 at
    once."""
    queue_max: Annotated[Integer, Field(ge=1, le=100_000)] = 2_000
    """Calls that may wait, over all replicas. Beyond it, the last in fair order is rejected."""
    queue_caller_max: Annotated[Integer, Field(ge=1, le=100_000)] = 200
    """Calls of one person that may wait, over all replicas."""

    def override_max_per_s(self, budget: BudgetClass) -> float:
        """Return the highest rate ceiling that an administrator may set."""
        if self.override_max is not None:
            return self.override_max
        first = (self.console if budget is BudgetClass.CONSOLE else self.iam)[0]
        return first.requests / first.per_s


class BreakerSettings(Section):
    """Circuit breaker: when calls to a failing cloud are suspended, and for how long."""

    calls_min: Annotated[Integer, Field(ge=1, le=10_000)] = 10
    """Calls within `within_s` before the breaker may open."""
    failure_ratio: Annotated[Number, Field(gt=0, le=1)] = 0.5
    """Share of failed calls within `within_s` at which the breaker opens."""
    within_s: Seconds = 10.0
    """Period over which calls are counted, in seconds."""
    slow_s: Seconds = 10.0
    """A call that takes longer, in seconds, counts as failed."""
    open_s: Seconds = 1.0
    """Seconds without calls after the breaker opens; doubled after each failed probe."""
    open_max_s: Seconds = 30.0
    """Longest time without calls, in seconds."""


class InventorySettings(Section):
    """Servers with their attributes, which rules of the policy select by and people see."""

    poll_s: Seconds = 60.0
    """Interval in seconds at which servers are listed, from spare budget and only if the policy
    has rules by attributes or `page.enabled` is set."""
    age_max_s: Seconds = 600.0
    """Oldest usable inventory, in seconds. Beyond it, grants by attributes do not apply, but
    denials by attributes do. It must exceed `poll_s`."""
    directory: Directory | None = None
    """Directory for a copy of the inventory, used by `explain` and at a start without the cloud.
    Unset: no copy."""

    @model_validator(mode="after")
    def _inventory_outlives_a_poll(self) -> Self:
        if self.age_max_s <= self.poll_s:
            problem = f"{self.age_max_s:g} must be more than `poll_s`, which is {self.poll_s:g}"
            raise InvalidKey(("age_max_s",), problem)
        return self

    def inventory_file(self, project: str) -> Path | None:
        return None if self.directory is None else self.directory / f"inventory-{project}.json"


class Account(Section):
    name: Name
    """Name of the account in metrics, logs and the admin API."""
    endpoint: ApiUrl
    """Base URL of the region's servers API, without `/v1`."""
    insecure_http: bool = False
    """Allow plain HTTP to another host for `endpoint`. Service tokens and console links can then
    be read on the way."""
    proxy: Proxy | None = None
    """Proxy for this account only, or `direct`. Unset: as in `egress`."""
    ca_file: AuthoritiesFile | None = None
    """PEM file with the authorities that sign the certificates of its servers. Unset: those of
    the operating system."""
    certificate: EgressCertificate | None = None
    """Client certificate for its servers. Unset: none."""
    projects: Annotated[tuple[str, ...], Field(min_length=1)]
    """IDs of the account's projects. A project belongs to one account only."""
    project_names: dict[str, Annotated[str, Field(min_length=1, max_length=64)]] = Field(default={})
    """Project name by project ID, as `GET /v3/projects?name=` finds it."""
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$")] | None = None
    """Name of the account's only project if `project_names` has none: the vendor's SDK looks for
    a project named like its region."""
    login: Annotated[
        PasswordLogin | KeyPairLogin | MetadataLogin | TokenFileLogin,
        Field(discriminator="method"),
    ]
    """How the gateway authenticates to the cloud."""
    timeouts: Timeouts = Timeouts()
    """Time limits of one call to the cloud."""
    streams_max: Annotated[Integer, Field(ge=1, le=1000)] = 8
    """Concurrent downloads per process. Each holds a connection to the cloud until its reader
    has finished."""
    response_bytes_max: Annotated[Integer, Field(ge=1024, le=67_108_864)] = 8_388_608
    """Largest response that is read whole, in bytes. A page of 1000 servers has about 1 MB."""
    links: LinkSettings = LinkSettings()
    """Lifetime and reuse of console links."""
    console: AccountConsole = AccountConsole()
    """Whether consoles are the cloud's URLs or run through the gateway."""
    budget: AccountBudget = AccountBudget()
    """Rate ceilings and queue of calls to the cloud."""
    breaker: BreakerSettings = BreakerSettings()
    """Circuit breaker of calls to the cloud."""
    inventory: InventorySettings = InventorySettings()
    """Polling of server attributes."""

    @model_validator(mode="after")
    def _is_encrypted(self) -> Self:
        reject_plain_http("endpoint", self.endpoint, insecure_http=self.insecure_http)
        return self

    @property
    def delivers_proxied(self) -> bool:
        """Whether live consoles of the account run through the gateway."""
        return self.console.delivery == "proxied"

    @property
    def records(self) -> bool:
        """Whether live consoles of the account are recorded."""
        return self.console.recording is not RecordingPolicy.NEVER

    @property
    def requires_recording(self) -> bool:
        return self.console.recording is RecordingPolicy.REQUIRED

    @model_validator(mode="after")
    def _recording_is_possible(self) -> Self:
        if self.records and not self.delivers_proxied:
            path = ("console", "recording")
            raise InvalidKey(path, "requires `delivery: proxied`: the gateway must see the screen")
        if self.console.record_keys and not self.records:
            raise InvalidKey(("console", "record_keys"), "requires `recording`")
        return self

    @model_validator(mode="after")
    def _project_names_are_unique(self) -> Self:
        for project in self.project_names:
            if project not in self.projects:
                path = ("project_names", project)
                raise InvalidKey(path, "is not in the account's `projects`")
        reject_duplicates(
            (("project_names", key), name) for key, name in self.project_names.items()
        )
        return self

    def project_name(self, project: str) -> str:
        only = self.region if len(self.projects) == 1 else None
        return self.project_names.get(project) or only or project
