"""Contests: their arithmetic, what becomes of candidates that fail, and the commands on small sizes. Never speed."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dipc import native
from dipc.api import compile
from dipc.errors import BadFile, UsageError
from dipc.ops.glu import reference as glu
from dipc.report.bench_kernels import kernels_tables
from dipc.studies.bench.candidate import Candidate, CandidateLost
from dipc.studies.bench.candidates.decode import ModelFacts, decode
from dipc.studies.bench.candidates.export_model import bytes_per_token, export_random_model
from dipc.studies.bench.candidates.mlp import MlpTask, case_name, make_mlp, matrix_bytes, reference_outputs
from dipc.studies.bench.candidates.pipelines import decode_pipeline
from dipc.studies.bench.candidates.random_model import random_model
from dipc.studies.bench.contest import Rules, run_interleaved, untimed_answers
from dipc.studies.bench.decode import LLAMA_3_2_1B, DecodeBench, DecodeRow
from dipc.studies.bench.exported_models import ExportedModels
from dipc.studies.bench.kernels import KernelBench
from dipc.studies.bench.machine import describe_machine
from dipc.studies.bench.timing import Timing, quantile, speedup
from kit.command_line import Cli
from kit.tiny_models import SIZES, outlined

RULES = Rules(threads=1, rounds=2, calls=3, warmup=1, timeout_s=60)


def candidate(name: str, **arguments: Any) -> Candidate:
    return Candidate(name, f"kit.bench_candidates:{name}", arguments)


def test_quantiles_are_interpolated() -> None:
    assert [quantile((1.0, 2.0, 4.0), q) for q in (0.0, 0.25, 0.5, 1.0)] == [1.0, 1.5, 2.0, 4.0]
    assert quantile((3.0,), 0.9) == 3.0


def test_a_ratio_is_that_of_the_medians_and_its_range_is_over_rounds() -> None:
    fast = Timing(rounds=((1.0, 1.0, 9.0), (2.0, 2.0, 2.0)), bytes_read=6.0)
    slow = Timing(rounds=((4.0, 4.0, 4.0), (4.0, 5.0, 4.0)))
    found = speedup(fast, slow)
    assert fast.median_s == 2.0 and slow.median_s == 4.0
    assert found.value == 2.0
    # By rounds 4 / 1 and 4 / 2.
    assert found.low == pytest.approx(2.2) and found.high == pytest.approx(3.8)
    assert fast.bytes_per_s == 3.0


def test_candidates_take_turns_and_their_times_are_divided_by_repeats() -> None:
    steps: list[tuple[int, int]] = []
    both = [candidate("sleeper", seconds=0.02, repeats=2)]
    found = run_interleaved(both, RULES, lambda done, total: steps.append((done, total)))
    slept = found.timings["sleeper", "sleep"]
    assert not found.failures
    assert [len(times) for times in slept.rounds] == [3, 3]
    assert 0.01 <= min(slept.sorted_s) < 0.02
    assert slept.bytes_read == 1000.0 and slept.answer == (0.0, 1.0) and slept.idle
    assert found.timings["sleeper", "threads"].answer == (1.0,)
    assert steps[-1] == (4, 4)


def test_a_candidate_that_fails_does_not_lose_the_others() -> None:
    names = ("absent", "raises_later", "dies", "talker")
    found = run_interleaved([candidate(name) for name in names], RULES)
    assert set(found.timings) == {("raises_later", "good"), ("talker", "sleep")}
    assert all(len(m.rounds) == 2 for m in found.timings.values())
    failures = {f.candidate: f for f in found.failures}
    assert failures["absent"].absent and failures["absent"].case is None
    assert failures["absent"].reason == "MissingDependency: nothing here; install it"
    assert failures["raises_later"].case == "bad" and failures["raises_later"].reason == "ValueError: a problem"
    assert failures["dies"].case is None and failures["dies"].reason == "exit code 7: last words"


def test_a_candidate_that_dies_before_its_first_turn_is_listed_once() -> None:
    found = run_interleaved([candidate("dies_at_once"), candidate("talker")], RULES)
    assert set(found.timings) == {("talker", "sleep")}
    (failure,) = found.failures
    assert (failure.candidate, failure.case, failure.reason) == ("dies_at_once", None, "exit code 7: last words")


def test_what_a_candidate_leaves_is_removed() -> None:
    folder = Path(bytes(map(int, untimed_answers(candidate("leaves_a_file"), RULES)["folder"])).decode())
    assert folder.name.startswith("dipc-bench-") and not folder.exists()


def test_a_candidate_that_hangs_is_ended() -> None:
    with pytest.raises(CandidateLost, match="no reply within 3 s"):
        untimed_answers(candidate("hangs"), Rules(1, timeout_s=3))


def test_a_candidate_that_does_not_exist() -> None:
    found = run_interleaved([Candidate("none", "kit.bench_candidates:none")], RULES)
    assert not found.timings and "has no attribute 'none'" in found.failures[0].reason


@pytest.mark.parametrize(
    ("file", "absent"),
    [
        ("read_bandwidth", ["torch"]),
        ("replay", ["torch"]),
        ("replay_model", ["torch"]),
        ("decode", ["transformers", "dipc.frontend", "dipc.passes"]),
    ],
)
def test_a_process_imports_what_it_runs(file: str, absent: list[str]) -> None:
    code = f"import sys, dipc.studies.bench.candidates.{file}; print([m for m in {absent} if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


@pytest.mark.parametrize(("format_", "axis"), [("float32", 0), ("bfloat16", 0), ("int8", 1), ("int4", 0), ("int4", 1)])
def test_the_definition_is_that_of_the_glu(format_: str, axis: int) -> None:
    task = MlpTask(32, 48, format_, (1.0, 0.5), tokens=3, group=16, axis=axis)
    mlp = make_mlp(task)
    found = reference_outputs(task, mlp)
    gate, up = mlp.gate_up.values().chunk(2, 1)
    right = glu(task.inputs()[0], gate.t(), up.t(), mlp.down.values().t())
    torch.testing.assert_close(found[case_name(None)], right)
    torch.testing.assert_close(found[case_name(1.0)], right)
    assert not torch.allclose(found[case_name(0.5)], right)
    # Values stay near one, so that selection means something.
    assert 0.05 < float(right.std()) < 2


def test_bytes_are_those_of_the_kept_units_and_of_all_shared_scales() -> None:
    along_inputs = make_mlp(MlpTask(32, 48, "int4", (0.5,), group=16)).gate_up
    along_unit = make_mlp(MlpTask(32, 48, "int4", (0.5,), group=16, axis=1)).gate_up
    # 32 units of 96 values: 48 bytes each, and 2 bytes for each group of 16.
    assert matrix_bytes(along_inputs, 8) == 8 * 48 + 2 * 96 * 2
    assert matrix_bytes(along_unit, 8) == 8 * (48 + 6 * 2)
    assert make_mlp(MlpTask(32, 48, "float32", ())).size_bytes((16, 12)) == 4 * (16 * 96 + 12 * 32)


@pytest.mark.parametrize(
    "bench",
    [
        KernelBench(densities=(0.0,)),
        KernelBench(formats=("int5",)),
        KernelBench(axis="rows"),
        KernelBench(group=24),
        KernelBench(d_model=7),
    ],
)
def test_what_cannot_be_measured(bench: KernelBench) -> None:
    with pytest.raises(UsageError):
        bench.run(RULES)


SMALL = ("--d-model", 64, "--d-ff", 96, "--density", "1,0.5", "--group", 32, "--rounds", 2, "--calls", 2)


@pytest.fixture(scope="module")
def baselines() -> None:
    pytest.importorskip("onnxruntime")


@pytest.mark.usefixtures("baselines")
def test_bench_kernels_gives_every_call_and_who_is_missing(cli: Cli) -> None:
    found = cli("bench", "kernels", *SMALL, "--threads", 1, "--format", "int4", "--json", "-q").json()
    assert (found["kind"], found["settings"]["d_ff"], found["rules"]["threads"]) == ("bench-kernels", 96, 1)
    assert found["machine"]["physical_cores"] >= 1
    (int4,) = found["formats"]
    rows = {(row["contender"], row["part"], row["density"]): row for row in int4["rows"]}
    dense = rows["ONNX Runtime MatMulNBits", "MLP", None]
    assert int4["best_dense"] == "ONNX Runtime MatMulNBits" and dense["speedup"]["value"] == 1.0
    assert [len(times) for times in dense["rounds_s"]] == [2, 2]
    assert dense["deviation"] < 0.05
    if native.library() is None:
        assert {f["contender"] for f in int4["failures"] if f["absent"]} >= {"dipc in torch", "memory, read"}
        return
    assert not int4["failures"]
    sparse = rows["dipc in ONNX Runtime", "MLP", 0.5]
    assert sparse["deviation"] < 1e-3 and rows["dipc in torch", "MLP", 0.5]["deviation"] < 1e-3
    assert sparse["speedup"]["value"] == pytest.approx(dense["median_ms"] / sparse["median_ms"])
    assert sparse["share_of_roof"] == pytest.approx(sparse["bytes_per_s"] / int4["roof_bytes_per_s"])
    assert {part for _, part, _ in rows} == {"MLP", "read", "select", "gate+up", "down"}
    assert found["scan"]["speedup"]["value"] > 0 and not int4["is_cold"]


@pytest.mark.usefixtures("baselines")
def test_bench_kernels_prints_tables(cli: Cli) -> None:
    found = cli("bench", "kernels", *SMALL, "--threads", 1, "--format", "float32", "--tokens", 16)
    assert (found.code, found.err) == (0, "")
    for text in ("16 tokens through a SwiGLU MLP of 64 x 96, float32", "ONNX Runtime MatMul", "time / dense", "cores"):
        assert text in found.out


@pytest.mark.usefixtures("baselines")
def test_bench_kernels_goes_on_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPC_NATIVE", "0")
    found = KernelBench(64, 96, (0.5,), ("float32",)).run(RULES)
    (float32,) = found.formats
    assert {row.candidate for row in float32.rows} == {"torch linear", "ONNX Runtime MatMul"}
    absent = {f.candidate: f.reason for f in float32.failures}
    assert set(absent) == {"memory, read", "dipc in torch", "dipc in ONNX Runtime"}
    assert all(f.absent and "DIPC_NATIVE=0" in f.reason for f in float32.failures)
    assert found.scan is not None and [f.candidate for f in found.scan.failures] == ["native scan"]
    assert kernels_tables(found)


def test_bad_options_of_bench(cli: Cli) -> None:
    cli("bench", "kernels", "--density", "half").fails(2, "--density 'half' is no list of numbers")
    cli("bench", "kernels", "--density", " , ").fails(2, "lists nothing")
    cli("bench", "kernels", "--density", "1.5").fails(2, "density")
    cli("bench", "kernels", "--format", "int3").fails(2, "no format named 'int3'", "int4")
    cli("bench", "decode", "--passes", "dense,dipp").fails(2, "dipp")
    cli("bench", "decode", "--config", "none.json").fails(2, "none.json")
    cli("bench", "decode", "--seed", 2**64).fails(2, "--seed")
    cli("bench", "decode", "--backend", "cost").fails(2, "the backend cost runs no program")
    cli("bench", "eval", "--backend", "none").fails(2, "no backend named 'none'")


def test_bytes_per_token_of_a_program() -> None:
    """Two layers of 3 x 32 x 48 weights in 32 bits; the head is tied, so the embedding table is read as the head."""
    program = outlined(tie_word_embeddings=True)
    dense = bytes_per_token(program)
    resident = 4 * (program.parameter_count - 2 * 3 * 32 * 48)
    assert dense == resident + 4 * 2 * 3 * 32 * 48
    half = compile(program, "dip{density=0.5}").program
    assert bytes_per_token(half) == resident + 4 * 3 * 32 * 48
    # The head is read in codes, and of the table one row.
    tied, untied = (outlined(tie_word_embeddings=tie) for tie in (True, False))
    assert bytes_per_token(compile(tied, "int4").program) == bytes_per_token(compile(untied, "int4").program)


def test_pipelines_of_the_contest() -> None:
    assert decode_pipeline("dense", "float32") == "outline-glu"
    assert decode_pipeline("dense", "int4{group=32}") == "outline-glu,int4{group=32 axis=inputs}"
    assert decode_pipeline("dip{density=0.25}", "int4{group=32}") == "dip{density=0.25},int4{group=32},pack"
    assert decode_pipeline("dip{density=0.25}", "int4{group=32}", "eager") == "dip{density=0.25},int4{group=32}"


def test_a_backend_that_opens_no_export_runs_the_program(tmp_path: Path) -> None:
    config = tmp_path / "small.json"
    config.write_text(json.dumps({**SIZES, "model_type": "llama"}), encoding="utf-8")
    folder = tmp_path / "made"
    asked: dict[str, Any] = {"seed": 0, "backend": "eager", "plugins": []}
    export_random_model(config=str(config), passes="dip{density=0.25}", format="float32", folder=str(folder), **asked)
    assert sorted(path.name for path in folder.iterdir()) == ["bench.json", "program"]
    assert ModelFacts.read(folder).pipeline == "dip{density=0.25}"
    before = torch.get_num_threads()
    cases = decode(folder=str(folder), prompt=8, threads=before + 1, kernels=True, **asked)
    assert torch.get_num_threads() == before + 1
    assert cases["token"].call(0) is None and cases["token"].bytes_read == ModelFacts.read(folder).bytes_per_token
    del cases
    assert torch.get_num_threads() == before


def test_what_the_bytes_allow_and_what_was_reached() -> None:
    fast = Timing(rounds=((0.5, 0.5),), bytes_read=4.0)
    slow = Timing(rounds=((0.75, 0.75),), bytes_read=8.0)
    row = DecodeRow("dip", "dip", fast, 4.0, 10, speedup(fast, slow), 2.0, None)
    assert row.tokens_per_second == 2.0
    assert row.reached == 0.75


def test_random_model_has_the_shape_and_values_near_one(tmp_path: Path) -> None:
    config = tmp_path / "small.json"
    config.write_text(json.dumps({**SIZES, "model_type": "llama", "tie_word_embeddings": True}), encoding="utf-8")
    model, again = random_model(config, 3), random_model(config, 3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    head, table = model.get_submodule("lm_head").weight, model.get_parameter("model.embed_tokens.weight")
    assert head is table and float(table.detach().std()) == pytest.approx(32**-0.5, rel=0.1)
    with torch.no_grad():
        logits = model(torch.arange(8)[None]).logits
    assert 0.3 < float(logits.std()) < 3
    with pytest.raises(BadFile):
        random_model(tmp_path / "none.json", 0)


def test_the_default_shape_is_llama_3_2_1b() -> None:
    found = json.loads(LLAMA_3_2_1B.read_text(encoding="utf-8"))
    d, f, layers = found["hidden_size"], found["intermediate_size"], found["num_hidden_layers"]
    kv = found["num_key_value_heads"] * found["head_dim"]
    parameters = found["vocab_size"] * d + layers * (3 * d * f + 2 * d * d + 2 * d * kv + 2 * d) + d
    assert parameters == 1_235_814_400


def test_bench_decode_counts_the_context(tmp_path: Path) -> None:
    config = tmp_path / "small.json"
    config.write_text(json.dumps({**SIZES, "model_type": "llama"}), encoding="utf-8")
    with pytest.raises(UsageError, match=r"173 tokens would be run and the context is 64"):
        DecodeBench(config, prompt=64).check(Rules(1, rounds=18, calls=5, warmup=1))


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_bench_decode_of_what_is_no_config(cli: Cli, tmp_path: Path, text: str) -> None:
    config = tmp_path / "bad.json"
    config.write_text(text, encoding="utf-8")
    cli("bench", "decode", "--config", config).fails(5, "bad.json: not a model's config.json")


def test_bench_decode_cannot_keep_models_in_a_file(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for folder in (file, file / "inside"):
        cli("bench", "decode", "--folder", folder).fails(2, f"{folder}: no folder can be made there")


def test_kept_models_of_configs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    folders = set()
    for layers in (1, 2):
        (tmp_path / str(layers)).mkdir()
        config = tmp_path / str(layers) / "config.json"
        config.write_text(json.dumps({"num_hidden_layers": layers}), encoding="utf-8")
        models = ExportedModels(config, "int4", 0, (), tmp_path, Rules(1))
        folders.add(models.folder("dense"))
    folders.add(dataclasses.replace(models, backend="eager").folder("dense"))
    assert len(folders) == 3


@pytest.mark.nightly
@pytest.mark.usefixtures("baselines")
def test_bench_decode_compares_with_dense(cli: Cli, tmp_path: Path) -> None:
    config, kept = tmp_path / "small.json", tmp_path / "kept"
    config.write_text(json.dumps({**SIZES, "model_type": "llama"}), encoding="utf-8")
    asked = ("--config", config, "--folder", kept, "--passes", "dense,dip{density=0.5}", "--format", "float32")
    rules = ("--rounds", 2, "--calls", 2, "--threads", 1, "--prompt", 8)
    found = cli("bench", "decode", *asked, *rules, "--json", "-q").json()
    (contest,) = found["contests"]
    rows = {row["passes"]: row for row in contest["rows"]}
    dense = rows["dense"]
    assert (found["kind"], found["model"]["layers"], dense["pipeline"]) == ("bench-decode", 2, "outline-glu")
    assert dense["speedup"]["value"] == dense["allowed_speedup"] == 1.0
    assert len(list(kept.glob("*/onnx/model.onnx"))) == 2
    if native.library() is None:
        assert [(f["contender"], f["absent"]) for f in contest["failures"]][-1] == ("dip{density=0.5}", True)
        return
    assert not contest["failures"]
    # Each of 2 layers reads half of 3 x 32 x 48 weights.
    dip = rows["dip{density=0.5}"]
    assert dense["bytes_read"] - dip["bytes_read"] == 4 * 3 * 32 * 48
    assert dip["allowed_speedup"] == dense["bytes_read"] / dip["bytes_read"]
    shown = cli("bench", "decode", *asked, *rules)
    assert (shown.code, shown.err) == (0, "")
    for text in ("decoding with small, float32", "tokens/s", "allowed", "8 to 16 positions"):
        assert text in shown.out


def test_the_machine_is_described() -> None:
    found = describe_machine()
    assert 1 <= found.physical_cores <= found.logical_cores
    assert found.processor and found.versions["dipc"]
    assert found.memory_bytes is None or found.memory_bytes > 0
    assert found.last_cache_bytes is None or math.log2(found.last_cache_bytes) > 10
