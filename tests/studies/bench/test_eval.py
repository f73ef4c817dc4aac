"""The contest of perplexities: what it refuses, what its processes measure, and how it is told. Never speed."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from dipc.api import capture, compile, perplexity
from dipc.backends import RunOptions
from dipc.backends.eager import EagerSession
from dipc.errors import UsageError
from dipc.report.bench_eval import eval_dict, eval_tables
from dipc.studies.bench import eval as eval_bench
from dipc.studies.bench.candidate import CandidateLost
from dipc.studies.bench.candidates.eval import CASE, NumberTokenizer, measure_perplexity
from dipc.studies.bench.contest import Outcome, Rules
from dipc.studies.bench.eval import EvalBench, EvalBenchResult, EvalRow
from dipc.studies.bench.machine import describe_machine
from dipc.studies.bench.timing import Ratio, Timing
from kit.tiny_models import SIZES


def test_numbers_are_tokens() -> None:
    text = "".join(NumberTokenizer().decode([i]) for i in (3, 17, 4))
    assert NumberTokenizer()(text)["input_ids"] == [3, 17, 4]


def test_a_process_measures_what_perplexity_gives(tmp_path: Path) -> None:
    config = tmp_path / "tiny" / "config.json"
    config.parent.mkdir()
    config.write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"], **SIZES}))
    more: dict[str, Any] = {"seq_len": 20, "max_tokens": 50, "seed": 0, "runner": RunOptions(threads=1)}
    dense, dip = (
        measure_perplexity(model=str(config), passes=p, plugins=[], **more)[CASE].call(0)
        for p in ("dense", "dip{density=0.3}")
    )
    assert dense is not None and dip is not None
    assert dense[1:].tolist() == dip[1:].tolist() == [19 + 19 + 9, 20]
    # Random weights know nothing: about the vocabulary, and something else where units are left out.
    assert dense[0] == pytest.approx(SIZES["vocab_size"], rel=0.9) and dense[0] != dip[0]


def test_a_model_with_a_tokenizer_reads_the_sample_text() -> None:
    found = measure_perplexity(
        model="demo", passes="dip", seq_len=32, max_tokens=64, seed=0, plugins=[], runner=RunOptions(threads=1)
    )
    session = EagerSession(compile(capture("demo"), "dip").program)
    answer = found[CASE].call(0)
    assert answer is not None and answer[0] == perplexity(session, seq_len=32, max_tokens=64).perplexity


def test_another_backend_measures_the_same(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    config = tmp_path / "tiny" / "config.json"
    config.parent.mkdir()
    config.write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"], **SIZES}))
    asked: dict[str, Any] = {
        "model": str(config),
        "passes": "dip",
        "plugins": [],
        "seq_len": 20,
        "max_tokens": 40,
        "seed": 0,
    }
    eager, onnx = (
        measure_perplexity(**asked, runner=RunOptions(b, threads=1))[CASE].call(0) for b in ("eager", "onnx")
    )
    assert eager is not None and onnx is not None
    assert onnx.tolist() == pytest.approx(eager.tolist(), rel=1e-4)


@pytest.mark.parametrize(
    ("bench", "message"),
    [
        (EvalBench(model="nothing-there"), "no model 'nothing-there'"),
        (EvalBench(passes=("dense", "nothing")), "nothing"),
        (EvalBench(max_tokens=1), "max_tokens is 1"),
        (EvalBench(backend="cost"), "the backend cost runs no program"),
        (EvalBench(backend="onnx", device="cpu"), "the backend onnx takes no device; eager does"),
        (EvalBench(device="gpu"), "no device 'gpu'"),
    ],
)
def test_what_is_refused_before_anything_is_built(bench: EvalBench, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        bench.check()


def test_how_it_is_told() -> None:
    dense, dip = Timing(((1.0, 1.0), (1.0, 1.0))), Timing(((1.2, 1.2), (1.4, 1.2)))
    rows = (
        EvalRow("dense", dense, 40.0, 100, 32, Ratio(1.0, 1.0, 1.0)),
        EvalRow("dip", dip, 44.0, 100, 32, Ratio(1.2, 1.2, 1.3)),
    )
    result = EvalBenchResult(describe_machine(), EvalBench(), Rules(1, 2, 2), rows, ())
    document = eval_dict(result)
    told = document["rows"][1]
    assert (document["kind"], told["passes"], told["time_by_dense"]["value"]) == ("bench-eval", "dip", 1.2)
    assert told["tokens_per_second"] == pytest.approx(100 / 1.2) and math.isclose(told["perplexity"], 44.0)
    json.dumps(document, allow_nan=False)
    assert "backend" not in document["settings"] and _text(result).startswith("perplexity of demo in torch")
    chosen = dataclasses.replace(result, bench=EvalBench(backend="onnx"))
    assert eval_dict(chosen)["settings"]["backend"] == "onnx"
    assert _text(chosen).startswith("perplexity of demo in ONNX Runtime")


def test_beside_a_gpu_stands_the_perplexity_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def answers(candidate: Any, rules: Rules) -> dict[str, tuple[float, ...]]:
        runner = candidate.arguments["runner"]
        asked.append((candidate.name, runner.device))
        if candidate.name == "dip":
            raise CandidateLost("out of memory")
        return {CASE: (40.5, 100.0, 32.0)}

    def contest(candidates: list[Any], rules: Rules, progress: Any) -> Outcome:
        asked.extend((c.name, c.arguments["runner"].device) for c in candidates)
        timing = Timing(((1.0,), (1.0,)), answer=(40.4, 100.0, 32.0))
        return Outcome({(c.name, CASE): timing for c in candidates}, ())

    monkeypatch.setattr(eval_bench, "untimed_answers", answers)
    monkeypatch.setattr(eval_bench, "run_interleaved", contest)
    monkeypatch.setattr(eval_bench, "check_device", lambda backend, device: None)
    monkeypatch.setattr(eval_bench, "choose_device", torch.device)
    result = EvalBench(passes=("dense", "dip"), device="cuda").run(Rules(1, 2, 1))
    assert asked == [("dense", "cuda"), ("dip", "cuda"), ("dense", "cpu"), ("dip", "cpu")]
    assert [row.cpu_perplexity for row in result.rows] == [40.5, None]
    assert [(f.candidate, f.case, f.reason) for f in result.failures] == [("dip", "on the CPU", "out of memory")]
    document = eval_dict(result)
    assert document["settings"]["device"] == "cuda" and document["rows"][0]["cpu_perplexity"] == 40.5
    assert "perplexity of demo in torch on cuda" in _text(result) and "on the CPU" in _text(result)


@pytest.mark.cuda
def test_a_gpu_measures_what_the_cpu_does() -> None:
    result = EvalBench(seq_len=64, max_tokens=256, device="cuda").run(Rules(1, 1, 1))
    assert [row.passes for row in result.rows] == ["dense", "dip", "dip-ca"] and not result.failures
    for row in result.rows:
        assert row.cpu_perplexity == pytest.approx(row.perplexity, rel=1e-3) and row.tokens_per_second > 0
    assert result.machine.gpu is not None


def _text(result: EvalBenchResult) -> str:
    screen = Console(width=200)
    with screen.capture() as shown:
        screen.print(*eval_tables(result))
    return shown.get()
