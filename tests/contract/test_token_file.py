"""The token file: a half-written token never replaces a whole one."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from gateway.config.accounts import TokenFileLogin
from gateway.domain.model import UpstreamRequest
from gateway.drivers.cloud.token_file_credential import TokenFileCredential
from tests.support.clock import FakeClock
from tests.support.telemetry import RecordingTelemetry

OLD, NEW = "A" * 40, "B" * 40
REQUEST = UpstreamRequest("GET", "/v1/p/physicalservers")


async def test_half_written_token_never_replaces_a_whole_one(
    tmp_path: Path, clock: FakeClock
) -> None:
    file = tmp_path / "token"
    file.write_text(OLD)
    check: Any = SimpleNamespace(is_doubted=lambda _: False)
    credential = TokenFileCredential(
        "prod",
        TokenFileLogin(method="token_file", token_file=file),
        check=check,
        clock=clock,
        telemetry=RecordingTelemetry(),
    )

    async def sent() -> str:
        await clock.advance(2.0)
        headers = await credential.headers(REQUEST, deadline=clock.monotonic() + 5)
        await asyncio.sleep(0)
        return dict(headers)["X-Auth-Token"]

    assert await sent() == OLD
    with file.open("w") as writing:
        writing.write(NEW[:20])
        writing.flush()
        assert await sent() == OLD
        writing.write(NEW[20:])
    assert await sent() == NEW
