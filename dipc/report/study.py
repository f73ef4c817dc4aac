"""A study as a dict and as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dipc.report.figures import document

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


_NO_COST = dict.fromkeys(
    ("tokens_per_second", "ms_per_token", "flash_bytes_per_token", "dram_bytes_per_token", "hit_rate", "bound")
    + ("energy_j_per_token", "speedup")
) | {"layers": []}


def _point_dict(point: Point) -> dict[str, Any]:
    """A point and its cost side by side; what has no cost has null."""
    own = {name: value for name, value in vars(point).items() if name != "cost"}
    return {**own, **(vars(point.cost) if point.cost else _NO_COST)}
