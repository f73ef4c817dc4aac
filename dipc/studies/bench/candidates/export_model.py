"""A model of random weights, compiled and written for the contest of decoding. Nothing here is timed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dipc.artifact.writer import save
from dipc.backends import get_backend
from dipc.frontend.hugging_face import capture
from dipc.ir.program import Program
from dipc.memory.lowering import active_units, lower
from dipc.pipeline.runner import run_pipeline
from dipc.pipeline.text import parse_pipeline
from dipc.studies.bench.candidates.case import Cases
from dipc.studies.bench.candidates.decode import ModelFacts, export_folder, program_folder
from dipc.studies.bench.candidates.pipelines import decode_pipeline
from dipc.studies.bench.candidates.plugins import load_plugins
from dipc.studies.bench.candidates.random_model import random_model
from dipc.studies.bench.options import DecodeOptions


def export_random_model(
    *,
    config: str,
    passes: str,
    format: str,
    seed: int,
    folder: str,
    plugins: Sequence[str],
    backend: str = DecodeOptions.backend,
) -> Cases:
    """Write the random model of a config to a folder, with what a report says of it; there are no cases."""
    load_plugins(plugins)
    program = capture(random_model(Path(config), seed), name=Path(config).stem)
    pipeline = decode_pipeline(passes, format, backend)
    compiled = run_pipeline(program, parse_pipeline(pipeline)).program
    Path(folder).mkdir(parents=True, exist_ok=True)
    written = _write(compiled, Path(folder), backend, pipeline)
    facts = ModelFacts(
        program.parameter_count,
        program.info.layers,
        program.info.context,
        program.info.vocab,
        pipeline,
        bytes_per_token(compiled),
        sum(file.stat().st_size for file in written.rglob("*") if file.is_file()),
    )
    facts.write(Path(folder))
    return {}


def _write(program: Program, folder: Path, backend: str, pipeline: str) -> Path:
    """Export a program where its backend opens such an export, else keep it, and return the folder of what runs."""
    exported, runs = export_folder(folder, backend), get_backend(backend, "run")
    if "export" in runs.abilities():
        get_backend(backend, "export").export(program, exported, pipeline=pipeline)
        if runs.recognises(exported):
            return exported
    # Without the dense program beside it: nothing here is compared with that.
    save(program.replace(dense=None), program_folder(folder))
    return program_folder(folder)


def bytes_per_token(program: Program) -> float:
    """Return the bytes of weights that one token reads, scales included."""
    traffic, kept = lower(program), active_units(program)
    read = sum(s.unit_bytes * (s.units if s.full else kept.get(s.name, s.units)) for s in traffic.sites)
    return traffic.resident_bytes - traffic.resident_unread_bytes + read
