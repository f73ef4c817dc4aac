"""Pipelines as text, which parses and prints back to itself: `outline-glu,dip-ca{density=0.5 gamma=0.2}`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import get_type_hints

from pydantic import TypeAdapter, ValidationError

from dipc.errors import UnknownName, UsageError
from dipc.pipeline.lexer import read_steps
from dipc.pipeline.pass_ import PASSES, Pass


def parse_pipeline(text: str) -> list[Pass]:
    """`a,b{x=1 y="4 GB"}` -> passes. UsageError says where the text is wrong, or which option a pass lacks."""
    return [make_pass(name, options) for name, options in read_steps(text)]


def make_pass(name: str, options: Mapping[str, object]) -> Pass:
    """A pass by registry name with options as text or values; UsageError for an option it lacks or cannot take."""
    kind = PASSES.get(name.replace("_", "-"))
    types = get_type_hints(kind)
    known = [f.name for f in dataclasses.fields(kind)]
    values = {}
    for option, value in options.items():
        if option not in known:
            raise UnknownName(f"option of {name}", option, known or ["none"])
        if isinstance(value, str) and not value.isascii() and value != value.encode("utf-8", "ignore").decode():
            raise UsageError(f"{name}: {option}={value}: not UTF-8 text, which nothing could be saved with; rename it")
        try:
            values[option] = TypeAdapter(types[option]).validate_python(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"].lower()
            raise UsageError(f"{name}: {option}={value}: {reason}") from None
    return kind(**values)


def pipeline_text(passes: Iterable[Pass]) -> str:
    """The inverse of `parse_pipeline`."""
    return ",".join(map(str, passes))
