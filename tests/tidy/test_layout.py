"""The layout of `gateway/`: size of the root, of modules and of functions; unique class names."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "gateway"
ROOT_MODULES_MAX = 4
MODULE_LINES_MAX = 500
FUNCTION_LINES_MAX = 60


def modules(package: Path) -> Iterator[tuple[str, str]]:
    """Yield each module's path in the package, and its source."""
    for file in sorted(package.rglob("*.py")):
        yield file.relative_to(package).as_posix(), file.read_text()


def long_modules(package: Path) -> set[str]:
    return {
        path for path, source in modules(package) if len(source.splitlines()) > MODULE_LINES_MAX
    }


def function_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines from `def` to the end, without the docstring."""
    assert function.end_lineno is not None
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        docstring = function.body[0]
        assert docstring.end_lineno is not None
        lines -= docstring.end_lineno - docstring.lineno + 1
    return lines


def long_functions(package: Path) -> set[str]:
    return {
        f"{path}:{node.name}"
        for path, source in modules(package)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and function_lines(node) > FUNCTION_LINES_MAX
    }


def shared_class_names(package: Path) -> set[str]:
    names = Counter(
        node.name
        for _, source in modules(package)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef)
    )
    return {name for name, count in names.items() if count > 1}


def root_modules(package: Path) -> list[str]:
    return [path for path, _ in modules(package) if "/" not in path]


def test_package_root_has_few_modules() -> None:
    assert len(root_modules(PACKAGE)) <= ROOT_MODULES_MAX


def test_modules_are_short() -> None:
    assert long_modules(PACKAGE) == set()


def test_functions_are_short() -> None:
    assert long_functions(PACKAGE) == set()


def test_class_names_are_unique() -> None:
    assert shared_class_names(PACKAGE) == set()


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    """Return a package with one fault of each kind, and a function of the allowed length."""
    docstring = '    """First line.\n\n    Second line.\n    """\n'
    allowed = f"def allowed():\n{docstring}" + "    pass\n" * (FUNCTION_LINES_MAX - 1)
    too_long = allowed.replace("allowed", "too_long") + "    pass\n"
    method = "".join(f"    {line}\n" for line in too_long.splitlines())
    (tmp_path / "room").mkdir()
    for name in ("a", "b", "c", "d", "e"):
        (tmp_path / f"{name}.py").write_text(f"class {name.upper()}:\n    pass\n")
    (tmp_path / "room" / "same.py").write_text("class A:\n    pass\n")
    (tmp_path / "room" / "long.py").write_text("x = 1\n" * (MODULE_LINES_MAX + 1))
    (tmp_path / "room" / "functions.py").write_text(f"{allowed}async {too_long}")
    (tmp_path / "room" / "method.py").write_text(f"class Room:\n{method}")
    return tmp_path


def test_planted_faults_are_found(faulty: Path) -> None:
    assert len(root_modules(faulty)) > ROOT_MODULES_MAX
    assert long_modules(faulty) == {"room/long.py"}
    assert long_functions(faulty) == {"room/functions.py:too_long", "room/method.py:too_long"}
    assert shared_class_names(faulty) == {"A"}
