"""The recipes of docs/extend.md as they stand: each file becomes a plug-in, each command prints what is shown."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from dipc.registry import REGISTRIES
from kit.command_line import Cli
from kit.paths import ROOT

TEXT = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
FILES = dict(
    re.findall(r"`([\w-]+\.(?:py|yaml))`[^`]*?:\n\n```(?:python|yaml)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
)
SESSIONS = re.findall(r"^```console\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


def steps(session: str) -> list[tuple[list[str], str]]:
    """The commands of a block as words, each with the output that is shown under it."""
    parts = re.split(r"^\$ dipc (.*)\n", session, flags=re.MULTILINE)
    assert parts[0] == "", "a block begins with a command"
    return [(shlex.split(command), output) for command, output in zip(parts[1::2], parts[2::2], strict=True)]


def pattern(output: str) -> str:
    """A regular expression for an output in which `...` stands for anything, or alone on a line for any lines."""
    lines = [
        "(?:.*\n)*?" if line == "..." else re.escape(line.rstrip()).replace(r"\.\.\.", ".*") + " *\n"
        for line in output.splitlines()
    ]
    return "".join(lines)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of the recipes."""
    for name, content in FILES.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path.resolve()


def test_there_is_one_recipe_per_kind() -> None:
    assert sorted(FILES) == [
        "in_pairs.py", "keep_inputs.py", "listing.py", "my-phone.yaml", "pair_max.py", "uses_and_age.py"
    ]  # fmt: skip
    assert len(SESSIONS) == 6


def test_recipes_do_what_is_shown(cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: dict[str, dict[str, tuple[object, str]]] = {registry.kind: {} for registry in REGISTRIES}
    for words, output in (step for session in SESSIONS for step in steps(session)):
        named = {str(folder / word) for word in words}
        for registry in REGISTRIES:  # one process stands for many: it loads a file once, and a command knows its own
            own = {name: found for name, found in loaded[registry.kind].items() if found[1] in named}
            monkeypatch.setattr(registry, "added", own)
        ran = cli(*words, "--quiet") if words[0] in ("compile", "estimate", "export") else cli(*words)
        for registry in REGISTRIES:
            loaded[registry.kind] |= registry.added
        said = ran.out if ran.code == 0 else ran.err
        assert re.fullmatch(pattern(output), said.strip("\n") + "\n"), f"dipc {shlex.join(words)}\n{said}"
