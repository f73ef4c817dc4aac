"""One file is one file: a pass, a policy, an operator, a backend and a device from outside, through every command.

The same five files come by `--plugin`, and as modules of an installed distribution.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dipc.hardware.find import DEVICES
from dipc.registry import REGISTRIES, load_installed_plugins
from kit.command_line import Cli

FILES = {
    "my_half.py": """
        from dataclasses import dataclass
        from dipc.passes.dip import Dip

        @dataclass(frozen=True)
        class MyHalf(Dip):
            '''Half of everything, by pairs of inputs.'''

            def rewrite(self, mlp):
                from dipc.ir import operators
                score = mlp.call(operators.target("pair_sum"), mlp.abs(mlp.x))
                kept = mlp.select_topk(score, self.density, "input")
                gate, up = (mlp.gather_linear(mlp.x, kept, w) for w in (mlp.gate, mlp.up))
                hidden = mlp.product(mlp.activate(gate), up)
                mask = mlp.select_topk(mlp.abs(hidden), self.density, "glu")
                return mlp.gather_linear(hidden, mask, mlp.down)
    """,
    "oldest.py": """
        from dataclasses import dataclass
        from dipc.cache.policy import Policy

        @dataclass(frozen=True)
        class Oldest(Policy):
            '''Evict the unit with the highest number.'''

            def key(self, freq, last_used):
                return last_used * 0
    """,
    "pair_sum.py": """
        import torch
        from dipc.ir.operator import Operator

        def reference(x):
            '''y_i = x_i + x_j with j the neighbour of i in its pair. x [..., U], U even -> y [..., U].'''
            pairs = x.unflatten(-1, (-1, 2)).sum(-1, keepdim=True)
            return pairs.expand(*pairs.shape[:-1], 2).flatten(-2)

        def fake(x):
            return torch.empty_like(x)

        def traffic(node):
            return ()

        def examples(generator, tokens, units):
            return [(torch.rand(tokens, 2 * units, generator=generator),)]

        OPERATOR = Operator("pair_sum", "(Tensor x) -> Tensor", reference, fake, traffic, examples)
    """,
    "listing.py": """
        from contextlib import contextmanager
        from dipc.backends import Backend, Export
        from dipc.backends.eager import EagerSession

        class Listing(Backend):
            '''Runs a program in torch, and exports its text.'''

            @contextmanager
            def open(self, program, options=None, *, record=False):
                yield EagerSession(program, record=record)

            def export(self, program, folder, *, pipeline=""):
                folder.mkdir()
                size = (folder / "program.txt").write_text(program.text())
                return Export(folder, {"program.txt": size}, {}, ("tokens",), ("logits",))
    """,
}


@dataclass(frozen=True)
class Outside:
    """The five things from outside: what to add to a command, and what the operator is called."""

    arguments: tuple[str, ...]
    operator: str

    @property
    def names(self) -> dict[str, str]:
        """The command of each kind, and the name of the thing."""
        rest = {"passes": "my-half", "policies": "oldest", "backends": "listing", "hw": "my-phone"}
        return {**rest, "operators": self.operator.replace("_", "-")}


def written(folder: Path, operator: str) -> list[Path]:
    """The five files in a folder. torch defines an operator once in a process, so each folder has one of its own."""
    folder.mkdir()
    for name, text in FILES.items():
        content = textwrap.dedent(text).replace("pair_sum", operator)
        (folder / name.replace("pair_sum", operator)).write_text(content, encoding="utf-8")
    a18 = DEVICES.get("a18").read_text(encoding="utf-8")
    (folder / "my-phone.yaml").write_text(a18.replace("name: a18\n", "name: my-phone\n"), encoding="utf-8")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module", params=["plugin", "installed"])
def outside(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    """The files, by `--plugin` or as an installed distribution; the registries are as before after the tests."""
    root, operator = tmp_path_factory.mktemp("root"), f"pair_sum_{request.param}"
    files = written(root / f"outside_{request.param}", operator)
    with pytest.MonkeyPatch.context() as patch:
        for registry in REGISTRIES:
            patch.setattr(registry, "added", dict(registry.added))
        if request.param == "plugin":
            yield Outside(tuple(part for file in files for part in ("--plugin", str(file))), operator)
            return
        (root / "outside_installed" / "__init__.py").write_text("", encoding="utf-8")
        about = root / "outside-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n", encoding="utf-8")
        entry = "[dipc.plugins]\nours = outside_installed\n"
        (about / "entry_points.txt").write_text(entry, encoding="utf-8")
        patch.syspath_prepend(root)
        importlib.invalidate_caches()
        load_installed_plugins.cache_clear()
        yield Outside((), operator)
    load_installed_plugins.cache_clear()
    for name in [n for n in sys.modules if n.partition(".")[0] == "outside_installed"]:
        del sys.modules[name]


def test_each_kind_is_listed_and_shown(cli: Cli, outside: Outside) -> None:
    for command, name in outside.names.items():
        listed = cli(command, "list", *outside.arguments)
        assert (listed.code, listed.err) == (0, "") and re.search(rf"^{name}\b", listed.out, re.MULTILINE)
        shown = cli(command, "show", name, *outside.arguments)
        assert (shown.code, shown.err) == (0, "")
        assert cli(command, "show", name, *outside.arguments, "--json").json()
    assert "Half of everything, by pairs" in cli("passes", "show", "my-half", *outside.arguments).out
    assert "run, export" in cli("backends", "list", *outside.arguments).out


def test_they_run_are_exported_and_priced(cli: Cli, outside: Outside, model: Path, text: Path, tmp_path: Path) -> None:
    out, read = tmp_path / "out", ("--text", text, "--seq-len", 32, "--max-tokens", 64)
    made = cli("compile", model, "-p", "my-half{density=0.5}", "-o", out, "--backend", "listing", *outside.arguments)
    assert (made.code, made.err) == (0, "")
    assert f"dipc.{outside.operator}" in (out / "listing" / "program.txt").read_text()

    run = ("--prompt", "The city", "--max-new-tokens", 3, "--json", *outside.arguments)
    assert cli("run", out, "--backend", "listing", *run).json()["text"] == cli("run", out, *run).json()["text"]
    score = cli("eval", out, "--backend", "listing", *read, "--json", *outside.arguments).json()
    assert score["method"]["name"] == "my-half" and score["density"] == pytest.approx(0.5)

    assert cli("export", out, "--to", "listing", "-o", tmp_path / "listed", *outside.arguments).code == 0
    cli("export", out, "--to", "onnx", "-o", tmp_path / "onnx", *outside.arguments).fails(
        3, outside.operator, "cannot be exported"
    )
    cli("export", out, "--to", "cost", "-o", tmp_path / "cost", *outside.arguments).fails(
        2, "the backend cost writes no file"
    )
    cli("estimate", out, "--hw", "my-phone", "--backend", "listing", *outside.arguments).fails(
        2, "listing prices nothing"
    )

    device = ("--hw", "my-phone", "--dram", "90%", "--context", 0)
    priced = cli("estimate", out, *device, "--policy", "oldest", *read, "--json", *outside.arguments).json()
    assert (priced["device"]["name"], priced["policy"]) == ("my-phone", "oldest")
    followed = cli("compile", model, "-p", "dip-ca{policy=oldest}", "-o", tmp_path / "aware", *outside.arguments)
    assert (followed.code, followed.err) == (0, "")
    assert cli("eval", tmp_path / "aware", *read, "--json", *outside.arguments).json()["cache_policy"] == "oldest"
    cli("export", tmp_path / "aware", "-o", tmp_path / "no", *outside.arguments).fails(3, "oldest")


def test_they_are_compared_and_reported(cli: Cli, outside: Outside, model: Path, text: Path, tmp_path: Path) -> None:
    read = ("--text", text, "--seq-len", 32, "--max-tokens", 64)
    table = tmp_path / "table"
    compared = cli(
        "compare", model, "--methods", "dip,my-half", "--density", "0.5", *read, "-o", table, *outside.arguments
    )
    assert (compared.code, compared.err) == (0, "") and "my-half" in compared.out

    study = tmp_path / "study"
    grid = ("--methods", "my-half", "--density", "0.5", "--policy", "oldest,belady")
    device = ("--hw", "my-phone", "--dram", "90%", "--context", 0)
    studied = cli("study", model, *grid, *device, *read, "-o", study, *outside.arguments)
    assert (studied.code, studied.err) == (0, "") and "oldest" in studied.out
    points = json.loads((study / "study.json").read_text())["points"]
    assert {p["policy"] for p in points if p["method"] == "my-half"} == {"oldest", "belady"}
    assert cli("report", study, "-o", tmp_path / "page.html").code == 0
    page = (tmp_path / "page.html").read_text()
    assert "my-half" in page and "my-phone" in page and "oldest" in page
