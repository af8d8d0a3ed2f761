"""The page of operations, which is generated from the catalogue."""

from pathlib import Path

from gateway.edge.docs.reference import operations_page

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "operations.md"


def test_operations_page_matches_the_catalogue() -> None:
    assert PAGE.read_text() == operations_page(), "run `make docs`"
