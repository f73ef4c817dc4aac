"""Files that a finished comparison, study or plan leaves in its folder beside the cells: tables, plots and JSON."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from dipc.documents import json_bytes
from dipc.errors import MissingDependency
from dipc.files import write_whole
from dipc.report.comparison import comparison_dict, comparison_markdown
from dipc.report.plot import perplexity_plot
from dipc.report.study import study_dict
from dipc.report.study_file import NAME

if TYPE_CHECKING:
    from dipc.studies.compare import Comparison
    from dipc.studies.study.plan import Plan
    from dipc.studies.study.result import Study


def write_comparison(found: Comparison, folder: Path) -> None:
    """Write table.json, table.md and, where matplotlib is installed, the plot."""
    _write(folder / "table.json", json_bytes(comparison_dict(found)))
    _write(folder / "table.md", comparison_markdown(found).encode())
    with contextlib.suppress(MissingDependency):
        for kind, content in perplexity_plot(found).items():
            _write(folder / f"perplexity.{kind}", content)


def write_study(found: Study, folder: Path) -> None:
    """Write study.json, which `dipc report` reads."""
    _write(folder / NAME, json_bytes(study_dict(found)))


def write_plan(found: Plan, folder: Path) -> None:
    """Write the study that a plan rests on."""
    write_study(found.study, folder)


def _write(path: Path, content: bytes) -> None:
    write_whole(path, lambda part: part.write_bytes(content))
