"""The operator of docs/extend.md with the ONNX form of dipc/ops/README.md, and a method, through every command."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dipc.registry import REGISTRIES
from kit.command_line import Cli
from kit.paths import ROOT

METHOD = """
from dataclasses import dataclass

from dipc.ir import target
from dipc.passes.dip import Dip


@dataclass(frozen=True)
class InPairs(Dip):
    '''Keep inputs in pairs.'''

    def rewrite(self, mlp):
        rho_in = self.density
        kept = mlp.select_topk(mlp.call(target("pair_most"), mlp.abs(mlp.x)), rho_in, "input")
        gate, up = (mlp.gather_linear(mlp.x, kept, w) for w in (mlp.gate, mlp.up))
        return mlp.linear(mlp.product(mlp.activate(gate), up), mlp.down)
"""


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The recipe's operator and a method that calls it; what they register is gone after the test.

    torch defines an operator once in a process, so it has another name than where the recipe itself is tested.
    """
    for registry in REGISTRIES:
        monkeypatch.setattr(registry, "added", dict(registry.added))
    recipe = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
    readme = (ROOT / "dipc" / "ops" / "README.md").read_text(encoding="utf-8")
    operator = re.findall(r"`pair_max\.py`[^`]*?:\n\n```python\n(.*?)```", recipe, re.DOTALL)[0]
    (exported,) = re.findall(r"```python\n(OPERATOR = .*?)```", readme, re.DOTALL)
    operator = re.sub(r"^OPERATOR = .*\n", exported, operator, flags=re.MULTILINE)
    operator = operator.replace("import Operator,", "import OnnxForm, Operator,").replace("pair_max", "pair_most")
    files = tmp_path / "pair_most.py", tmp_path / "in_pairs.py"
    files[0].write_text(operator, encoding="utf-8")
    files[1].write_text(METHOD, encoding="utf-8")
    return files


def test_an_artifact_with_a_plug_in_operator(
    cli: Cli, model: Path, text: Path, tmp_path: Path, plugins: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    operator, method = plugins
    given, out = ("--plugin", operator), tmp_path / "out"
    made = cli("compile", model, "-p", "in-pairs", "-o", out, "--plugin", method, *given, *given, "--verify")
    assert (made.code, made.err) == (0, "")

    for registry in REGISTRIES:
        monkeypatch.setattr(registry, "added", {k: v for k, v in registry.added.items() if k != "in-pairs"})
    commands = [
        ("inspect", out, "--graph"),
        ("explain", out),
        ("run", out, "--prompt", "The", "--max-new-tokens", "2", "--quiet"),
        ("eval", out, "--text", text, "--seq-len", "32", "--max-tokens", "64"),
        ("estimate", out, "--hw", "a18", "--dram", "90%", "--text", text, "--seq-len", "32", "--context", "0"),
    ]
    for command in commands:
        shown = cli(*command, *given)
        assert (shown.code, shown.err) == (0, "")
    assert "dipc.pair_most(%abs_1)" in cli(*commands[0], *given).out

    for registry in REGISTRIES:
        monkeypatch.setattr(registry, "added", {})
    for command in commands:
        cli(*command).fails(
            5, "program.json: node 'pair_most': no operator 'dipc.pair_most.default'", "load the plug-in"
        )
