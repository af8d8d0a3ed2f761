"""The documents name only links, paths, commands, keys, metrics and codes that exist."""

import argparse
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from pydantic import BaseModel

from gateway.commands import parser
from gateway.commands.arguments import CommandParser
from gateway.config.policy_schema import POLICY_SCHEMA
from gateway.config.settings import Settings
from gateway.drivers.telemetry.metrics_contract import BY_NAME
from gateway.edge.error_table import ERROR_SPECS

ROOT = Path(__file__).parents[2]
_TRACKED = subprocess.run(
    ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
).stdout.split("\n")
PAGES = [ROOT / name for name in _TRACKED if name.endswith(".md")]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
NOT_IN_CHECKOUT = (
    "deploy/compose/secrets",
    "deploy/kubernetes/my-cluster",
    "docs/formatdomain.rst",  # libvirt's
    "tests/e2e/pictures",
)
"""Paths that a reader creates, or that lie in another repository."""
_CODE = re.compile(r"`([^`\n]+)`")


def blocks(text: str) -> Iterator[str]:
    """Yield the lines of code blocks, indented or fenced, joined where they continue."""
    fenced = [block for found in _FENCE.findall(text) for block in found.split("\n")[1:-1]]
    indented = [line for line in _FENCE.sub("", text).split("\n") if line.startswith("    ")]
    yield from "\n".join([*fenced, *indented]).replace("\\\n", " ").split("\n")


def slug(heading: str) -> str:
    """Return the anchor that a forge makes of a heading."""
    text = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    text = _FENCE.sub("", page.read_text())
    headings = re.findall(r"^#{1,6} +(.*)$", text, re.MULTILINE)
    return {slug(heading) for heading in headings} | set(re.findall(r'<a id="([^"]+)"', text))


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_to_pages_and_anchors(page: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", _FENCE.sub("", page.read_text()))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        to = (page.parent / path).resolve() if path else page
        assert to.exists(), target
        assert not anchor or anchor in anchors(to), target


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_paths_exist(page: Path) -> None:
    for token in _CODE.findall(page.read_text()):
        path = token.split("::")[0]
        if re.fullmatch(r"(gateway|tests|deploy|config|docs)/[\w./-]+", path):
            assert (ROOT / path).exists() or path.startswith(NOT_IN_CHECKOUT), token


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_named_tests_exist(page: Path) -> None:
    for file, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text()):
        assert re.search(rf"def {name}\(", (ROOT / file).read_text()), f"{file}::{name}"


def fields_of(annotation: Any) -> dict[str, Any]:
    """Return the keys below an annotation, through lists, unions and mappings."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {name: field.annotation for name, field in annotation.model_fields.items()}
    if isinstance(annotation, type) and is_dataclass(annotation):
        return get_type_hints(annotation)
    found: dict[str, Any] = {}
    for inner in get_args(annotation):
        found |= fields_of(inner)
    return found


def is_key(token: str) -> bool:
    found = fields_of(Settings)
    for step in token.replace("[]", "").split("."):
        if step == "*":
            return True
        if step not in found:
            return False
        found = fields_of(found[step])
    return True


def is_policy_key(token: str) -> bool:
    """Return whether a key is one of the policy's section `requests`, as the config has one too."""
    schema = POLICY_SCHEMA
    for step in token.replace("[]", "").split("."):
        schema = schema.get("items", schema)
        if step not in schema.get("properties", {}):
            return False
        schema = schema["properties"][step]
    return True


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_config_keys_exist(page: Path) -> None:
    sections = "|".join(Settings.model_fields)
    for token in _CODE.findall(page.read_text()):
        key = token.split(":")[0].strip()
        if re.fullmatch(rf"({sections})(\[\])?(\.[a-z_*]+(\[\])?)+", key) and not re.search(
            r"\.(ya?ml|md|json|py|com|lua)$", key
        ):
            assert is_key(key) or is_policy_key(key), token


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_metrics_exist(page: Path) -> None:
    for name in re.findall(r"(?<![:\w])gateway_[a-z_]+[a-z]\b(?!:)", page.read_text()):
        base = re.sub(r"_(count|sum|bucket)$", "", name)
        assert {name, base} & BY_NAME.keys() or name == "gateway_build_info", name


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_error_codes_exist(page: Path) -> None:
    codes = {spec.code for spec in ERROR_SPECS}
    assert set(re.findall(r"CGW\.\d{4}", page.read_text())) <= codes


def commands_in(page: Path) -> Iterator[list[str]]:
    text = page.read_text()
    found = [*_CODE.findall(_FENCE.sub("", text)), *blocks(text)]
    for line in found:
        # What follows a prompt, variables, or a container's entry point is the command.
        match = re.search(r"(?:^|\$ |&& |exec \S+ |[A-Z_]+=\S+ )\s*gateway ([a-z][^|#;>()]*)", line)
        if match:
            try:
                yield shlex.split(match.group(1))
            except ValueError:
                yield match.group(1).split()


def unknown_in(words: list[str], found: argparse.ArgumentParser) -> str:
    """Return the first subcommand or option of a command that the parser does not know."""
    if isinstance(found, CommandParser):
        found.load()
    options = {name for action in found._actions for name in action.option_strings}
    subs = next(
        (
            action.choices
            for action in found._actions
            if isinstance(action, argparse._SubParsersAction)
        ),
        None,
    )
    for at, word in enumerate(words):
        plain = word.strip("[],.…").split("=")[0]
        if plain.startswith("--") and plain not in options:
            return plain
        if subs is not None and re.fullmatch(r"[a-z][a-z-]*", plain):
            return plain if plain not in subs else unknown_in(words[at + 1 :], subs[plain])
    return ""


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_parse(page: Path) -> None:
    top = parser.build_parser()
    for words in commands_in(page):
        assert not unknown_in(words, top), " ".join(words)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = page.read_text()
    for line in [*_CODE.findall(text), *blocks(text)]:
        for target in re.findall(r"(?:^|&& )\s*make ([a-z0-9-]+)", line):
            assert target in targets, target


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    pages = [page for page in PAGES if (ROOT / "docs") in page.parents and page.name != "README.md"]
    missing = [str(page) for page in pages if str(page.relative_to(ROOT / "docs")) not in index]
    assert not missing
