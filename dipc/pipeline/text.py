"""Pipelines as text, which parses and prints back to itself: `outline-glu,dip-ca{density=0.5 gamma=0.2}`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import get_type_hints

from pydantic import TypeAdapter, ValidationError

from dipc.errors import UnknownName, UsageError
from dipc.pipeline.pass_ import PASSES, Pass

_PASS = re.compile(r"\s*([A-Za-z0-9_-]+)\s*(?:\{([^{}]*)\})?\s*(?:,|$)")

_OPTION = re.compile(r"""\s*([A-Za-z_]\w*)\s*=\s*("[^"]*"|[^\s"{}]+)""")


def parse_pipeline(text: str) -> list[Pass]:
    """`a,b{x=1 y="4 GB"}` -> passes. UsageError says where the text is wrong, or which option a pass lacks."""
    passes: list[Pass] = []
    position = 0
    while position < len(text) or not passes:
        found = _PASS.match(text, position)
        if found is None or found.end() == position:
            raise UsageError(
                f"pipeline: cannot read {text[position:] or 'an empty pipeline'!r}; write name{{option=value}},..."
            )
        if found.end() == len(text) and text.rstrip().endswith(","):
            raise UsageError(f"pipeline: {text!r} ends in a comma")
        passes.append(make_pass(found[1], _parse_options(found[1], found[2] or "")))
        position = found.end()
    return passes


def _parse_options(name: str, text: str) -> dict[str, str]:
    options: dict[str, str] = {}
    position = 0
    while text[position:].strip():
        found = _OPTION.match(text, position)
        if found is None:
            raise UsageError(f"{name}: cannot read the options at {text[position:].strip()!r}; write option=value")
        if found[1] in options:
            raise UsageError(f"{name}: option {found[1]!r} is given twice")
        options[found[1]] = found[2].strip('"')
        position = found.end()
    return options


def make_pass(name: str, options: Mapping[str, object]) -> Pass:
    """A pass by registry name with options as text or values; UsageError for an option it lacks or cannot take."""
    kind = PASSES.get(name.replace("_", "-"))
    types = get_type_hints(kind)
    known = [f.name for f in dataclasses.fields(kind)]
    values = {}
    for option, value in options.items():
        if option not in known:
            raise UnknownName(f"option of {name}", option, known or ["none"])
        try:
            values[option] = TypeAdapter(types[option]).validate_python(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"].lower()
            raise UsageError(f"{name}: {option}={value}: {reason}") from None
    return kind(**values)


def pipeline_text(passes: Iterable[Pass]) -> str:
    """The inverse of `parse_pipeline`."""
    return ",".join(map(str, passes))
