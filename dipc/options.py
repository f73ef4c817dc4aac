"""Groups of options, each declared once: a frozen dataclass whose fields are the options.

A function takes a group as one parameter whose default is the group's. From Python its caller gives the group, or any
of its fields as keywords (`flat`); the command line offers those fields that have a `Flag` (`dipc/cli/options.py`).
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, get_type_hints

from dipc.errors import UsageError

R = TypeVar("R")
MOST_SEED = 2**63 - 1
"""The largest that torch's generators take with whatever is added to it."""


@dataclass(frozen=True)
class Flag:
    """How the command line offers a field of a group.

    Attributes:
        help: one line for `--help`.
        metavar: what stands for the value there.
        name: the flag; by default the field's name with dashes.
        min: the least number.
        max: the greatest number.
        parse: makes the value from text, where it is not what the flag takes.
        bare: the value that the flag stands for by itself, where it takes none.
    """

    help: str
    metavar: str | None = None
    name: str | None = None
    min: float | None = None
    max: float | None = None
    parse: Callable[[str], Any] | None = None
    bare: Any = None


def groups_of(function: Callable[..., object]) -> dict[str, Any]:
    """Return the default of each parameter of a function that is a group of options."""
    defaults = {p.name: p.default for p in inspect.signature(function).parameters.values()}
    return {name: default for name, default in defaults.items() if _is_group(default)}


def _is_group(value: object) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type) and getattr(value, "is_options", False)


class Options:
    """Base of every group: what tells it from other dataclasses."""

    is_options = True


def flat(function: Callable[..., R]) -> Callable[..., R]:
    """Let callers give fields of a function's groups as keywords of the call.

    Raises:
        TypeError: when the function is called with a group and one of its fields, or a keyword that is neither.
    """
    groups = groups_of(function)

    @functools.wraps(function)
    def call(*args: Any, **given: Any) -> R:
        for name, default in groups.items():
            fields = {f.name: given.pop(f.name) for f in dataclasses.fields(default) if f.name in given}
            group = given.get(name)
            if fields and group is not None:
                raise TypeError(f"{function.__name__}() takes either {name} or its {next(iter(fields))}, not both")
            if fields or (name in given and group is None):
                given[name] = dataclasses.replace(default, **fields)
        return function(*args, **given)

    call.__signature__ = inspect.Signature(list(_flattened(function, groups)))  # type: ignore[attr-defined]
    return call


def _flattened(function: Callable[..., object], groups: dict[str, Any]) -> Iterator[inspect.Parameter]:
    """Yield the parameters of a function, each group followed by its fields."""
    seen: set[str] = set(inspect.signature(function).parameters)
    for parameter in inspect.signature(function).parameters.values():
        yield parameter
        for field in dataclasses.fields(groups[parameter.name]) if parameter.name in groups else ():
            if field.name in seen:
                raise TypeError(f"{function.__name__}: the option {field.name} has two meanings")
            seen.add(field.name)
            value = getattr(groups[parameter.name], field.name)
            kind = get_type_hints(type(groups[parameter.name]))[field.name]
            yield inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=value, annotation=kind)


def listed(option: str, text: str) -> tuple[str, ...]:
    """Return the items of a list with commas, each once. UsageError for an empty one."""
    items = tuple(dict.fromkeys(item.strip() for item in text.split(",") if item.strip()))
    if not items:
        raise UsageError(f"--{option} {text!r} lists nothing")
    return items


def numbers(option: str, text: str) -> tuple[float, ...]:
    """Return the numbers of a list with commas, each once. UsageError for anything else."""
    try:
        return tuple(dict.fromkeys(float(item) for item in listed(option, text)))
    except ValueError:
        raise UsageError(f"--{option} {text!r} is no list of numbers such as 1,0.5,0.25") from None


@dataclass(frozen=True)
class TextSpec(Options):
    """How much of a text is used, in which windows."""

    seq_len: Annotated[
        int | None, Flag("Tokens of a window; by default the context, at most 2048.", metavar="N", min=2)
    ] = None
    """By default the model's context, at most 2,048, and at most the text."""
    max_tokens: Annotated[int | None, Flag("Use only so many tokens from the start.", metavar="N", min=2)] = None
    """By default all of it, or as many as the caller says."""
