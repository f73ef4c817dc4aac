"""A model of random weights, compiled and exported for the contest of decoding. Nothing here is timed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dipc.backends.onnx.export import export
from dipc.frontend.hugging_face import capture
from dipc.ir.program import Program
from dipc.memory.lowering import active_units, lower
from dipc.pipeline.runner import run_pipeline
from dipc.pipeline.text import parse_pipeline
from dipc.registry import load_installed_plugins, load_plugin
from dipc.studies.bench.candidates.case import Cases
from dipc.studies.bench.candidates.decode import ModelFacts, onnx_folder
from dipc.studies.bench.candidates.pipelines import onnx_pipeline
from dipc.studies.bench.candidates.random_model import random_model


def export_random_model(
    *, config: str, passes: str, format: str, seed: int, folder: str, plugins: Sequence[str]
) -> Cases:
    """Export the random model of a config to a folder, with what a report says of it; there are no cases."""
    load_installed_plugins()
    for file in plugins:
        load_plugin(Path(file))
    program = capture(random_model(Path(config), seed), name=Path(config).stem)
    pipeline = onnx_pipeline(passes, format)
    compiled = run_pipeline(program, parse_pipeline(pipeline)).program
    Path(folder).mkdir(parents=True, exist_ok=True)
    exported = onnx_folder(Path(folder))
    export(compiled, exported, pipeline=pipeline)
    facts = ModelFacts(
        program.parameter_count,
        program.info.layers,
        program.info.context,
        program.info.vocab,
        pipeline,
        bytes_per_token(compiled),
        sum(file.stat().st_size for file in exported.iterdir()),
    )
    facts.write(Path(folder))
    return {}


def bytes_per_token(program: Program) -> float:
    """Return the bytes of weights that one token reads, scales included."""
    traffic, kept = lower(program), active_units(program)
    read = sum(s.unit_bytes * (s.units if s.full else kept.get(s.name, s.units)) for s in traffic.sites)
    return traffic.resident_bytes - traffic.resident_unread_bytes + read
