"""Frontiers of perplexity over bytes missed, and the search for gamma, on figures that can be worked by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from dipc.report.study_findings import sentence
from dipc.report.study_frontier import frontier_chart, frontier_tables
from dipc.report.study_view import View
from dipc.studies.study.findings import EqualBytes, findings
from dipc.studies.study.frontier import at_equal_bytes, frontier, perplexity_at
from dipc.studies.study.gamma_search import gammas_between, next_gammas
from dipc.studies.study.grid import Cell, CellPipeline, Grid
from dipc.studies.study.method_grid import method_grid
from dipc.studies.study.result import Point, Study, TokenCost
from dipc.studies.study.targets import targets


def point(missed: float, perplexity: float | None, **options: Any) -> Point:
    """A point of `dip` on a device where dense makes 1 token/s; a token takes as long as it misses."""
    cost = TokenCost(1 / missed, 1000 * missed, 1e6, 1e6, 0.5, missed, "flash", None, 1 / missed, ())
    own: dict[str, Any] = {"method": "dip", "density": 0.5, "gamma": None, "policy": "lfu", "pipeline": "p", **options}
    name = f"{own['method']}-{own['density']}-{own['gamma']}-{missed}"
    return Point(id=name, perplexity=perplexity, cost=cost, dram_bytes=4, flash_bytes_per_s=None, **own)


DENSE = point(1.0, 10.0, method="dense", density=1.0)
DIP = (point(0.4, 11.0), point(0.3, 12.0), point(0.32, 12.5), point(0.1, 18.0))
AWARE = tuple(point(m, p, method="dip-ca", gamma=0.2) for m, p in ((0.45, 10.5), (0.15, 13.0)))


def study_of(*points: Point) -> Study:
    nothing: dict[str, Any] = {"text": None, "warmup": 0, "seed": 0, "scope": "all", "settings": {}}
    model = {"name": "m", "bytes": 100.0}
    return Study(model=model, dense_perplexity=10.0, points=points, device={"name": "a18"}, **nothing)


@pytest.mark.smoke
def test_a_frontier_leaves_out_what_another_beats() -> None:
    oracle, without = point(0.05, 10.0, policy="belady"), point(0.05, None)
    assert frontier([*DIP, oracle, without]) == (DIP[3], DIP[1], DIP[0])


def test_between_two_points_perplexity_is_on_a_line() -> None:
    found = frontier(DIP)
    assert perplexity_at(found, 0.1) == 18.0 and perplexity_at(found, 0.4) == 11.0
    assert perplexity_at(found, 0.2) == pytest.approx(15.0)
    assert perplexity_at(found, 0.05) is None and perplexity_at(found, 0.41) is None
    assert perplexity_at((), 0.2) is None


def test_methods_compare_at_equal_bytes() -> None:
    places = at_equal_bytes([frontier(DIP), frontier(AWARE)])
    assert list(places) == [0.15, 0.2, 0.3, 0.4]
    assert places[0.3] == [pytest.approx(12.0), pytest.approx(11.75)]
    (finding,) = [f for f in findings(study_of(DENSE, *DIP, *AWARE)) if isinstance(f, EqualBytes)]
    assert finding.methods == ("dip", "dip-ca")
    said = sentence(finding)
    assert said.startswith(
        "With 4 B of DRAM, perplexity by the share of the MLPs' bytes that is missed is at 0.15 dip-ca"
    )
    assert "at 0.3 dip-ca 11.75, dip 12.00" in said


def test_the_chart_and_the_table_have_the_frontier() -> None:
    found = study_of(DENSE, *DIP, *AWARE)
    chart = frontier_chart(View(found))
    assert chart is not None and chart.name == "frontier"
    assert [(line.label, [m.x for m in line.marks]) for line in chart.lines] == [
        ("dip", [0.1, 0.3, 0.4]),
        ("dip-ca", [0.15, 0.45]),
    ]
    assert [m.x for m in chart.lines[0].loose] == [0.32] and chart.rules[0].value == 10.0
    assert len(list(frontier_tables(found))) == 1
    assert frontier_chart(View(study_of(DENSE))) is None and not list(frontier_tables(study_of(DENSE)))


def test_gammas_are_searched_on_both_sides_of_the_best() -> None:
    assert next_gammas({0.1, 0.2, 0.5}, 0.2) == [0.14, 0.32]
    assert next_gammas({0.1, 0.2, 0.5}, 0.5) == [0.32]
    assert next_gammas({0.1, 0.14, 0.2, 0.32, 0.5}, 0.2) == []
    assert next_gammas({0.2}, 0.2) == []


def test_a_better_gamma_is_tried_at_the_densities_around_the_target() -> None:
    variants = method_grid("dip-ca", (0.5,), (0.1, 0.2, 0.5), ("lfu",), None)
    grid = object.__new__(Grid)
    grid.cells, points = {}, []
    for variant in variants:
        for density, perplexity in ((0.7, 10.2), (0.5, 12.0)):
            name = f"{variant.gamma}-{density}"
            grid.cells[Cell(variant, density)] = CellPipeline(name, variant.gamma)
            missed = density * (0.5 if variant.gamma == 0.2 else 0.8)
            shared = {"method": "dip-ca", "gamma": variant.gamma, "density": density, "pipeline": name}
            points.append(point(missed, perplexity, **shared))
    found = list(gammas_between(grid, points, targets([DENSE, *points], 10.0, (1.0,))))
    expected = [dataclasses.replace(variants[0], gamma=gamma) for gamma in (0.14, 0.32)]
    assert found == [Cell(variant, density) for variant in expected for density in (0.7, 0.5)]
    grid.cells |= {cell: CellPipeline("new", cell.variant.gamma) for cell in found}
    assert [v.gamma for v in grid.variants] == [0.1, 0.2, 0.5, 0.14, 0.32]
