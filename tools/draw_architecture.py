"""Draw docs/architecture.svg from the import contract in pyproject.toml: layers as rows, folders as boxes.

Usage: python tools/draw_architecture.py

A box holds a folder's name and the first sentence of its docstring. Folders of data are in no contract; they stand
below, with the first sentence of their README. Files are not counted, so that adding one changes no picture.
"""

from __future__ import annotations

import ast
import re
import textwrap
import tomllib
from dataclasses import dataclass
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "architecture.svg"
PACKAGE = "dipc"

WIDTH, MARGIN, SPINE, GAP = 800, 16, 34, 10
NAME_SIZE, TEXT_SIZE, LINE, PAD = 14, 12, 15, 8
GLYPH = 0.53
"""The mean width of a letter of a sans-serif font, in font sizes, on the safe side."""
SIDE_BY_SIDE = 4
"""So many boxes with text fit beside each other."""

STYLE = f"""
  text {{ font-family: -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif; fill: #1f2328 }}
  .name {{ font-size: {NAME_SIZE}px; font-weight: 600 }}
  .text {{ font-size: {TEXT_SIZE}px; fill: #424a53 }}
  .card {{ fill: #ffffff; stroke: #d1d9e0 }}
  .folder {{ fill: #e8f1fb; stroke: #7aa7d9 }}
  .module {{ fill: #f2f3f5; stroke: #a9b1ba }}
  .data {{ fill: #ffffff; stroke: #7aa7d9; stroke-dasharray: 4 3 }}
  .arrow {{ stroke: #6b7580; stroke-width: 1.5; fill: none }}
""".strip("\n")


@dataclass(frozen=True)
class Box:
    """One folder or module: its name, its sentence, which style it has, and the folders in it."""

    name: str
    text: str
    style: str
    inner: tuple[str, ...] = ()

    def lines(self, width: float) -> list[str]:
        """Return what stands under the name, in lines for a box of that width in pixels."""
        letters = max(8, int((width - 2 * PAD) / (TEXT_SIZE * GLYPH)))
        inner = " ".join(f"{name}/" for name in self.inner)
        return textwrap.wrap(self.text, letters) + textwrap.wrap(inner, letters)


def layers() -> list[list[str]]:
    """Return the contract's layers from the top, each the names of its folders and modules without the package's."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    contract = next(
        c for c in settings["contracts"] if c["type"] == "layers" and c.get("containers", [PACKAGE]) == [PACKAGE]
    )
    rows = [re.split(r"\s*[|:]\s*", layer.strip()) for layer in contract["layers"]]
    return [[name.strip("() ").removeprefix(f"{PACKAGE}.") for name in row] for row in rows]


def data_folders() -> list[str]:
    """Return the folders that hold no code."""
    folders = (p for p in (ROOT / PACKAGE).iterdir() if p.is_dir() and p.name[0] not in "._")
    return sorted(p.name for p in folders if not (p / "__init__.py").exists() and (p / "README.md").exists())


def first_sentence(text: str) -> str:
    """Return a text's first sentence without its full stop and backticks."""
    paragraph = " ".join(text.strip().partition("\n\n")[0].split()).replace("`", "")
    return re.split(r"\.(?:\s|$)", paragraph, maxsplit=1)[0]


def docstring(file: Path) -> str:
    """Return a module's docstring, without importing it."""
    return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""


def box(name: str, *, alone: bool = False) -> Box:
    """Return the box of a folder of code, a folder of data, or a module, which has a sentence where it is alone."""
    path = ROOT / PACKAGE / name
    if not path.is_dir():
        return Box(f"{name}.py", first_sentence(docstring(path.with_suffix(".py"))) if alone else "", "module")
    if not (path / "__init__.py").exists():
        body = (path / "README.md").read_text(encoding="utf-8").partition("\n")[2]
        return Box(f"{name}/", first_sentence(body), "data")
    inner = sorted(p.name for p in path.iterdir() if (p / "__init__.py").exists())
    return Box(f"{name}/", first_sentence(docstring(path / "__init__.py")), "folder", tuple(inner))


def draw_row(boxes: list[Box], top: float) -> tuple[list[str], float]:
    """Return the shapes of boxes side by side, and the row's height."""
    left, room = MARGIN + SPINE, WIDTH - 2 * MARGIN - SPINE
    width = (room - GAP * (len(boxes) - 1)) / len(boxes)
    texts = [b.lines(width) for b in boxes]
    height = 2 * PAD + NAME_SIZE + LINE * max(map(len, texts))
    shapes = []
    for i, (item, text) in enumerate(zip(boxes, texts, strict=True)):
        x = left + i * (width + GAP)
        shapes.append(
            f'<rect class="{item.style}" x="{x:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" rx="5"/>'
        )
        base = top + PAD + NAME_SIZE - 2
        shapes.append(f'<text class="name" x="{x + PAD:.1f}" y="{base:.1f}">{escape(item.name)}</text>')
        shapes += [
            f'<text class="text" x="{x + PAD:.1f}" y="{base + LINE * (n + 1):.1f}">{escape(line)}</text>'
            for n, line in enumerate(text)
        ]
    return shapes, height


def split(boxes: list[Box]) -> list[list[Box]]:
    """Break a layer into rows: boxes with text first, modules, which have none, beside each other."""
    described = [b for b in boxes if b.text]
    count = -(-len(described) // SIDE_BY_SIDE)
    rows = [described[len(described) * i // count : len(described) * (i + 1) // count] for i in range(count)]
    bare = [b for b in boxes if not b.text]
    return [*rows, *([bare] if bare else [])]


def draw() -> str:
    """Return the picture as SVG."""
    shapes: list[str] = []
    top = MARGIN + 0.0
    for row in layers():
        for boxes in split([box(name, alone=len(row) == 1) for name in row]):
            made, height = draw_row(boxes, top)
            shapes += made
            top += height + GAP
    spine = MARGIN + 8
    shapes += [
        f'<path class="arrow" d="M{spine} {MARGIN} V{top - GAP:.1f} m-4 -7 l4 7 l4 -7"/>',
        f'<text class="text" transform="translate({spine + 16} {(top + MARGIN) / 2:.1f}) rotate(-90)"'
        ' text-anchor="middle">imports go down, never up</text>',
    ]
    made, height = draw_row([box(name) for name in data_folders()], top)
    shapes += made
    total = top + height + MARGIN
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{total:.0f}" '
        f'viewBox="0 0 {WIDTH} {total:.0f}" role="img" aria-label="The folders of dipc, upper ones import lower ones">'
    )
    card = f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{total - 1:.1f}" rx="8"/>'
    return "\n".join([head, f"<style>\n{STYLE}\n</style>", card, *shapes, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
    print(f"wrote {PICTURE.relative_to(ROOT)}")
