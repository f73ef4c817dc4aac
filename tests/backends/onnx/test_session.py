"""A session of ONNX Runtime: it steps like the eager one, says what it is, and refuses files that cannot be used."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import dipc
from dipc import native
from dipc.api import compile
from dipc.backends import RunOptions, get_backend
from dipc.backends.eager import EagerSession
from dipc.backends.onnx.session import OnnxSession, RuntimeOptions
from dipc.errors import BadFile, MissingDependency, UsageError
from dipc.ir.program import Program
from kit.command_line import Cli
from kit.runs import relative
from kit.tiny_models import outlined, random_ids

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from dipc.backends.onnx.export import export  # noqa: E402

BODIES, KERNELS = RuntimeOptions(kernels=False, threads=1), RuntimeOptions(kernels=True, threads=1)
needs_library = pytest.mark.skipif(native.library() is None, reason=f"native library {native.describe()}")
# float32 on both sides, with sums in another order; measured 3e-7 of the largest logit.
ROUNDING = 1e-5


@pytest.fixture(scope="module")
def program() -> Program:
    return compile(outlined(), "dip-ca{scope=decode capacity=0.3}").program


@pytest.fixture(scope="module")
def exported(program: Program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With its weights in a file of their own."""
    folder = tmp_path_factory.mktemp("onnx") / "model"
    export(program, folder, external_data_bytes=0)
    return folder


def check_same(a: Any, b: Any) -> None:
    assert relative(a.logits, b.logits) <= ROUNDING
    assert a.masks.keys() == b.masks.keys() and all(torch.equal(a.masks[s], b.masks[s]) for s in b.masks)


@pytest.mark.smoke
def test_it_steps_like_the_eager_session(program: Program, exported: Path) -> None:
    eager, session = EagerSession(program, record=True), OnnxSession(exported, record=True, options=BODIES)
    ids, after = random_ids(30), random_ids(12, seed=1)
    for dense, piece in ((True, ids[:10]), (False, ids[10:29]), (False, ids[29:])):
        check_same(session.step(piece, dense=dense), eager.step(piece, dense=dense))
    assert session.position == eager.position == 30
    state = {port.name: carried.input for port, carried in zip(program.carried, session.metadata.carried, strict=True)}
    for port in program.carried:
        mine, theirs = session.state(state[port.name]), eager.state(port.name)
        assert mine.dtype == theirs.dtype and mine.shape == theirs.shape
        assert port.kind == "kv" or torch.equal(mine, theirs)
    session.new_sequence()
    eager.new_sequence()
    assert session.position == 0 and session.state("past_key_values.0.key").shape[2] == 0
    assert int(session.state("past_selection.0.input.t")) == 20
    check_same(session.step(after), eager.step(after))
    session.reset()
    eager.reset()
    assert int(session.state("past_selection.0.input.t")) == 0
    check_same(session.step(after), eager.step(after))


def test_it_says_what_it_is(program: Program, exported: Path) -> None:
    session = OnnxSession(exported / "model.onnx", options=BODIES)
    assert session.identity == dataclasses.replace(EagerSession(program).identity, backend="onnx-bodies")
    assert session.step(random_ids(3)).masks == {}
    if native.library() is not None:
        assert OnnxSession(exported, options=KERNELS).identity.backend == "onnx-kernels"
        assert OnnxSession(exported).identity.backend == "onnx-kernels"


@needs_library
def test_without_the_library_it_runs_on_the_bodies_unless_kernels_are_demanded(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIPC_NATIVE", "0")
    assert OnnxSession(exported).identity.backend == "onnx-bodies"
    with pytest.raises(MissingDependency, match="native library, which is absent: switched off by DIPC_NATIVE=0"):
        OnnxSession(exported, options=KERNELS)


def test_a_library_that_onnxruntime_refuses(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "libdipc_native.so"
    other.write_bytes(b"from another machine")
    monkeypatch.setattr("dipc.backends.onnx.runtime.onnx_library_path", lambda: other)
    assert OnnxSession(exported).identity.backend == "onnx-bodies"
    with pytest.raises(
        MissingDependency, match=r"refused dipc's kernel library: .*libdipc_native.so.*; reinstall dipc"
    ):
        OnnxSession(exported, options=KERNELS)


def test_without_onnx_it_runs_but_records_no_masks(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    OnnxSession(exported, options=BODIES).step([1])
    with pytest.raises(MissingDependency, match=r"needs onnx: pip install 'dipc\[onnx\]'"):
        OnnxSession(exported, record=True, options=BODIES)


def test_what_a_step_refuses(exported: Path) -> None:
    session = OnnxSession(exported, options=BODIES)
    with pytest.raises(UsageError, match="there is no token to run"):
        session.step([])
    session.step(random_ids(60))
    with pytest.raises(UsageError, match="65 tokens are more than the model's context of 64"):
        session.step(random_ids(5))
    session.step(random_ids(4))


def without_data(folder: Path) -> None:
    (folder / "model.onnx.data").rename(folder / "elsewhere.data")


def with_short_data(folder: Path) -> None:
    with (folder / "model.onnx.data").open("r+b") as file:
        file.truncate(100)


def overwritten(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"no model" * 100)


def cut_short(folder: Path) -> None:
    whole = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(whole[: len(whole) // 2])


def emptied(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"")


def from_the_future(folder: Path) -> None:
    change(folder, lambda made: setattr(made, "ir_version", 99))


def change(folder: Path, how: Callable[[Any], None]) -> None:
    made = onnx.load(str(folder / "model.onnx"), load_external_data=False)
    how(made)
    onnx.save(made, str(folder / "model.onnx"))


def metadata(key: str, value: str | None) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        def how(made: Any) -> None:
            pairs = {p.key: p.value for p in made.metadata_props} | {key: value}
            onnx.helper.set_model_props(made, {k: v for k, v in pairs.items() if v is not None})

        change(folder, how)

    return apply


DAMAGE = [
    (without_data, "its weights are not beside it; move model.onnx.data into the same folder or export again"),
    (with_short_data, "its external data is shorter than it should be; copy it again or export again"),
    (overwritten, "damaged, or no ONNX model; export again"),
    (cut_short, "damaged, or no ONNX model; export again"),
    (emptied, "damaged, or no ONNX model; export again"),
    (from_the_future, "onnxruntime .* cannot load it: .*IR version"),
    (metadata("dipc.carried", None), "was not exported by dipc"),
    (metadata("dipc.carried", "[{}]"), "metadata dipc.carried: 0.input: field required"),
    (metadata("dipc.carried", "[]"), "past_key_values.0.key does not fit what it says it carries"),
    (metadata("dipc.carried", "{"), "metadata dipc.carried: Invalid JSON"),
    (metadata("dipc.context", "many"), "metadata dipc.context: input should be a valid integer"),
    (metadata("dipc.context", None), "metadata dipc.context: input should be a valid integer"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
@pytest.mark.parametrize("record", [False, True])
def test_files_that_cannot_be_used(
    exported: Path, tmp_path: Path, damage: Callable[[Path], None], message: str, record: bool
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(exported, folder)
    damage(folder)
    with pytest.raises(BadFile, match=message) as caught:
        OnnxSession(folder, record=record, options=BODIES)
    assert str(caught.value).startswith(str(folder / "model.onnx")) and "\n" not in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"model\.onnx: no such file"):
        OnnxSession(tmp_path)


def test_the_same_file_from_another_folder(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """External data is found beside the model, wherever the process stands, and with recorded masks too."""
    monkeypatch.chdir(tmp_path)
    moved = tmp_path / "moved"
    shutil.copytree(exported, moved)
    a, b = (OnnxSession(f, record=r, options=BODIES) for f, r in ((exported, False), (Path("moved"), True)))
    assert torch.equal(a.step(random_ids(5)).logits, b.step(random_ids(5)).logits)


# --- Text: generation, evaluation and the commands ---


@pytest.fixture(scope="module")
def exported_out(out: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx") / "out"
    export(dipc.load(out), folder)
    return folder


def test_generation_and_perplexity_are_those_of_eager(out: Path, exported_out: Path) -> None:
    program, session = dipc.load(out), OnnxSession(exported_out, options=BODIES)
    eager = dipc.generate(program, "The city", max_new_tokens=20)
    for made in (
        dipc.generate(session, "The city", max_new_tokens=20),
        dipc.generate(program, "The city", max_new_tokens=20, backend="onnx", kernels=False, exported=exported_out),
    ):
        assert (made.text, made.method, made.model) == (eager.text, eager.method, eager.model)
        assert (eager.backend, made.backend) == ("eager", "onnx-bodies")
    words = "The city council met on Tuesday and voted for a new bridge. " * 3
    score = dipc.evaluate(program, words, record=True)
    own = dipc.perplexity(session, words)
    assert own.perplexity == pytest.approx(score.perplexity, rel=1e-4) and own.tokens == score.tokens
    assert dipc.perplexity(EagerSession(program), words).perplexity == pytest.approx(score.perplexity, rel=1e-6)


def test_evaluation_runs_both_models_in_onnxruntime(out: Path, exported_out: Path) -> None:
    program, words = dipc.load(out), "The city council met on Tuesday. " * 3
    eager = dipc.evaluate(program, words, record=True)
    score = dipc.evaluate(program, words, record=True, backend="onnx", kernels=False, exported=exported_out)
    assert score.backend == "onnx-bodies" and score.density == eager.density
    for name in ("perplexity", "dense_perplexity", "bits_per_byte", "dense_bits_per_byte"):
        assert getattr(score, name) == pytest.approx(getattr(eager, name), rel=1e-4)
    assert score.kl_to_dense == pytest.approx(eager.kl_to_dense, rel=1e-2)
    assert score.trace is not None and eager.trace is not None and score.trace.units == eager.trace.units
    for site in eager.trace.units:
        assert float((score.trace.mask(site) == eager.trace.mask(site)).mean()) >= 0.999


def test_an_export_of_another_program_is_refused(program: Program, exported_out: Path) -> None:
    other = get_backend("onnx", "run").open(program, RunOptions(exported=exported_out))
    with pytest.raises(BadFile, match=r"exported model is of tiny with dip-ca.*, not of this program"), other:
        raise AssertionError("opened")


def test_commands_run_an_exported_model(cli: Cli, exported_out: Path, out: Path, text: Path) -> None:
    run = ("--prompt", "The city", "--max-new-tokens", 10, "--json")
    eager = cli("run", out, *run).json()
    made = cli("run", exported_out, "--backend", "onnx", "--no-kernels", *run).json()
    assert (eager["backend"], made["backend"]) == ("eager", "onnx-bodies")
    assert {k: made[k] for k in ("model", "text", "method")} == {k: eager[k] for k in ("model", "text", "method")}
    shown = cli("run", exported_out / "model.onnx", "--backend", "onnx", "--no-kernels", *run[:-1])
    assert "onnx-bodies: 10 tokens after a prompt of 8" in shown.err
    evaluation = ("--text", text, "--seq-len", 32, "--max-tokens", 64)
    figures = cli("eval", exported_out, "--backend", "onnx", "--no-kernels", *evaluation, "--json").json()
    score = cli("eval", out, *evaluation, "--json").json()
    assert (figures["kind"], figures["backend"], score["backend"]) == ("perplexity", "onnx-bodies", "eager")
    assert figures["perplexity"] == pytest.approx(score["perplexity"], rel=1e-4)
    table = cli("eval", exported_out, "--backend", "onnx", "--no-kernels", *evaluation).out
    assert "onnx-bodies" in table and "density, as compiled" in table


def test_an_export_inside_the_artifact_is_used(
    cli: Cli, exported_out: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("exported again")

    folder = tmp_path / "with"
    shutil.copytree(out, folder)
    shutil.copytree(exported_out, folder / "onnx")
    monkeypatch.setattr("dipc.backends.onnx.export.export", fail)
    options = ("--prompt", "The", "--max-new-tokens", 3, "--json")
    assert cli("run", folder, "--backend", "onnx", "--no-kernels", *options).json()["backend"] == "onnx-bodies"


def test_what_the_commands_refuse(cli: Cli, exported_out: Path, out: Path, tmp_path: Path) -> None:
    cli("run", exported_out, "--prompt", "A").fails(2, "this is an exported model; run it with --backend onnx")
    cli("run", out, "--prompt", "A", "--no-kernels").fails(2, "--no-kernels: this is for --backend onnx")
    cli("run", out, "--prompt", "A", "--backend", "torch").fails(2, "no backend named 'torch' (known: eager, onnx)")
    cli("run", tmp_path / "no.onnx", "--prompt", "A", "--backend", "onnx").fails(2, "no.onnx: no such file")
    cli("eval", exported_out, "--backend", "onnx", "--save-trace", tmp_path / "t").fails(2, "exported model by itself")
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(exported_out / "model.onnx", bare)
    cli("run", bare, "--prompt", "A", "--backend", "onnx").fails(2, "came without a tokenizer")


def test_env_names_the_runtime_and_its_kernels(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    document = cli("env", "--json").json()
    assert document["onnxruntime"][0].isdigit() and document["onnx"][0].isdigit()
    if native.library() is not None:
        assert document["onnx_kernels"] == "registered with onnxruntime"
    monkeypatch.setenv("DIPC_NATIVE", "0")
    assert cli("env", "--json").json()["onnx_kernels"].startswith("none: the kernels for ONNX Runtime need")


def test_metadata_is_plain_json(exported: Path) -> None:
    made = onnx.load(str(exported / "model.onnx"), load_external_data=False)
    carried = json.loads({p.key: p.value for p in made.metadata_props}["dipc.carried"])
    assert carried[0] == {
        "input": "past_key_values.0.key",
        "output": "present.0.key",
        "dtype": "float32",
        "shape": [1, 2, "past", 8],
        "fill": 0,
    }
    last_used = next(c for c in carried if c["input"] == "past_selection.0.input.last_used")
    assert (last_used["dtype"], last_used["shape"], last_used["fill"]) == ("int64", [32], -1)
