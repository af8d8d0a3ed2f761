import pytest

from tests.again import FILES_MAX, may_run_again

PANEL = "tests/e2e/test_monitoring.py::test_every_panel_has_data"


@pytest.mark.parametrize(
    ("failed", "again"),
    [
        ([], False),
        ([PANEL], True),
        ([PANEL, "tests/contract/test_budget.py::test_order[a::b]"], True),
        ([f"{PANEL}[{i}]" for i in range(50)], True),
        ([PANEL, "tests/unit/test_policy.py::test_denial"], False),
        (["tests/tidy/test_language.py"], False),
        (["tests/simulation/test_fleet.py::test_fleet"], False),
        ([f"tests/e2e/test_{i}.py::test" for i in range(FILES_MAX + 1)], False),
    ],
)
def test_few_failures_of_tests_with_processes_run_again(failed: list[str], *, again: bool) -> None:
    assert may_run_again(failed) is again
