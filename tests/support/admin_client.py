"""A client for the commands of `gateway admin` that records the request and sends none."""

from typing import Any


class RequestRecorded(Exception):
    pass


class RecordingAdminClient:
    def __init__(self) -> None:
        self.method = self.path = ""

    def request(self, path: str, *, body: Any = None) -> None:
        self.method, self.path = "GET" if body is None else "POST", path
        raise RequestRecorded
