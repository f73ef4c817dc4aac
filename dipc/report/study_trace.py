"""The timelines of a study as one file that Perfetto opens: a process for each point that has one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from dipc.errors import UsageError
from dipc.files import write_whole
from dipc.memory.timeline import Timeline, perfetto
from dipc.report.study_view import name

if TYPE_CHECKING:
    from dipc.studies.study.result import Study


def write_trace(study: Study, path: Path) -> None:
    """Write the reads of one token of each point that has a timeline. Raises UsageError where none has."""
    found = [Timeline.from_dict(timeline) for timeline in study.timelines]
    if not found:
        raise UsageError("this study has no timeline, so there is no trace to write; leave --perfetto out")
    names = {point.id: name(point) for point in study.points}
    trace = perfetto((f"{names.get(t.point, t.point)}, token {t.token}, simulated", t.events) for t in found)
    write_whole(path, lambda part: part.write_text(json.dumps(trace), encoding="utf-8"))
