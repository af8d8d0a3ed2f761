"""README has the table of operations as the catalogue has it."""

from pathlib import Path

from gateway.config.settings import built_in_operations
from gateway.domain.catalogue.catalogue import SHOW_PERMISSIONS
from gateway.edge.docs.openapi import server_id_source

README = Path(__file__).parents[2] / "README.md"


def operations_table() -> str:
    rows = ["| operation | request, after `/v1/{project_id}` | takes | on |", "|---|---|---|---|"]
    for row in (*built_in_operations(), SHOW_PERMISSIONS):
        takes = f"`{row.permission}`" if row.permission else "nothing"
        rows.append(
            f"| {row.name} | `{row.method} {row.path}` | {takes} | {server_id_source(row)} |"
        )
    return "\n".join(rows)


def test_the_readme_has_the_table_of_operations_as_the_catalogue_has_it() -> None:
    assert operations_table() in README.read_text(), operations_table()
