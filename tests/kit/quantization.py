"""Short ways to quantise small programs, for the tests of what quantising does."""

from __future__ import annotations

from typing import Any

import torch

from dipc.ir.program import Program
from dipc.memory.lowering import lower
from dipc.ops.dequantize import OPERATOR
from dipc.pipeline.runner import Compiled, run_pipeline
from dipc.pipeline.text import parse_pipeline
from kit.tiny_models import one_glu, tiny_llama

DEQUANTIZE = OPERATOR.target
TABLE = "model.embed_tokens.weight"


def compiled(pipeline: str, program: Program | None = None, **options: Any) -> Compiled:
    """The tiny Llama, or another program, through a pipeline."""
    return run_pipeline(program or tiny_llama(), parse_pipeline(pipeline), **options)


def small_glu(d_model: int = 128, d_ff: int = 64) -> Program:
    """One gated MLP: gate and up [F, D], down [D, F]; 32-bit weights."""
    generator = torch.Generator().manual_seed(0)
    gate, up = (torch.randn(d_ff, d_model, generator=generator) for _ in range(2))
    return one_glu(gate, up, torch.randn(d_model, d_ff, generator=generator), "silu")


def sites(program: Program, bits: float | None = None) -> dict[str, tuple[int, float]]:
    """Site -> units and bytes of a unit."""
    return {s.name: (s.units, s.unit_bytes) for s in lower(program, bits).sites}


def tied() -> Program:
    """The tiny Llama whose head is its embedding table, of 96 x 32."""
    return tiny_llama(tie_word_embeddings=True)
