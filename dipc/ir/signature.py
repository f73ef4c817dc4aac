"""An operator's signature: flat in torch's schema, and in groups as its facets take it.

Torch knows tensors, numbers and text. A facet may take several of them as one dataclass, whose fields are arguments of
the schema by their names, and give one back among its results. Both meet here and nowhere else: `schema_of` writes the
schema that a function's signature stands for, and `flat` lets a function be called with the schema's arguments.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_TYPES: Mapping[Any, str] = {
    Tensor: "Tensor",
    Tensor | None: "Tensor?",
    int: "int",
    float: "float",
    bool: "bool",
    str: "str",
    torch.dtype: "ScalarType",
}
_REQUIRED = inspect.Parameter.empty


def schema_of(function: Callable[..., Any], last: Sequence[str] = ()) -> str:
    """Return torch's schema of a function: its parameters in order, each group as its fields.

    Args:
        function: annotated with tensors, numbers, text and dataclasses of these; it returns a tensor, or a tuple.
        last: arguments that the schema has after all others, in this order.
    """
    taken = {name: _argument(name, kind, default) for name, kind, default in _arguments(function)}
    order = [name for name in taken if name not in last] + [name for name in last if name in taken]
    result = typing.get_type_hints(function)["return"]
    results = [_TYPES[kind] for kind in _spread_types(typing.get_args(result) or (result,))]
    returned = results[0] if not typing.get_args(result) else f"({', '.join(results)})"
    return f"({', '.join(taken[name] for name in order)}) -> {returned}"


def _argument(name: str, kind: object, default: object) -> str:
    return f"{_TYPES[kind]} {name}" + ("" if default is _REQUIRED else f"={default!r}")


def _arguments(function: Callable[..., Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, type and default of each argument, those of groups one by one."""
    hints = typing.get_type_hints(function)
    for parameter in inspect.signature(function).parameters.values():
        kind = hints[parameter.name]
        if not _is_group(kind):
            yield parameter.name, kind, parameter.default
            continue
        types = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            yield field.name, types[field.name], _REQUIRED if field.default is dataclasses.MISSING else field.default


def _spread_types(kinds: Sequence[Any]) -> Iterator[Any]:
    for kind in kinds:
        yield from typing.get_type_hints(kind).values() if _is_group(kind) else (kind,)


def flat(function: Callable[..., Any], defaults: Mapping[str, Any]) -> Callable[..., Any]:
    """Return a function of a schema's arguments, by position or name, that calls one which takes some in groups.

    Args:
        function: what is called; where it takes no group it is returned as it is.
        defaults: the schema's arguments in order, each with its default or `inspect.Parameter.empty`.
    """
    groups = _groups(function)
    if not groups:
        return function
    parameters = [(name, groups.get(name)) for name in inspect.signature(function).parameters]

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        given = {**defaults, **dict(zip(defaults, args, strict=False)), **kwargs}
        if lacking := [name for name, value in given.items() if value is _REQUIRED]:
            raise TypeError(f"{function.__name__}() lacks {', '.join(lacking)}")
        return _spread(function(*(given[name] if group is None else group(given) for name, group in parameters)))

    return call


def _groups(function: Callable[..., Any]) -> dict[str, Callable[[Mapping[str, Any]], Any]]:
    """Return what makes each parameter that is a group of the arguments by name."""
    try:
        hints = typing.get_type_hints(function)
    except NameError:  # what only a type checker sees is no dataclass to be made
        return {}
    return {name: _maker(kind) for name, kind in hints.items() if name != "return" and _is_group(kind)}


def _maker(kind: Any) -> Callable[[Mapping[str, Any]], Any]:
    names = [field.name for field in dataclasses.fields(kind)]
    return lambda given: kind(*(given[name] for name in names))


def _spread(result: Any) -> Any:
    if not isinstance(result, tuple):
        return result
    parts = (_fields(part) if _is_group(type(part)) else (part,) for part in result)
    return tuple(value for part in parts for value in part)


def _fields(group: Any) -> tuple[Any, ...]:
    return tuple(getattr(group, field.name) for field in dataclasses.fields(group))


def _is_group(kind: object) -> bool:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)
