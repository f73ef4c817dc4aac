"""What the processes of `dipc bench decode` do: make a model and export it, or run one token by token."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dipc.studies.bench.case import Case, Cases

if TYPE_CHECKING:
    from dipc.ir.program import Program
    from dipc.pipeline.pass_ import Pass

CASE = "token"
FACTS = "bench.json"
DENSE = "dense"
TOKENS = 64
"""Different tokens that are fed in turn."""


def build(*, config: str, passes: str, format: str, seed: int, folder: str, plugins: list[str]) -> Cases:
    """Export the random model of a config to FOLDER/onnx, with what a report says of it in `bench.json`; no cases."""
    from dipc.api import capture, compile
    from dipc.backends.onnx.export import export
    from dipc.registry import load_installed_plugins, load_plugin
    from dipc.studies.bench.random_model import random_model

    load_installed_plugins()
    for file in plugins:
        load_plugin(Path(file))
    program = capture(random_model(Path(config), seed), name=Path(config).stem)
    text = pipeline(passes, format)
    compiled = compile(program, text).program
    Path(folder).mkdir(parents=True, exist_ok=True)
    export(compiled, Path(folder) / "onnx", pipeline=text)
    files = (Path(folder) / "onnx").iterdir()
    facts = {
        "parameters": program.parameter_count,
        "layers": program.info.layers,
        "context": program.info.context,
        "vocab": program.info.vocab,
        "pipeline": text,
        "bytes_per_token": bytes_per_token(compiled),
        "file_bytes": sum(f.stat().st_size for f in files),
    }
    (Path(folder) / FACTS).write_text(json.dumps(facts), encoding="utf-8")
    return {}


def pipeline(passes: str, format: str) -> str:
    """The whole pipeline: a method or none, then the format, then the packing that the kernels read.

    The dense model has its groups along the inputs: only then does ONNX Runtime have a product for it (MatMulNBits).
    """
    from dipc.pipeline.text import parse_pipeline, pipeline_text

    quantised = [] if format == "float32" else parse_pipeline(format)
    if passes != DENSE:
        return pipeline_text([*parse_pipeline(passes), *quantised, *parse_pipeline("pack")])
    return pipeline_text([*parse_pipeline("outline-glu"), *map(_along_inputs, quantised)])


def _along_inputs(step: Pass) -> Pass:
    has_axis = any(option.name == "axis" for option in dataclasses.fields(step))
    return dataclasses.replace(step, axis="inputs") if has_axis else step  # type: ignore[call-arg]


def bytes_per_token(program: Program) -> float:
    """Weights that one token reads, scales included."""
    from dipc.memory.lowering import active_units, lower

    traffic, kept = lower(program), active_units(program)
    read = sum(s.unit_bytes * (s.units if s.full else kept.get(s.name, s.units)) for s in traffic.sites)
    return traffic.resident_bytes - traffic.resident_unread_bytes + read


def decode(*, folder: str, prompt: int, seed: int, threads: int, kernels: bool) -> Cases:
    """One token after the other, after a prompt, with ONNX Runtime."""
    import torch

    from dipc.backends.onnx.session import OnnxSession, RuntimeOptions

    facts = json.loads((Path(folder) / FACTS).read_text(encoding="utf-8"))
    session = OnnxSession(Path(folder) / "onnx", options=RuntimeOptions(kernels=kernels, threads=threads))
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(facts["vocab"], (prompt + TOKENS,), generator=generator)
    logits = session.step(ids[:prompt]).logits[-1]
    if not math.isfinite(float(logits.abs().max())):
        raise ValueError("the logits are not finite")
    tokens = [ids[prompt + i : prompt + i + 1] for i in range(TOKENS)]

    def call(number: int) -> Any:
        session.step(tokens[number % TOKENS])

    return {CASE: Case(call, 1, facts["bytes_per_token"])}
