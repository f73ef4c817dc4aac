"""Pipelines as text, and the runner: what it inserts, checks, refuses and reports. Plug-in files."""

from __future__ import annotations

import dataclasses
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
from hypothesis import HealthCheck, assume, given, reject, settings
from hypothesis import strategies as st

from dipc.api import compile
from dipc.errors import BadFile, UnknownName, UnsupportedModel, UsageError, VerificationFailed
from dipc.ir.program import Program
from dipc.passes.dip import Dip
from dipc.passes.dip_ca import DipCa
from dipc.passes.outline_glu import OutlineGlu
from dipc.pipeline.lexer import Step, listed, read_steps, write_steps
from dipc.pipeline.pass_ import PASSES, Pass, PassResult
from dipc.pipeline.runner import resolve, run_pipeline
from dipc.pipeline.text import make_pass, parse_pipeline, pipeline_text
from dipc.registry import REGISTRIES, load_plugin
from kit.tiny_models import outlined, tiny_llama

# --- Text ---


@pytest.mark.smoke
def test_a_pipeline_reads_as_it_is_written() -> None:
    assert parse_pipeline("outline-glu,dip{density=0.4 scope=decode}") == [
        OutlineGlu(),
        Dip(density=0.4, scope="decode"),
    ]
    assert parse_pipeline(' dip-ca { hw = a18 dram="4 GB"  layers="0-3,7" } ') == [
        DipCa(hw="a18", dram="4 GB", layers="0-3,7")
    ]


def test_underscores_in_a_name_are_hyphens_and_empty_braces_are_nothing() -> None:
    assert parse_pipeline("dip_ca{},outline_glu") == [DipCa(), OutlineGlu()]


def test_only_what_differs_from_the_defaults_is_printed() -> None:
    assert str(Dip(density=0.5, scope="all")) == "dip"
    assert str(DipCa(dram="4 GB", hw="a18", layers="1,2")) == 'dip-ca{layers="1,2" hw=a18 dram="4 GB"}'
    assert pipeline_text([OutlineGlu(), Dip(density=0.25)]) == "outline-glu,dip{density=0.25}"


DENSITY = st.floats(0.0, 1.0, exclude_min=True).filter(lambda v: v > 1e-6)
WORDS = st.text(st.sampled_from('"{}=, \\\n') | st.characters(codec="utf-8"), max_size=8)


@st.composite
def methods(draw: st.DrawFn) -> Pass:
    rho_in, rho_glu = draw(DENSITY), draw(DENSITY)
    shared: dict[str, Any] = {
        "density": draw(DENSITY),
        "scope": draw(st.sampled_from(["all", "decode"])),
        "layers": draw(WORDS),
        "rho_in": rho_in,
        "rho_glu": rho_glu,
    }
    if draw(st.booleans()):
        return Dip(**shared)
    return DipCa(
        **shared,
        gamma=draw(st.floats(0, 1, exclude_min=True)),
        policy=draw(st.sampled_from(["lfu", "lru", "none"])),
        capacity=draw(st.floats(0, 1)),
        hw=draw(WORDS),
        dram=draw(st.none() | WORDS),
        context=draw(st.integers(0, 10**6)),
        bits_per_weight=draw(st.none() | st.floats(1, 32)),
    )


@given(st.lists(st.just(OutlineGlu()) | methods(), min_size=1, max_size=4))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_pipelines_print_and_parse_back(passes: list[Pass]) -> None:
    assert parse_pipeline(pipeline_text(passes)) == passes


@pytest.mark.parametrize("name", PASSES.names())
@given(data=st.data())
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_pass_prints_and_parses_back(name: str, data: st.DataObject) -> None:
    """With any option that it takes: names of files may hold anything."""
    kind = PASSES.get(name)
    hints, options = get_type_hints(kind), {}
    for field in dataclasses.fields(kind):
        values = WORDS if hints[field.name] == str | None else st.from_type(hints[field.name])
        options[field.name] = data.draw(st.just(field.default) | values, label=field.name)
    try:
        made = kind(**options)
    except UsageError:
        reject()
    assert parse_pipeline(str(made)) == [made] and parse_pipeline(f"{made},outline-glu") == [made, OutlineGlu()]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a{x=C:\\temp\\new}", "C:\\temp\\new"),
        ('a{x="C:\\my files\\"}', "C:\\my files\\"),
        ('a{x="{1,2}, of 3"}', "{1,2}, of 3"),
        ('a { x = "he said ""no""" }', 'he said "no"'),
        ('a{x=""""}', '"'),
        ('a{x=""}', ""),
        ("a{x=0-3,7}", "0-3,7"),
        ("a{x=~/data/c=1.safetensors}", "~/data/c=1.safetensors"),
    ],
)
def test_values_in_quotes_may_hold_anything(text: str, value: str) -> None:
    assert read_steps(text) == [("a", {"x": value})]
    assert read_steps(write_steps(read_steps(text))) == [("a", {"x": value})]


@given(st.lists(st.tuples(st.sampled_from(["a", "b-c", "d_e"]), st.dictionaries(st.sampled_from("xyz"), st.text()))))
def test_steps_are_divided_where_they_were_joined(steps: list[Step]) -> None:
    assume(steps)
    assert read_steps(write_steps(steps)) == steps
    assert listed(",".join(["all", *(write_steps([step]) for step in steps)]))[1:] == [
        write_steps([step]) for step in steps
    ]


def test_a_long_text_that_is_wrong_is_refused_at_once() -> None:
    for text in ("a{" + '"' * 5001, "a{" + '""x' * 5000, "a{x=" + "y" * 50_000 + '"'):
        with pytest.raises(UsageError, match="cannot read"):
            read_steps(text)


def test_a_value_that_is_no_unicode_is_refused() -> None:
    """A file's name may be any bytes, a manifest's text may not."""
    with pytest.raises(UsageError, match=r"calibration=.*: not UTF-8 text"):
        parse_pipeline("cats{calibration=a\udcff.safetensors}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an empty pipeline"),
        ("dip,", "ends in a comma"),
        (",dip", "cannot read ',dip'"),
        ("dip dip", "cannot read 'dip dip'"),
        ("dip{density=0.5", "cannot read"),
        ("dip}", "cannot read"),
        ("dip{{}}", "cannot read"),
        ("dip{density}", "cannot read the options at 'density'; write option=value"),
        ("dip{density=0.5 density=0.6}", "option 'density' is given twice"),
        ("dip{density=much}", "dip: density=much: input should be a valid number"),
        ("dip{scope=some}", "dip: scope=some: input should be 'all' or 'decode'"),
        ("dip{density=1.5}", r"dip: density=1.5 is outside \(0, 1\]; 1 keeps every weight"),
        ("dip-ca{policy=lfo}", "no cache policy named 'lfo'; did you mean 'lfu'"),
        ("dipp", "no pass named 'dipp'; did you mean 'dip'"),
        ("dip{densty=1}", "no option of dip named 'densty'; did you mean 'density'"),
        ("outline-glu{x=1}", "no option of outline-glu named 'x'"),
    ],
)
def test_text_that_is_wrong_says_where(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_pipeline(text)


def test_an_unknown_pass_lists_the_known() -> None:
    with pytest.raises(UnknownName, match=r"known: .*dip, dip-ca, .*outline-glu"):
        make_pass("frobnicate", {})


# --- The runner ---


@pytest.mark.smoke
def test_required_passes_are_inserted_once() -> None:
    assert resolve([Dip()]) == [OutlineGlu(), Dip()]
    assert resolve([OutlineGlu(), Dip()]) == [OutlineGlu(), Dip()]
    result = compile(tiny_llama(), "dip{layers=0},dip-ca{layers=1}")
    assert result.pipeline == "outline-glu,dip{layers=0},dip-ca{layers=1}"
    assert [e.matches for e in result.log] == [
        ("model.layers.0.mlp", "model.layers.1.mlp"),
        ("model.layers.0.mlp",),
        ("model.layers.1.mlp",),
    ]


def test_a_compiled_program_can_be_compiled_again() -> None:
    """What is required is done already: outlining again finds nothing, and that is no error."""
    result = compile(outlined(), "dip")
    assert [len(e.matches) for e in result.log][-1] == 2


def test_the_log_says_what_happened() -> None:
    seen = []
    result = compile(
        tiny_llama(),
        "dip{layers=0}",
        check_numerics=True,
        watch=lambda i, p, program: seen.append((i, p.name, program)),
    )
    outline, dip = result.log
    assert outline.operators == {"aten.linear": -6, "aten.mul.Tensor": -2, "aten.silu": -2, "dipc.glu": 2}
    assert dip.operators["dipc.gather_linear"] == 3 and dip.operators["dipc.glu"] == -1
    assert all(e.deviation is not None and e.deviation <= 1e-4 and e.seconds > 0 for e in result.log)
    assert [(i, name) for i, name, _ in seen] == [(0, "outline-glu"), (1, "dip")] and seen[1][2] is result.program
    assert result.before is tiny_llama()
    text = str(result)
    assert text.startswith("tiny: outline-glu,dip{layers=0}\n")
    assert "dip{layers=0}: 1 rewritten, 1 skipped" in text
    assert "skipped model.layers.1.mlp: layer 1 is not among layers=0" in text


def test_a_pass_that_finds_nothing_is_an_error_unless_allowed() -> None:
    with pytest.raises(UnsupportedModel, match=r"dip found nothing to rewrite in tiny .*already rewritten") as caught:
        compile(tiny_llama(), "dip,dip")
    assert caught.value.exit_code == 3 and "\n" not in str(caught.value)
    allowed = compile(tiny_llama(), "dip,dip", allow_noop=True)
    assert [len(e.matches) for e in allowed.log] == [2, 2, 0]
    assert {m.reason for m in allowed.log[-1].mismatches} == {"already rewritten by another method"}
    assert allowed.program.method == compile(tiny_llama(), "dip").program.method


def test_no_pass_changes_its_input() -> None:
    text, weights = tiny_llama().text(), dict(tiny_llama().weights)
    compile(tiny_llama(), "dip-ca")
    assert tiny_llama().text() == text and dict(tiny_llama().weights) == weights


@dataclass(frozen=True)
class Broken(Pass):
    """Feeds an MLP its own weight, which no shape rule lets through."""

    def run(self, program: Program) -> PassResult:
        graph = program.edit()
        node = next(n for n in graph.nodes if n.target is torch.ops.dipc.glu.default)
        node.args = (node.args[3], *node.args[1:])
        return PassResult(program.replace(graph=graph), ("model.layers.0.mlp",))


@dataclass(frozen=True)
class Dangling(Pass):
    """Reads a weight that is not there."""

    def run(self, program: Program) -> PassResult:
        graph = program.edit()
        next(n for n in graph.nodes if n.op == "get_attr").target = "nowhere"
        return PassResult(program.replace(graph=graph), ("everything",))


@dataclass(frozen=True)
class Inexact(Pass):
    """Doubles the output of an MLP and says that it changes nothing."""

    def run(self, program: Program) -> PassResult:
        graph = program.edit()
        node = next(n for n in graph.nodes if n.target is torch.ops.dipc.glu.default)
        with graph.inserting_after(node):
            twice = graph.call_function(torch.ops.aten.mul.Tensor, (node, 2.0))
        node.replace_all_uses_with(twice, delete_user_cb=lambda user: user is not twice)
        return PassResult(program.replace(graph=graph), ("model.layers.0.mlp",))


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (Broken(), r"after test-pipeline: glu\w* in model.layers.0.mlp: dipc.glu.*do not fit"),
        (Dangling(), "after test-pipeline: the graph reads nowhere, which is not among the weights"),
    ],
)
def test_a_pass_that_breaks_the_graph_is_named(item: Pass, message: str) -> None:
    with pytest.raises(VerificationFailed, match=message) as caught:
        run_pipeline(outlined(), [item])
    assert caught.value.exit_code == 4


def test_a_pass_that_breaks_its_tolerance_is_named_if_numerics_are_checked() -> None:
    run_pipeline(outlined(), [Inexact()])
    with pytest.raises(VerificationFailed, match=r"test-pipeline changes the logits by .* it may by 0\.0001"):
        run_pipeline(outlined(), [Inexact()], check_numerics=True)


# --- Plug-ins ---


@pytest.fixture(autouse=True)
def own_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test plugs in is gone after it."""
    for registry in REGISTRIES:
        monkeypatch.setattr(registry, "added", dict(registry.added))


PLUGIN = '''
    """Keeps the largest inputs of up and gate, and all of down."""
    from dataclasses import dataclass
    from dipc.pipeline.mlp_rewriter import MlpRewriter
    from dipc.pipeline.sparsity_pass import SparsityPass

    @dataclass(frozen=True)
    class ByInput(SparsityPass):
        """Prune the input alone.

        Attributes:
            strength: has no meaning.
        """

        strength: int = 1

        def rewrite(self, mlp: MlpRewriter):
            kept = mlp.select_topk(mlp.abs(mlp.x), self.density, "input")
            hidden = mlp.product(mlp.activate(mlp.gather_linear(mlp.x, kept, mlp.gate)),
                                 mlp.gather_linear(mlp.x, kept, mlp.up))
            return mlp.linear(hidden, mlp.down)
'''


def write(path: Path, text: str) -> Path:
    path.write_text(textwrap.dedent(text))
    return path


@pytest.mark.smoke
def test_a_plug_in_file_is_a_pass_of_its_name(tmp_path: Path) -> None:
    path = write(tmp_path / "by_input.py", PLUGIN)
    assert load_plugin(path) == "by-input" and "by-input" in PASSES.names()
    assert load_plugin(path) == "by-input"  # The same file twice is the same pass.
    item = make_pass("by-input", {"strength": "3"})
    assert dataclasses.asdict(item)["strength"] == 3
    result = compile(tiny_llama(), "by-input{density=0.25 strength=2}", check_numerics=True)
    # Two of three matrices at a quarter, one whole: (0.25 + 0.25 + 1) / 3.
    assert result.program.method.density == pytest.approx(0.5)
    assert result.program.method.name == "by-input"
    assert result.pipeline == "outline-glu,by-input{density=0.25 strength=2}"


def test_a_plug_in_may_not_take_a_name(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError, match=r"the pass 'dip' is already defined by dipc.passes.dip; rename the file"):
        load_plugin(write(tmp_path / "dip.py", PLUGIN))
    load_plugin(write(tmp_path / "by_input.py", PLUGIN))
    with pytest.raises(UsageError, match=r"'by-input' is already defined by .*by_input.py; rename the file"):
        load_plugin(write(tmp_path / "other" / "by_input.py", PLUGIN))


@pytest.mark.parametrize(
    ("name", "text", "error", "message"),
    [
        ("nothing.py", "x = 1\n", BadFile, "defines no backend, cache policy, operator or pass"),
        ("broken.py", "import\n", BadFile, "broken.py: SyntaxError"),
        ("raises.py", "1 / 0\n", BadFile, "raises.py: ZeroDivisionError: division by zero"),
        ("notes.txt", "", UsageError, "a plug-in is a .py file or a device's .yaml"),
    ],
)
def test_a_plug_in_that_is_none_says_so(
    tmp_path: Path, name: str, text: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        load_plugin(write(tmp_path / name, text))


def test_a_plug_in_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such file"):
        load_plugin(tmp_path / "absent.py")
