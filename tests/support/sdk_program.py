"""A client program that uses the vendor's SDK, run in a separate process.

Its environment controls it, except credentials and headers, which the vendor's examples write into
the code. It prints the result of each step as one line of JSON.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

TIMEOUT_S = 60.0

_SOURCE = """
import json, sys
from huaweicloudsdkclouddc.v1 import CloudDCClient, ShowRemoteConsoleRequest
from huaweicloudsdkclouddc.v1.region.clouddc_region import CloudDCRegion
from huaweicloudsdkcore.auth.credentials import BasicCredentials
from huaweicloudsdkcore.exceptions.exceptions import SdkException

parameters = json.load(sys.stdin)

def describe(error):
    found = {"exception": type(error).__name__, "text": str(error)}
    for name in ("status_code", "error_code", "error_msg", "request_id"):
        found[name] = getattr(error, name, None)
    return found

def make():
    builder = CloudDCClient.new_builder().with_region(CloudDCRegion.value_of("cn-east-3"))
    keys = parameters.get("credentials")
    if keys is not None:
        pair = BasicCredentials(keys["ak"], keys["sk"], keys.get("project"))
        if "security_token" in keys:
            pair = pair.with_security_token(keys["security_token"])
        builder = builder.with_credentials(pair)
    client = builder.build()
    client.preset_headers.update(parameters.get("headers", {}))
    return client

try:
    client = make()
except SdkException as error:
    print(json.dumps(describe(error)))
    raise SystemExit
for server in parameters["servers"]:
    try:
        response = client.show_remote_console(ShowRemoteConsoleRequest(id=server))
        pair = client._credentials
        line = {"url": response.url, "ak": pair.ak, "sk": pair.sk, "project": pair.project_id}
        line["security_token"] = pair.security_token
    except SdkException as error:
        line = describe(error)
    print(json.dumps(line))
"""


def run_sdk(
    environ: Mapping[str, str], *, servers: list[str], **parameters: Any
) -> list[dict[str, Any]]:
    """Open the consoles of `servers` one after the other.

    `credentials` and `headers` are constants of the program. Without `credentials` the SDK reads
    them from the environment.
    """
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("HUAWEICLOUD")
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _SOURCE],
        input=json.dumps({"servers": servers, **parameters}),
        env={**inherited, **environ},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
