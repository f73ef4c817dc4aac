"""Every `dipc ...` that README.md and docs/ show is a command with these options, and its pipelines are pipelines."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from dipc.cli.app import app
from dipc.options import listed
from dipc.pipeline.text import parse_pipeline
from dipc.studies.bench.options import DENSE
from kit.paths import ROOT

PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
PLUGINS = {"keep-inputs", "in-pairs"}
"""What only a plug-in of docs/extend.md knows; tests/test_docs_recipes.py runs these."""


def shown(page: Path) -> list[str]:
    """The lines of shell blocks, those continued by a backslash joined."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```(?:sh|console)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [line.removeprefix("$ ") for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def commands(line: str) -> list[list[str]]:
    """The `dipc` commands of a line, as words."""
    words: list[list[str]] = [[]]
    for word in shlex.split(line, comments=True):
        if word in ("&&", ";", "|", ">"):
            words.append([])
        else:
            words[-1].append(word)
    return [command[1:] for command in words if command[:1] == ["dipc"]]


def mentioned(page: Path) -> list[list[str]]:
    """The commands in the running text, which often leave out the model."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [shlex.split(" ".join(found.split()))[1:] for found in re.findall(r"`(dipc [^`]+)`", text)]


def parse(words: list[str]) -> dict[str, Any]:
    """The options of a command line; typer raises for an unknown one, and for an argument that is missing."""
    if words[:1] in (["--help"], ["--version"]):
        return {}
    if "--plugin" in words:  # an option that reads its file at once
        words = [w for i, w in enumerate(words) if "--plugin" not in (w, words[i - 1] if i else "")]
    command: Any = get_command(app)
    while words and (subcommands := getattr(command, "commands", None)) and words[0][0] != "-":
        assert words[0] in subcommands, f"dipc has no command {words[0]}"
        command, words = subcommands[words[0]], words[1:]
    parameters: dict[str, Any] = command.make_context(command.name, list(words)).params if words else {}
    return parameters


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_blocks(page: Path) -> None:
    found = [words for line in shown(page) if "dipc " in line for words in commands(line)]
    assert found or page.name in ("architecture.md", "CHANGELOG.md", "concepts.md", "performance.md")
    for words in found:
        pipeline = parse(words).get("passes")
        if not isinstance(pipeline, str) or any(name in pipeline for name in PLUGINS):
            continue
        # A contest takes a list of pipelines, and the word "dense".
        pipelines = set(listed("passes", pipeline)) - {DENSE} if words[0] == "bench" else {pipeline}
        for text in pipelines:
            parse_pipeline(text)


def is_half(words: list[str]) -> bool:
    """Return whether a command lacks nothing but its model, its output or the value of its last option."""
    try:
        parse(words)
    except Exception as error:
        if type(error).__name__ not in ("MissingParameter", "BadOptionUsage"):
            raise
        return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_text(page: Path) -> None:
    for words in mentioned(page):
        is_half(words)
