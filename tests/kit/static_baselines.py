"""What the tests of the static baselines share: a calibration of the tiny Llama, and programs compiled with it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dipc.backends.eager import EagerSession
from dipc.calibration.file import Calibration
from dipc.ir.codes import QuantizedTensor, round_to_nearest
from dipc.ir.program import Program
from dipc.pipeline.runner import Compiled, run_pipeline, with_calibration
from dipc.pipeline.text import parse_pipeline
from kit.tiny_models import outlined, random_ids, tiny_llama

WINDOWS = random_ids(8 * 48).view(8, 48)
DOWN = "model.layers.0.mlp.down_proj.weight"


def saved(program: Program, folder: Path) -> str:
    path = folder / "calibration.safetensors"
    Calibration({"model": program.info.name, "digest": program.info.digest}, {"windows": WINDOWS}).save(path)
    return str(path)


def compiled(pipeline: str, calibration: str, program: Program | None = None, **options: Any) -> Compiled:
    """The tiny Llama, or another program, through a pipeline whose passes read a calibration."""
    return run_pipeline(program or tiny_llama(), with_calibration(parse_pipeline(pipeline), calibration), **options)


@cache
def once(pipeline: str, calibration: str) -> Compiled:
    """The same of the tiny Llama, compiled once: programs are values, and nobody changes them."""
    return compiled(pipeline, calibration)


def logits(program: Program) -> Tensor:
    """On the calibration's own text, [N, T, V]."""
    return torch.stack([EagerSession(program).step(ids).logits for ids in WINDOWS])


def squared(program: Program) -> float:
    """The mean squared difference of logits from the dense model's, on the calibration's text."""
    return float(((logits(program) - logits(tiny_llama())) ** 2).mean())


def rounded(bits: int, **form: Any) -> Program:
    """The tiny Llama with all linear layers rounded to the nearest code, outputs as groups of MLPs."""
    program = outlined()
    weights = dict(program.weights)
    for name in (n for n in weights if "proj" in n or n == "lm_head.weight"):
        q = round_to_nearest(weights[name], bits, 32, 0 if ".mlp." in name else 1, **form)
        weights[name] = values(q)
    return program.replace(weights=weights)


def values(q: QuantizedTensor) -> Tensor:
    found: Tensor = torch.ops.dipc.dequantize(q.codes, q.scales, q.zeros, q.bits, q.group, q.axis, torch.float32)
    return found
