"""Config section `operations`: changes to the catalogue of operations."""

from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, TypeAdapter, field_validator

from gateway.config.errors import InvalidKey
from gateway.config.located_yaml import hint, load
from gateway.config.values import Section
from gateway.domain.catalogue.catalogue import operation_problems
from gateway.domain.model import Operation


def _valid_operation(row: Operation) -> Operation:
    for problem in operation_problems(row):
        raise ValueError(problem)
    return row


OperationRow = Annotated[Operation, AfterValidator(_valid_operation)]
_ROWS = TypeAdapter(tuple[OperationRow, ...])


@cache
def built_in_operations() -> tuple[Operation, ...]:
    """Return the rows of the catalogue that is part of the gateway."""
    return _ROWS.validate_python(load(Path(__file__).parents[1] / "catalogue.yaml").data)


class OperationChanges(Section):
    """Changes to the built-in catalogue (gateway/catalogue.yaml)."""

    disable: tuple[str, ...] = ()
    """Names of built-in operations that are answered 404."""
    add: tuple[OperationRow, ...] = ()
    """Operations to add, in the catalogue's form. An operation named like a disabled one
    replaces it."""

    @field_validator("disable")
    @classmethod
    def _operations_exist(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        known = {row.name for row in built_in_operations()}
        for i, name in enumerate(names):
            if name not in known:
                raise InvalidKey((i,), f"unknown operation {name!r}; {hint(name, known)}")
        return names
