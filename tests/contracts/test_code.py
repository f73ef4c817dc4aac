"""The habits of the code that ruff does not hold: short functions, docstrings that say at once what a thing is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import dipc

ROOT = Path(dipc.__file__).parent
MOST_LINES = 60
MOST_PARAMETERS = 8
Function = ast.FunctionDef | ast.AsyncFunctionDef


@pytest.fixture(scope="module")
def files() -> dict[str, ast.Module]:
    return {str(p.relative_to(ROOT)): ast.parse(p.read_text("utf-8")) for p in sorted(ROOT.rglob("*.py"))}


def test_no_function_is_longer_than_a_screen(files: dict[str, ast.Module]) -> None:
    assert not [f"{where} has {n} lines" for where, f in _functions(files) if (n := _lines(f)) > MOST_LINES]


def test_no_public_function_has_more_parameters_than_one_remembers(files: dict[str, ast.Module]) -> None:
    public = [(where, f) for where, f in _functions(files) if f.name == "__init__" or not f.name.startswith("_")]
    assert not [f"{where} has {n} parameters" for where, f in public if (n := _parameters(f)) > MOST_PARAMETERS]


def test_docstrings_begin_with_a_verb_or_a_noun(files: dict[str, ast.Module]) -> None:
    documented = ast.Module | ast.ClassDef | Function
    nodes = [(name, node) for name, tree in files.items() for node in ast.walk(tree) if isinstance(node, documented)]
    texts = [(name, ast.get_docstring(node) or "") for name, node in nodes]
    assert not [f"{name}: {text}" for name, text in texts if re.match(r"(What|Whether|Of)\b", text)]


def test_every_folder_says_what_it_is(files: dict[str, ast.Module]) -> None:
    silent = []
    for folder in (p for p in (ROOT, *ROOT.rglob("*")) if p.is_dir() and p.name != "__pycache__"):
        package = files.get(str((folder / "__init__.py").relative_to(ROOT)))
        told = (folder / "README.md").is_file() or (package is not None and ast.get_docstring(package))
        if not told and any(p.is_file() for p in folder.iterdir()):
            silent.append(str(folder.relative_to(ROOT)))
    assert not silent


def test_nothing_is_left_to_do() -> None:
    texts = (p for suffix in ("py", "cc", "h", "md", "yaml", "js", "css") for p in ROOT.rglob(f"*.{suffix}"))
    assert not [str(p) for p in texts if re.search(r"\b(TODO|FIXME|XXX)\b", p.read_text("utf-8"))]


def _functions(files: dict[str, ast.Module]) -> Iterator[tuple[str, Function]]:
    for name, tree in files.items():
        for node in ast.walk(tree):
            if isinstance(node, Function):
                yield f"{name}:{node.lineno} {node.name}", node


def _lines(function: Function) -> int:
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


def _parameters(function: Function) -> int:
    """Count those that a caller gives by name or place: neither `self` and `cls` nor `*args` and `**kwargs`."""
    own = function.args
    names = [a.arg for a in (*own.posonlyargs, *own.args, *own.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))
