"""The page's JavaScript, by Node's own test runner. Playwright's package brings the Node."""

import re
import subprocess
from pathlib import Path

import playwright

from gateway.domain.model import PERMISSIONS

PAGE = Path(__file__).parents[2] / "gateway" / "edge" / "consoles" / "page"
NODE = Path(playwright.__file__).parent / "driver" / "node"


def test_page_logic_passes_its_own_tests() -> None:
    files = sorted((PAGE / "test").glob("*.test.js"))
    done = subprocess.run(
        [NODE, "--test", "--test-reporter=tap", *files],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-5_000:] + done.stderr[-2_000:]
    passed = re.search(r"^# pass (\d+)$", done.stdout, re.MULTILINE)
    assert passed is not None
    assert int(passed[1]) > 50


def test_page_has_words_for_every_permission() -> None:
    texts = (PAGE / "src" / "people" / "texts.js").read_text()
    (block,) = re.findall(r"export const PERMISSIONS = \{(.*?)\};", texts, re.DOTALL)
    assert set(re.findall(r'^  "([^"]+)": "[^"]+",$', block, re.MULTILINE)) == PERMISSIONS
