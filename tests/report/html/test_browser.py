"""The page of a study in a real browser: nothing overflows, charts are drawn, tables sort, marks say what they are."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dipc.report.html import write_page
from dipc.report.study_file import study_from_dict
from kit.made_up_study import study_document, without_weights

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((found for name in NAMES if (found := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser (none of {', '.join(NAMES)})")
# A browser is slow to start, so one call looks at all pages.
FRAMES = {"phone": ("full", 390, 844), "wide": ("full", 1280, 900), "config": ("config", 390, 844)}
LOOK = """
const seen = (element) => element.getClientRects().length > 0;
const box = (element) => element.getBoundingClientRect();

function within(inner, outer) {
  const [a, b] = [box(inner), box(outer)];
  return a.left >= b.left - 1 && a.right <= b.right + 1 && a.top >= b.top - 1 && a.bottom <= b.bottom + 1;
}

function sorted(table, column) {
  table.tHead.rows[0].cells[column].querySelector("button").click();
  return [...table.tBodies[0].rows].map((row) => row.cells[column].dataset.value ?? null);
}

function pointed(own, mark) {
  const at = {clientX: box(mark).x + box(mark).width / 2, clientY: box(mark).y + box(mark).height / 2, bubbles: true};
  mark.dispatchEvent(new own.PointerEvent("pointermove", at));
  const tip = own.document.getElementById("tip");
  return {text: tip.hidden ? null : tip.textContent, left: box(tip).left, right: box(tip).right};
}

function look({contentWindow: own, contentDocument: page}) {
  page.querySelectorAll("details").forEach((details) => (details.open = true));
  const all = (selector) => [...page.querySelectorAll(selector)].filter(seen);
  const table = page.querySelector("#points table");
  const column = [...table.tHead.rows[0].cells].findIndex((head) => head.textContent === "tok/s");
  const wide = (element) => !element.closest(".scroll, svg, nav") && box(element).right > own.innerWidth + 0.5;
  const charts = all("svg[role=img]");
  return {
    width: own.innerWidth,
    scrolled: page.documentElement.scrollWidth,
    beyond: all("main *").filter(wide).map((element) => element.outerHTML.slice(0, 80)),
    cut: charts.flatMap((svg) => [...svg.querySelectorAll("text")].filter((text) => !within(text, svg)))
      .map((text) => text.textContent),
    charts: charts.length,
    smallest: Math.min(...all(".tick").map((text) => box(text).height)),
    rising: sorted(table, column),
    falling: sorted(table, column),
    tip: pointed(own, all("#pareto svg[role=img] .mark.c0")[0]),
    background: own.getComputedStyle(page.body).backgroundColor,
  };
}

addEventListener("load", () => {
  const found = [...document.querySelectorAll("iframe")].map((frame) => [frame.id, look(frame)]);
  document.getElementById("found").textContent = JSON.stringify(Object.fromEntries(found));
});
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    for name, document in (("full", study_document()), ("config", without_weights())):
        write_page(study_from_dict(document, name), folder / f"{name}.html")
    frames = "".join(
        f'<iframe id="{name}" src="{page}.html" style="width:{width}px;height:{height}px;border:0"></iframe>'
        for name, (page, width, height) in FRAMES.items()
    )
    look = f'<!doctype html><meta charset="utf-8">{frames}<pre id="found"></pre><script>{LOOK}</script>'
    (folder / "look.html").write_text(look, encoding="utf-8")
    return folder


def looked_at(pages: Path, *options: str) -> tuple[dict[str, Any], list[str]]:
    """What the script above found in each frame, and what the pages said on the console."""
    assert BROWSER is not None
    profile = pages / f"profile{len(options)}"
    command = [
        *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
        *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", f"--user-data-dir={profile}"),
        *("--allow-file-access-from-files", "--enable-logging=stderr", "--virtual-time-budget=5000", *options),
        *("--dump-dom", f"file://{pages / 'look.html'}"),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    found = re.search(r'<pre id="found">(.+?)</pre>', ended.stdout, re.S)
    assert found is not None, ended.stderr[-2000:]
    return json.loads(html.unescape(found[1])), re.findall(r".*CONSOLE.*", ended.stderr)


def test_the_page_in_a_browser(pages: Path) -> None:
    found, console = looked_at(pages)
    assert console == []
    assert {name: seen["width"] for name, seen in found.items()} == {"phone": 390, "wide": 1280, "config": 390}
    for name, seen in found.items():
        assert seen["scrolled"] <= seen["width"] and seen["beyond"] == seen["cut"] == [], name
        assert seen["smallest"] >= 11, name
        # The point without a figure is last, whichever way the table is sorted.
        assert seen["rising"].pop() is seen["falling"].pop() is None
        rising = [float(value) for value in seen["rising"]]
        assert len(rising) == 387 and rising == sorted(rising)
        assert [float(value) for value in seen["falling"]] == rising[::-1]
        assert seen["tip"]["text"].startswith("dip, density 0."), name
        assert seen["tip"]["left"] >= 0 and seen["tip"]["right"] <= seen["width"], name
        assert seen["background"] == "rgb(245, 246, 248)"
    # The main chart, that of eight other settings, six panels, three of the layers, and the timeline.
    assert found["phone"]["charts"] == found["wide"]["charts"] == 1 + 8 + 6 + 3 + 1
    assert found["config"]["charts"] == 1 + 8 + 4 + 3


def test_the_page_in_the_dark(pages: Path) -> None:
    found, console = looked_at(pages, "--blink-settings=preferredColorScheme=0")
    assert console == []
    assert {seen["background"] for seen in found.values()} == {"rgb(15, 18, 22)"}
