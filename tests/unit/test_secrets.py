"""Secrets that were read from a file, which may change while the process runs."""

from pathlib import Path

import pytest

from gateway.config.secrets import SecretOfFile


def test_secret_of_a_file_can_be_read_again(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("canary-before\n")
    secret = SecretOfFile.read(file)
    file.write_text("canary-after\n")
    assert secret.reveal() == "canary-before"
    assert secret.read_again().reveal() == "canary-after"
    assert "canary" not in f"{secret} {secret!r}"


def test_unreadable_secret_file_is_named_without_content(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_bytes(b"canary")
    secret = SecretOfFile.read(file)
    file.write_bytes(b"canary\xff")
    with pytest.raises(ValueError, match="password is not UTF-8") as caught:
        secret.read_again()
    assert "canary" not in str(caught.value)
