"""The page: its skeleton, which takes the style sheet and the script in, and the order of its sections."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dipc.files import write_whole
from dipc.report.html.figures import layer_section, panel_section, pareto_section, timeline_section
from dipc.report.html.markup import Markup, element, joined
from dipc.report.html.summary import device_section, facts_section, findings_section, header, tiles
from dipc.report.html.tables import points_table, targets_table
from dipc.report.study_charts import study_charts
from dipc.report.study_view import View

if TYPE_CHECKING:
    from dipc.studies.study.result import Study

_HERE = Path(__file__).parent


def write_page(study: Study, path: Path) -> None:
    """Write the page of a study, whole or not at all. Raises UsageError if it cannot be written there."""
    page = study_page(study)
    write_whole(path, lambda part: part.write_text(page, encoding="utf-8"))


def study_page(study: Study) -> str:
    """The page of a study as HTML: charts, tables, findings, sources, and all that the figures depend on."""
    view = View(study)
    sections = [(anchor, title, content) for anchor, title, content in _sections(view) if content]
    links = [element("a", title, href=f"#{anchor}") for anchor, title, _ in sections]
    body = [
        header(view),
        tiles(view),
        element("nav", *links, aria_label="Contents"),
        *(element("section", element("h2", title), content, id=anchor) for anchor, title, content in sections),
    ]
    return _skeleton(f"{study.model['name']} on {study.device['name']}, simulated", joined(*body))


def _sections(view: View) -> Iterator[tuple[str, str, Markup | None]]:
    """An anchor, a heading and what is below it; None where the study has nothing of the kind."""
    study = view.study
    charts = study_charts(study)
    against = "perplexity" if view.has_perplexity else "density"
    yield "findings", "What the figures show", findings_section(study)
    yield "pareto", f"Throughput and {against}", pareto_section(charts)
    yield "targets", "Throughput at a perplexity", targets_table(study) if study.targets else None
    yield "panels", "What changes it", panel_section(charts)
    yield "layers", "Layer by layer", layer_section(view, charts)
    yield "timeline", "One token's reads", timeline_section(view)
    yield "points", "All points", points_table(study) if study.points else None
    yield "device", "The device, as assumed", device_section(study)
    yield "facts", "What the figures depend on", facts_section(view)


def _skeleton(title: str, body: Markup) -> str:
    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("style.css", "script.js"))
    # A browser then loads and runs nothing but these two, whatever a name or a source holds.
    policy = f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("link", rel="icon", href="data:,"),
        element("title", title),
        element("style", Markup(style)),
    )
    tip = element("div", id="tip", role="status", hidden="")
    page = element(
        "html", head, element("body", element("main", body), tip, element("script", Markup(script))), lang="en"
    )
    return f"<!doctype html>\n{page}\n"


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
