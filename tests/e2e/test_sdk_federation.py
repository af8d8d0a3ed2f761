"""The vendor's SDK in a separate process, with the gateway in place of the cloud."""

import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.sdk_program import run_sdk
from tests.support.stack import CloudProcess, RunningGateway, Stack, eventually, fetch

LONG_LIFE_S = 7_200
HOWTO = Path(__file__).parents[2] / "docs" / "how-to" / "use-the-vendor-sdk.md"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    running = Stack(account={"region": "cn-east-3"})
    yield running
    running.close()


class Team:
    """A program that uses the SDK with a JWT in a file."""

    def __init__(self, gateway: RunningGateway, directory: Path) -> None:
        self.gateway, self.cloud = gateway, gateway.cloud
        self.token_file = directory / "id-token"
        self.secrets: list[str] = []

    def with_token(self, token: str) -> "Team":
        self.secrets.append(token)
        self.token_file.write_text(token + "\n")
        return self

    def environ(self, *, federated: bool = True, **more: str) -> dict[str, str]:
        found = {
            "HUAWEICLOUD_SDK_REGION_CLOUDDC_CN_EAST_3": self.gateway.url,
            "HUAWEICLOUD_SDK_IAM_ENDPOINT": self.gateway.url,
        }
        if federated:
            found["HUAWEICLOUD_SDK_IDP_ID"] = "corp"
            found["HUAWEICLOUD_SDK_ID_TOKEN_FILE"] = str(self.token_file)
        return found | more

    def open_consoles(
        self, *servers: str, environ: dict[str, str] | None = None, **fields: Any
    ) -> list[dict[str, Any]]:
        found = run_sdk(
            self.environ() if environ is None else environ,
            servers=list(servers) or [self.cloud.servers[0]],
            **fields,
        )
        for line in found:
            self.secrets += _secrets_in(line)
        return found


def _secrets_in(line: dict[str, Any]) -> list[str]:
    found = [line.get("sk"), line.get("security_token")]
    return [text for text in found if text and text != "x"]


def settled(gateway: RunningGateway) -> None:
    """Wait until every request is in the log, which is written in batches."""
    mark = f"mark-{secrets.token_hex(8)}"
    fetch(gateway.url, "GET", "/", {"X-Request-Id": mark})
    eventually(lambda: mark in gateway.log_text())


def operations(gateway: RunningGateway, count: int) -> list[str]:
    settled(gateway)
    lines = gateway.log_lines("request")[-count - 1 : -1]
    return [line.get("operation", "none") for line in lines]


def check_no_secret_in_log(team: Team) -> None:
    settled(team.gateway)
    log = team.gateway.log_text()
    for secret in team.secrets:
        assert secret not in log
        assert secret.rpartition(".")[2] not in log


@pytest.fixture
def team(stack: Stack, tmp_path: Path) -> Iterator[Team]:
    team = Team(stack.gateway, tmp_path)
    yield team
    check_no_secret_in_log(team)


def a_token(cloud: CloudProcess, **fields: Any) -> str:
    return cloud.token(fields.pop("subject", "olga"), **{"life_s": LONG_LIFE_S, **fields})


def check_rejected(line: dict[str, Any], status: int, code: str) -> str:
    """Check the exception and return its message."""
    assert line.get("exception") == "ClientRequestException", line
    assert (line["status_code"], line["error_code"]) == (status, code)
    assert line["error_msg"]
    assert line["request_id"]
    return str(line["error_msg"])


def keys_of(line: dict[str, Any]) -> dict[str, str]:
    return {
        "ak": line["ak"],
        "sk": line["sk"],
        "security_token": line["security_token"],
        "project": line["project"],
    }


def test_environment_variables_open_a_console(team: Team) -> None:
    team.with_token(a_token(team.cloud))
    (line,) = team.open_consoles()
    assert line["url"].startswith("https://cn-east-3-console.huaweicloud.com"), line
    assert line["ak"].startswith("CGW")
    assert line["project"] == team.cloud.project, "the project was found by the region's name"
    assert operations(team.gateway, 4) == [
        "CreateTokenWithIdToken",
        "CreateTemporaryAccessKey",
        "ListProjects",
        "ShowRemoteConsole",
    ]


def test_howto_program_lists_servers_and_opens_a_console(team: Team, tmp_path: Path) -> None:
    (source,) = re.findall(r"```python\n(.*?)```", HOWTO.read_text(), re.DOTALL)
    program = tmp_path / "program.py"
    program.write_text(source)
    team.with_token(a_token(team.cloud))
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", str(program), team.cloud.servers[0]],
        env={**os.environ, **team.environ()},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    *listed, url = ran.stdout.splitlines()
    assert team.cloud.servers[0] in {line.split()[0] for line in listed}
    assert url.startswith("https://cn-east-3-console.huaweicloud.com")


def test_keys_are_fetched_once_for_many_calls(team: Team) -> None:
    team.with_token(a_token(team.cloud))
    environ = team.environ(HUAWEICLOUD_SDK_PROJECT_ID=team.cloud.project)
    lines = team.open_consoles(*team.cloud.servers[:3], environ=environ)
    assert all(line["url"] for line in lines), lines
    assert operations(team.gateway, 5) == [
        "CreateTokenWithIdToken",
        "CreateTemporaryAccessKey",
        *["ShowRemoteConsole"] * 3,
    ]


def test_short_jwt_renews_keys_before_each_call(team: Team) -> None:
    # With less than 40 minutes left the SDK fetches keys before each call (upstream-api.md#4.2).
    team.with_token(a_token(team.cloud, life_s=300))
    environ = team.environ(HUAWEICLOUD_SDK_PROJECT_ID=team.cloud.project)
    lines = team.open_consoles(*team.cloud.servers[:2], environ=environ)
    assert all(line["url"] for line in lines), lines
    assert operations(team.gateway, 6).count("CreateTemporaryAccessKey") == 2


def test_viewer_finds_the_project_but_no_console(team: Team) -> None:
    team.with_token(a_token(team.cloud, subject="victor", groups=["viewers"]))
    (line,) = team.open_consoles()
    assert "Not permitted on this server" in check_rejected(line, 403, "CGW.4030")


def test_outsider_finds_no_project(team: Team) -> None:
    team.with_token(a_token(team.cloud, subject="otto", groups=[]))
    (line,) = team.open_consoles()
    assert line["exception"] == "SdkException"
    assert "Failed to get project id" in line["text"]
    environ = team.environ(HUAWEICLOUD_SDK_PROJECT_ID=team.cloud.project)
    (line,) = team.open_consoles(environ=environ)
    check_rejected(line, 403, "CGW.4030")


def test_expired_jwt_is_reported(team: Team) -> None:
    team.with_token(a_token(team.cloud, life_s=-120))
    environ = team.environ(HUAWEICLOUD_SDK_PROJECT_ID=team.cloud.project)
    (line,) = team.open_consoles(environ=environ)
    assert "the token has expired" in check_rejected(line, 401, "CGW.4010")


def static(team: Team, keys: dict[str, str]) -> dict[str, Any]:
    """Open a console with keys that another program fetched."""
    environ = team.environ(
        federated=False,
        HUAWEICLOUD_SDK_AK=keys["ak"],
        HUAWEICLOUD_SDK_SK=keys["sk"],
        HUAWEICLOUD_SDK_SECURITY_TOKEN=keys["security_token"],
        HUAWEICLOUD_SDK_PROJECT_ID=keys["project"],
    )
    (line,) = team.open_consoles(environ=environ)
    return line


@pytest.fixture
def keys(team: Team) -> dict[str, str]:
    team.with_token(a_token(team.cloud))
    (line,) = team.open_consoles()
    return keys_of(line)


def test_keys_work_in_another_program(team: Team, keys: dict[str, str]) -> None:
    assert static(team, keys)["url"]


def test_audit_log_names_the_access_key(team: Team, keys: dict[str, str]) -> None:
    static(team, keys)
    own = [
        one
        for event in ("credential_issued", "console_link_issued")
        for one in team.gateway.audit(event)
        if one.get("access_key") == keys["ak"]
    ]
    assert [one["operation"] for one in own] == [
        "CreateTemporaryAccessKey", "ShowRemoteConsole", "ShowRemoteConsole",
    ]  # fmt: skip
    audit_directory = team.gateway.directory / "audit"
    text = "".join(file.read_text() for file in audit_directory.glob("chain-*/segment-*"))
    assert not [one for one in team.secrets if one in text or one.rpartition(".")[2] in text]


@pytest.mark.parametrize("part", ["ak", "sk", "security_token"])
def test_changed_key_is_rejected(team: Team, keys: dict[str, str], part: str) -> None:
    last = "1" if keys[part][-1] == "0" else "0"
    message = check_rejected(static(team, {**keys, part: keys[part][:-1] + last}), 401, "CGW.4010")
    assert message.startswith("The credential was rejected: ")


def test_keys_of_two_pairs_are_rejected(team: Team, keys: dict[str, str]) -> None:
    (line,) = team.open_consoles()
    check_rejected(
        static(team, {**keys, "security_token": line["security_token"]}), 401, "CGW.4010"
    )


def test_wrong_clock_is_reported(team: Team, keys: dict[str, str]) -> None:
    headers = {"X-Sdk-Date": "20200101T000000Z"}
    environ = team.environ(federated=False)
    (line,) = team.open_consoles(environ=environ, credentials=keys, headers=headers)
    assert "set the clock" in check_rejected(line, 401, "CGW.4010")


def test_keys_end_with_the_issuers_key(tmp_path: Path) -> None:
    stack = Stack(account={"region": "cn-east-3"})
    try:
        team = Team(stack.gateway, tmp_path).with_token(a_token(stack.cloud))
        (line,) = team.open_consoles()
        keys = keys_of(line)
        assert static(team, keys)["url"]
        stack.cloud.rotate()
        # A token of the new key causes a key refresh.
        eventually(lambda: stack.gateway.console(a_token(stack.cloud)).status == 200)
        check_rejected(static(team, keys), 401, "CGW.4010")
        check_no_secret_in_log(team)
    finally:
        stack.close()


def test_keys_work_on_all_replicas(team: Team, stack: Stack, keys: dict[str, str]) -> None:
    other = stack.replica(account={"region": "cn-east-3"})
    elsewhere = Team(other, team.token_file.parent)
    assert static(elsewhere, keys)["url"]
    other.close()


def test_bearer_header_in_the_program_works(team: Team) -> None:
    token = a_token(team.cloud)
    team.secrets.append(token)
    dummy = {"ak": "x", "sk": "x", "project": team.cloud.project}
    environ = team.environ(federated=False)
    headers = {"Authorization": f"Bearer {token}"}
    (line,) = team.open_consoles(environ=environ, credentials=dummy, headers=headers)
    assert line["url"]


def test_x_auth_token_in_the_program_works(team: Team) -> None:
    token = a_token(team.cloud)
    team.secrets.append(token)
    dummy = {"ak": "x", "sk": "x", "project": team.cloud.project}
    environ = team.environ(federated=False)
    headers = {"X-Auth-Token": token}
    (line,) = team.open_consoles(environ=environ, credentials=dummy, headers=headers)
    assert line["url"]


def test_jwt_as_security_token_works(team: Team) -> None:
    token = a_token(team.cloud)
    team.secrets.append(token)
    pair = {"ak": "x", "sk": "x", "project": team.cloud.project, "security_token": token}
    (line,) = team.open_consoles(environ=team.environ(federated=False), credentials=pair)
    assert line["url"]
    environ = team.environ(
        federated=False,
        HUAWEICLOUD_SDK_AK="x",
        HUAWEICLOUD_SDK_SK="x",
        HUAWEICLOUD_SDK_SECURITY_TOKEN=token,
    )
    (line,) = team.open_consoles(environ=environ)
    assert line["url"]


def test_cloud_access_keys_get_a_helpful_error(team: Team) -> None:
    environ = team.environ(
        federated=False,
        HUAWEICLOUD_SDK_AK="x",
        HUAWEICLOUD_SDK_SK="x",
        HUAWEICLOUD_SDK_PROJECT_ID=team.cloud.project,
    )
    (line,) = team.open_consoles(environ=environ)
    assert "HUAWEICLOUD_SDK_ID_TOKEN_FILE" in check_rejected(line, 401, "CGW.4010")


def test_two_people_in_one_request_are_rejected(team: Team, keys: dict[str, str]) -> None:
    headers = {"X-Auth-Token": a_token(team.cloud, subject="otto")}
    environ = team.environ(federated=False)
    (line,) = team.open_consoles(environ=environ, credentials=keys, headers=headers)
    assert "two different tokens" in check_rejected(line, 401, "CGW.4010")
