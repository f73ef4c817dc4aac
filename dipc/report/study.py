"""A study as a dict and as tables."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from dipc.report.figures import document
from dipc.study.result import Cost

if TYPE_CHECKING:
    from dipc.study.result import Point, Study


def study_dict(found: Study) -> dict[str, Any]:
    """All figures, and all that they depend on."""
    return document(
        "study",
        simulated=True,
        **{name: value for name, value in vars(found).items() if name != "points"},
        points=[_point_dict(point) for point in found.points],
    )


_NO_COST = {field.name: [] if field.name == "layers" else None for field in dataclasses.fields(Cost)}


def _point_dict(point: Point) -> dict[str, Any]:
    """A point and its cost side by side; what has no cost has null."""
    own = {name: value for name, value in vars(point).items() if name != "cost"}
    return {**own, **(vars(point.cost) if point.cost else _NO_COST)}
