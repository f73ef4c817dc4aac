"""Pipelines as words, before anybody knows what they name: `a{x=1},b` is [("a", {"x": "1"}), ("b", {})].

A value stands as it is, or in double quotes, where it may hold anything; a quote in it is written twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from dipc.errors import UsageError

Step = tuple[str, dict[str, str]]
"""The name of a pass, and its options as text."""

_QUOTED = r'"(?:[^"]|"")*+"'
_STEP = re.compile(rf"\s*([A-Za-z0-9_-]+)\s*(?:\{{((?:[^{{}}\"]|{_QUOTED})*+)\}})?\s*(?:,|$)")
_OPTION = re.compile(rf"""\s*([A-Za-z_]\w*)\s*=\s*({_QUOTED}|[^\s"{{}}]+)""")


def read_steps(text: str) -> list[Step]:
    """Read a pipeline. UsageError says where the text is wrong."""
    steps: list[Step] = []
    position = 0
    while position < len(text) or not steps:
        found = _STEP.match(text, position)
        if found is None or found.end() == position:
            raise UsageError(
                f"pipeline: cannot read {text[position:] or 'an empty pipeline'!r}; write name{{option=value}},..."
            )
        if found.end() == len(text) and text.rstrip().endswith(","):
            raise UsageError(f"pipeline: {text!r} ends in a comma")
        steps.append((found[1], _read_options(found[1], found[2] or "")))
        position = found.end()
    return steps


def _read_options(name: str, text: str) -> dict[str, str]:
    options: dict[str, str] = {}
    position = 0
    while text[position:].strip():
        found = _OPTION.match(text, position)
        if found is None:
            raise UsageError(f"{name}: cannot read the options at {text[position:].strip()!r}; write option=value")
        if found[1] in options:
            raise UsageError(f"{name}: option {found[1]!r} is given twice")
        quoted = found[2].startswith('"')
        options[found[1]] = found[2][1:-1].replace('""', '"') if quoted else found[2]
        position = found.end()
    return options


def write_steps(steps: Iterable[Step]) -> str:
    """Return the text that `read_steps` reads these from."""
    return ",".join(write_step(name, options) for name, options in steps)


def write_step(name: str, options: Mapping[str, str]) -> str:
    """Return a pass with its options as text."""
    given = " ".join(f"{option}={quoted(value)}" for option, value in options.items())
    return f"{name}{{{given}}}" if given else name


def quoted(value: str) -> str:
    """Return a value as it stands in a pipeline: as it is, or in quotes where it would be taken for something else."""
    plain = value != "" and not re.search(r'[\s,={}"]', value)
    return value if plain else '"{}"'.format(value.replace('"', '""'))


def listed(text: str) -> list[str]:
    """Return the items of a list with commas, of which those within the braces of a pipeline divide nothing."""
    items, depth, within = [""], 0, False
    for letter in text:
        if letter == '"' and depth > 0:
            within = not within
        elif not within:
            depth += {"{": 1, "}": -1}.get(letter, 0)
        if letter == "," and depth <= 0:
            items.append("")
        else:
            items[-1] += letter
    return [item.strip() for item in items]
