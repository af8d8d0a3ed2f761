"""A program of some team's, written with the vendor's SDK, run in a process of its own.

It is steered by the environment alone, save for what the vendor's examples write into the code:
credentials and headers. It prints what came of each step as one line of JSON.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

WITHIN_S = 60.0

_SOURCE = """
import json, sys
from huaweicloudsdkclouddc.v1 import CloudDCClient, ShowRemoteConsoleRequest
from huaweicloudsdkclouddc.v1.region.clouddc_region import CloudDCRegion
from huaweicloudsdkcore.auth.credentials import BasicCredentials
from huaweicloudsdkcore.exceptions.exceptions import SdkException

asked = json.load(sys.stdin)

def told(error):
    found = {"exception": type(error).__name__, "text": str(error)}
    for name in ("status_code", "error_code", "error_msg", "request_id"):
        found[name] = getattr(error, name, None)
    return found

def make():
    builder = CloudDCClient.new_builder().with_region(CloudDCRegion.value_of("cn-east-3"))
    keys = asked.get("credentials")
    if keys is not None:
        pair = BasicCredentials(keys["ak"], keys["sk"], keys.get("project"))
        if "security_token" in keys:
            pair = pair.with_security_token(keys["security_token"])
        builder = builder.with_credentials(pair)
    client = builder.build()
    client.preset_headers.update(asked.get("headers", {}))
    return client

try:
    client = make()
except SdkException as error:
    print(json.dumps(told(error)))
    raise SystemExit
for server in asked["servers"]:
    try:
        answer = client.show_remote_console(ShowRemoteConsoleRequest(id=server))
        pair = client._credentials
        line = {"url": answer.url, "ak": pair.ak, "sk": pair.sk, "project": pair.project_id}
        line["security_token"] = pair.security_token
    except SdkException as error:
        line = told(error)
    print(json.dumps(line))
"""


def run_sdk(
    environ: Mapping[str, str], *, servers: list[str], **asked: Any
) -> list[dict[str, Any]]:
    """Open the consoles of `servers` one after another.

    `credentials` and `headers` are what the program would have in its source; without
    `credentials` the SDK finds them in the environment.
    """
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("HUAWEICLOUD")
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _SOURCE],
        input=json.dumps({"servers": servers, **asked}),
        env={**inherited, **environ},
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
