"""All files of a report: what `dipc report` writes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dipc.files import check_output_file
from dipc.report.html.page import write_page
from dipc.report.study_file import read_study, study_path
from dipc.report.study_plot import write_plots
from dipc.report.study_trace import write_trace

if TYPE_CHECKING:
    from dipc.studies.study.result import Study


def write_report(
    study: Study | str | Path, page: str | Path, *, plots: str | Path | None = None, perfetto: str | Path | None = None
) -> list[Path]:
    """Write a study as one HTML page; gives the files that were written, the page last.

    Args:
        study: the study, its folder, or its JSON.
        page: the HTML file.
        plots: a folder for every chart as SVG and PNG.
        perfetto: a file for the timelines as a trace that ui.perfetto.dev opens.

    Raises:
        UsageError: no study there, no timeline to trace, or a file that cannot be written.
        BadFile: the file is no study.
        MissingDependency: plots without matplotlib.
    """
    found = read_study(Path(study)) if isinstance(study, (str, Path)) else study
    read = [study_path(Path(study))] if isinstance(study, (str, Path)) else []
    check_output_file(Path(page), inputs=read)
    if perfetto is not None:
        check_output_file(Path(perfetto), inputs=[*read, page])
    written = [] if plots is None else write_plots(found, Path(plots))
    if perfetto is not None:
        write_trace(found, Path(perfetto))
        written.append(Path(perfetto))
    # The page last: it stands for a report that is complete.
    write_page(found, Path(page))
    return [*written, Path(page)]
