"""Numbers as text, and values as JSON: three to four significant digits, never a truncated or a bare infinite one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

SCHEMA = 1
NONE = "-"
NO_BREAK = "\u2800"
"""A blank at which no line is broken, printed as a plain space; rich breaks lines at U+00A0 too."""


def number(value: float | None, digits: int = 4) -> str:
    """A count in full, a measure with so many significant digits; "-" for None."""
    if value is None:
        return NONE
    if isinstance(value, int):
        return f"{value:,}"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:#.{digits}g}".rstrip(".")


def share(value: float | None) -> str:
    """A density with three significant digits and no zeros at its end: "0.5", "1"; "-" for None."""
    return NONE if value is None else f"{value:.3g}"


def percent(value: float | None) -> str:
    """A share of 1 as a percentage with one decimal; "-" for None."""
    return NONE if value is None else f"{100 * value:.1f} %"


def ranges(indices: Iterable[int]) -> str:
    """`[0, 1, 2, 5]` -> `0-2,5`."""
    runs: list[list[int]] = []
    for index in sorted(indices):
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def json_value(value: Any) -> Any:
    """Dataclasses, tuples and mappings as JSON holds them; a float that is not finite becomes its name."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: json_value(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): json_value(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def document(kind: str, **content: Any) -> dict[str, Any]:
    """A result's dict: its schema, what it is, the version that made it, then its content."""
    from dipc.version import __version__

    return {"schema": SCHEMA, "kind": kind, "dipc": __version__, **json_value(content)}
