"""The page, the plots and the trace of a study, without a browser: `test_browser` opens the page in one."""

from __future__ import annotations

import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipc.errors import BadFile, UsageError
from dipc.report import html, study_plot
from dipc.report.chart import DENSE, Axis
from dipc.report.html import study_page, write_page
from dipc.report.html.chart_svg import STYLES
from dipc.report.html.markup import Markup, element, joined
from dipc.report.html.scale import Scale, scale_of, ticks
from dipc.report.html.tables import linked
from dipc.report.study_charts import study_charts
from dipc.report.study_file import read_study, study_from_dict
from dipc.report.study_trace import write_trace
from dipc.report.study_view import Setting, View, front
from dipc.studies.study.result import Study
from kit.command_line import Cli
from kit.made_up_study import DENSE_PERPLEXITY, GB, study_document, without_weights


def study(**changes: Any) -> Study:
    return study_from_dict(study_document(**changes), "here")


class Page(HTMLParser):
    """The elements of a page, each closed in its turn, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.counts: Counter[str] = Counter()
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] += 1
        self.attributes.append((tag, dict(attrs)))
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.smoke
def test_a_page_says_it_all() -> None:
    page = Page(study_page(study()))
    found = [a for tag, a in page.attributes if tag == "section"]
    sections = ["findings", "pareto", "targets", "panels", "layers", "timeline", "points", "device", "facts"]
    assert [a["id"] for a in found] == sections
    assert page.text.count("simulated") >= 3 and "no device was timed" in page.text
    for said in ("dip-ca is faster than dip with belady", "wiki.test.raw (9c1b)", "sha256:0f3a", "hwmodels/a18.yaml"):
        assert said in page.text
    assert "1 of 388 points failed" in page.text and "ran out of memory" in page.text
    assert "interpolated" in page.text and "not reached" in page.text


def test_a_page_loads_nothing() -> None:
    page = Page(study_page(study()))
    loaded = [a for tag, a in page.attributes if tag != "a" and ({"src", "href"} & set(a))]
    assert [a["href"] for a in loaded if "href" in a] == ["data:,"]
    assert not any("src" in a or "style" in a for _, a in page.attributes)
    policy = next(a["content"] for tag, a in page.attributes if a.get("http-equiv"))
    assert policy is not None and policy.startswith("default-src 'none'")


def test_every_drawing_and_table_is_named() -> None:
    page = Page(study_page(study()))
    drawings = [a for tag, a in page.attributes if tag == "svg" and a.get("role") == "img"]
    # Nineteen charts, of which three are drawn once for all screens, and the timeline.
    assert len(drawings) == 2 * 16 + 3 + 2 and all(a["aria-label"] for a in drawings)
    assert page.counts["caption"] == page.counts["table"] == 5
    assert all(a.get("scope") in ("col", "row") for tag, a in page.attributes if tag == "th")


def test_a_model_without_weights_has_a_page() -> None:
    found = study_from_dict(without_weights(), "here")
    page = Page(study_page(found))
    assert "known by its config alone" in page.text and "rest on synthetic activity" in page.text
    assert "Throughput and density" in page.text and "perplexity at most" not in page.text


def test_a_study_with_nothing_has_a_page() -> None:
    empty = study(points=[], targets=[], timelines=[], findings=[])
    assert "No point of this study has a price" in Page(study_page(empty)).text
    assert study_charts(empty).all == ()


def test_names_are_escaped() -> None:
    evil = "</title><script>alert('1')</script> & \"co\""
    document = study_document(findings=[evil])
    for part in (document["model"], document["text"], document["device"], document["device"]["assumptions"][0]):
        part.update(dict.fromkeys(set(part) & {"name", "source", "digest"}, evil))
    document["points"] = [{**p, "method": evil if p["method"] == "dip" else p["method"]} for p in document["points"]]
    page = Page(study_page(study_from_dict(document, "here")))
    assert page.counts["script"] == 1 and page.counts["title"] > 1
    assert page.text.count(evil) > 4


@given(st.text(), st.text())
def test_what_is_put_in_comes_out(content: str, value: str) -> None:
    written = element("p", content, Markup("<br>"), data_value=value)
    assert written.endswith("<br></p>")
    assert not re.search(r"[<>\"']", joined(content))
    assert "<" not in written[1:].split("<br>")[0].removesuffix("</p>")


def test_addresses_become_links() -> None:
    expected = '(<a href="https://a.org/b?c=1&amp;d" rel="noreferrer">https://a.org/b?c=1&amp;d</a>). &lt;x&gt;'
    assert linked("(https://a.org/b?c=1&d). <x>") == expected
    assert linked("javascript:alert(1)") == "javascript:alert(1)"


def test_the_main_chart() -> None:
    found = study()
    view = View(found)
    assert view.base == Setting(4 * GB, 1.0 * GB)
    chart = study_charts(found).pareto
    assert chart is not None and [line.label for line in chart.lines] == ["dense", "dip", "dip-ca", "cats"]
    assert [line.style for line in chart.lines] == [DENSE, 0, 1, 2]
    assert [rule.value for rule in chart.rules] == [DENSE_PERPLEXITY]
    # belady is no device's, and lru is beaten by lfu at every density.
    dip = chart.lines[1]
    assert len(dip.marks) == len(dip.loose) == 6
    assert all("policy lfu" in mark.text for mark in dip.marks)
    assert all("policy lru" in mark.text for mark in dip.loose)


def test_the_front_is_what_nothing_beats() -> None:
    points = [p for p in study().points if p.method == "dip-ca" and p.cost]
    kept = front(points, lambda p: p.perplexity or 0.0)
    for point in points:
        beaten = any(
            ((o.perplexity or 0) <= (point.perplexity or 0) and o.throughput > point.throughput)
            or ((o.perplexity or 0) < (point.perplexity or 0) and o.throughput >= point.throughput)
            for o in points
        )
        same = [p for p in kept if (p.perplexity, p.throughput) == (point.perplexity, point.throughput)]
        assert bool(same) is not beaten


def test_the_charts_of_each_axis() -> None:
    charts = study_charts(study())
    panels = {chart.name: chart for chart in charts.panels}
    assert list(panels) == ["frontier", "dram-0.5", "dram-2", "flash-0.5", "flash-2", "gamma-dip-ca", "policy"]
    assert [line.label for line in panels["gamma-dip-ca"].lines] == [
        *("gamma 0.1", "gamma 0.2", "gamma 0.5"),
        "dip, not cache-aware",
    ]
    assert [(line.label, line.dashed) for line in panels["policy"].lines] == [
        ("dip, lfu", False),
        ("dip, lru", False),
        ("dip, belady", True),
        ("dip-ca", False),
    ]
    # cats reaches no perplexity of +0.5, so it has no line there.
    assert [line.label for line in panels["dram-0.5"].lines] == ["dense", "dip", "dip-ca"]
    assert [mark.x for mark in panels["dram-2"].lines[1].marks] == [2 * GB, 4 * GB, 6 * GB]
    assert len(charts.others) == 8 and len({chart.name for chart in charts.all}) == len(charts.all)


def test_the_best_gamma_at_each_perplexity() -> None:
    document = study_document()
    speeds = {"0.1": 3.0, "0.5": None, "0.2": 4.0}
    targets = [{**t, "by_gamma": speeds} if t["method"] == "dip-ca" else t for t in document["targets"]]
    charts = study_charts(study_from_dict({**document, "targets": targets}, "here"))
    chart = next(chart for chart in charts.panels if chart.name == "gamma-dip-ca-best")
    assert [line.label for line in chart.lines] == ["perplexity at most +0.5", "perplexity at most +2"]
    assert [(mark.x, mark.y) for mark in chart.lines[0].marks] == [(0.1, 3.0), (0.2, 4.0)]


def test_a_pipeline_of_ones_own_names_its_file() -> None:
    document = study_document()
    own = "int4,dip-ca{calibration=../a/b.cal}"
    points = [{**p, "method": own if p["method"] == "dip-ca" else p["method"]} for p in document["points"]]
    names = [chart.name for chart in study_charts(study_from_dict({**document, "points": points}, "here")).all]
    assert "gamma-int4-dip-ca-calibration-..-a-b.cal" in names and not any("/" in name for name in names)


def test_the_dense_model_alone_is_shown_by_dram() -> None:
    document = without_weights()
    dense = [p for p in document["points"] if p["method"] == "dense" and p["flash_bytes_per_s"] == GB]
    charts = study_charts(study_from_dict({**document, "points": dense}, "here"))
    assert charts.pareto is None and [chart.title for chart in charts.panels] == ["By DRAM"]
    assert [mark.x for mark in charts.panels[0].lines[0].marks] == [2 * GB, 4 * GB, 6 * GB]


def test_an_axis_that_the_study_has_not_has_no_chart() -> None:
    document = study_document()
    kept = [p for p in document["points"] if (p["dram_bytes"], p["flash_bytes_per_s"]) == (2 * GB, GB)]
    kept = [p for p in kept if p["policy"] == "lfu" and p["gamma"] in (None, 0.2)]
    charts = study_charts(study_from_dict({**document, "points": kept}, "here"))
    assert charts.pareto is not None and charts.others == ()
    assert [chart.name for chart in charts.panels] == ["frontier"]  # of any one setting


def test_hopeless_points_are_named_below_the_chart() -> None:
    document = study_document()
    worst = next(p for p in document["points"] if (p["method"], p["dram_bytes"]) == ("cats", 4 * GB))
    changed = [{**p, "perplexity": "inf"} if p is worst else p for p in document["points"]]
    chart = study_charts(study_from_dict({**document, "points": changed}, "here"))
    notes = [c.note for c in chart.all if c.note]
    assert notes == ["Off the axis, with perplexity and throughput: cats, density 0.9 (inf, 0.2175 tok/s)."]


@given(
    st.floats(1e-3, 1e9),
    st.floats(1.001, 1e4),
    st.booleans(),
    st.integers(2, 12),
)
def test_ticks_are_on_the_axis(low: float, ratio: float, log: bool, count: int) -> None:
    scale = scale_of(Axis("", str, log=log), (low, low * ratio), 0, 100)
    found = ticks(scale, count)
    assert 1 <= len(found) <= 2 * count + 3
    assert all(scale.holds(v) and -1e-6 <= scale(v) <= 100 + 1e-6 for v in found)
    assert list(found) == sorted(found)


def test_scales() -> None:
    linear = Scale(0, 10, False, 100, 0)
    assert (linear(0), linear(5), linear(10)) == (100, 50, 0)
    assert Scale(1, 100, True, 0, 10)(10) == pytest.approx(5)
    assert ticks(Scale(0, 10, False, 0, 1), 5) == [0, 2, 4, 6, 8, 10]
    assert ticks(Scale(0.9, 120, True, 0, 1), 9) == [1, 2, 5, 10, 20, 50, 100]


def test_colours_stand_out() -> None:
    """Text by 4.5 to 1 and what is drawn by 3 to 1, as WCAG 2 asks for, in light and in dark."""
    style = (Path(html.__file__).parent / "style.css").read_text(encoding="utf-8")
    themes = [dict(re.findall(r"--([\w-]+): (#\w{6})", part)) for part in re.findall(r":root \{(.*?)\}", style, re.S)]
    assert len(themes) == 2
    for theme in themes:
        for ink in ("ink", "soft", "accent", "warn"):
            assert min(contrast(theme[ink], theme[paper]) for paper in ("page", "card", "shade")) >= 4.5, ink
        assert contrast(theme["warn"], theme["warn-card"]) >= 4.5
        for mark in ("dense", "flash", "dram", *(f"c{i}" for i in range(STYLES))):
            assert contrast(theme[mark], theme["card"]) >= 3, mark
        assert contrast(theme["card"], theme["accent"]) >= 4.5


def contrast(a: str, b: str) -> float:
    """The ratio of two colours' luminances (WCAG 2, "contrast ratio")."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_a_study_is_read_from_folder_and_file(tmp_path: Path) -> None:
    document = study_document()
    (tmp_path / "study.json").write_text(json.dumps(document), encoding="utf-8")
    found = read_study(tmp_path)
    assert found == read_study(tmp_path / "study.json") and len(found.points) == len(document["points"])
    assert found.points[0].cost is not None and len(found.points[0].cost.layers) == 6
    assert found.points[-1].cost is None and found.points[-1].failed
    assert found.targets[0].neighbours == tuple(document["targets"][0]["neighbours"])


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("{", ("not valid JSON",)),
        ("[]", ("must hold a JSON object",)),
        ('{"schema": 1, "kind": "comparison"}', ("of kind 'comparison', not a study",)),
        ('{"schema": 9, "kind": "study"}', ("schema 9", "reads 1")),
        (json.dumps(study_document(points=[3])), ("points.0:",)),
        ('{"schema": 1, "kind": "study", "points": []}', ("model: Field required",)),
        (json.dumps(study_document(model={"name": "a"})), ("model: no 'bytes'",)),
        (json.dumps(study_document(timelines=[{"point": "a"}])), ("0.token: Field required",)),
    ],
)
def test_what_is_no_study(tmp_path: Path, content: str, parts: tuple[str, ...]) -> None:
    file = tmp_path / "study.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(BadFile) as error:
        read_study(tmp_path)
    assert all(part in str(error.value) for part in (str(file), *parts))
    assert "\n" not in str(error.value)


def test_nothing_is_no_study(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="dipc study"):
        read_study(tmp_path)
    (tmp_path / "study.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadFile, match="not valid JSON"):
        read_study(tmp_path)


def test_a_page_is_written_whole(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    write_page(study(), page)
    assert page.read_text(encoding="utf-8").endswith("</html>\n")
    with pytest.raises(UsageError, match="cannot be written"):
        write_page(study(), tmp_path / "missing" / "report.html")
    assert [f.name for f in tmp_path.iterdir()] == ["report.html"]


def test_plots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    charts = study_charts(study())
    assert charts.pareto is not None
    made = study_plot.chart_plot(charts.pareto, "a title")
    assert made["png"].startswith(b"\x89PNG") and b"dip-ca" in made["svg"] and b"a title" in made["svg"]
    # Drawing takes most of a second a chart.
    monkeypatch.setattr(study_plot, "chart_plot", lambda chart, title: {"svg": b"<svg/>"})
    written = study_plot.write_plots(study(), tmp_path / "plots")
    assert {path.stem for path in written} == {chart.name for chart in charts.all}
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {path.name for path in written}
    with pytest.raises(UsageError, match="cannot be made"):
        study_plot.write_plots(study(), written[0])


def test_a_trace_for_perfetto(tmp_path: Path) -> None:
    write_trace(study(), tmp_path / "trace.json")
    found = json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    names = [e["args"]["name"] for e in found if e["name"] == "process_name"]
    assert names[0] == "dense, token 100, simulated" and len(names) == 3
    with pytest.raises(UsageError, match="no timeline"):
        write_trace(study(timelines=[]), tmp_path / "none.json")


def test_the_command(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text(json.dumps(study_document()), encoding="utf-8")
    page, trace = tmp_path / "page.html", tmp_path / "trace.json"
    result = cli("report", tmp_path, "-o", page, "--perfetto", trace)
    assert (result.code, result.err) == (0, "")
    assert str(page) in result.out
    assert cli("report", tmp_path, "-o", page, "--perfetto", trace, "--json").json() == {
        "schema": 1,
        "kind": "report",
        "dipc": "0.1.0",
        "page": str(page),
        "files": [str(trace)],
    }
    cli("report", tmp_path / "nothing", "-o", page).fails(2, "no such file")
    cli("report", trace, "-o", page).fails(5, "is not a study")
