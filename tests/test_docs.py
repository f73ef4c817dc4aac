"""README.md and docs/: the picture is the contract's, and every link leads somewhere."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote

import pytest

from kit.paths import ROOT

PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "dipc/**/*.md", "examples/**/*.md")
    for path in ROOT.glob(pattern)
    if not path.is_symlink()
)


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The places of a page that a link can name, as GitHub spells them."""
    headings = re.findall(r"^#+ (.*)$", without_code(read(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def drawing() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_architecture", ROOT / "tools" / "draw_architecture.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def test_picture_is_what_the_contract_says() -> None:
    module = drawing()
    assert module.draw() == read(module.PICTURE), "draw it anew: python tools/draw_architecture.py"


def folders_of_package() -> list[str]:
    """The folders of dipc that hold something; caches of a folder that is gone are left over in old checkouts."""
    folders = (p for p in (ROOT / "dipc").iterdir() if p.is_dir() and p.name[0] not in "_.")
    return sorted(p.name for p in folders if any(item.name != "__pycache__" for item in p.iterdir()))


def test_picture_has_every_folder() -> None:
    module = drawing()
    folders = set(folders_of_package())
    drawn = {name for layer in module.layers() for name in layer} | set(module.data_folders())
    assert folders - drawn == set(), "name them in the import contract in pyproject.toml"
    text = read(module.PICTURE)
    assert [folder for folder in sorted(folders) if f">{folder}/<" not in text] == []


def test_readme_names_every_folder() -> None:
    text = read(ROOT / "README.md")
    assert [folder for folder in folders_of_package() if f"](dipc/{folder})" not in text] == []


def test_readme_stays_short() -> None:
    assert len(read(ROOT / "README.md").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", without_code(read(page)))
    broken = []
    for target in targets:
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, place = unquote(target).partition("#")
        file = page if not path else (page.parent / path)
        if not file.exists() or (place and place not in anchors(file)):
            broken.append(target)
    assert broken == []
