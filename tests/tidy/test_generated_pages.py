"""The generated documents are up to date."""

import pytest

from tests.tidy.pages import PAGES, REFERENCE


@pytest.mark.parametrize("name", PAGES)
def test_page_equals_its_code(name: str) -> None:
    assert (REFERENCE / name).read_text() == PAGES[name](), "run `make docs`"
