"""The docstrings below the keys of config sections, which the schema shows.

Pydantic would read them from the source files whenever a command starts.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from typing import Final

_LIBRARIES: Final = ("builtins", "pydantic")


@cache
def key_docs(section: type) -> Mapping[str, str]:
    """Return the docstring of each key, also of those that the section inherits."""
    bases = reversed(section.__mro__)
    own = (one for one in bases if one.__module__.partition(".")[0] not in _LIBRARIES)
    return {key: text for one in own for key, text in _docs_of(one)}


def _docs_of(section: type) -> Iterator[tuple[str, str]]:
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(section))).body
    assert isinstance(definition, ast.ClassDef)
    for statement, following in pairwise(definition.body):
        match statement, following:
            case (
                ast.AnnAssign(target=ast.Name(id=key)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                yield key, inspect.cleandoc(text)
            case _:
                pass
