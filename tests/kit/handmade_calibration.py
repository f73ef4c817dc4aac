"""Calibrations made by hand, in a few lines, for tests of what reads them: true thresholds, made-up everything else."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, fx
from torch.nn.functional import linear

from dipc.calibration.density_allocation import DensityAllocation
from dipc.calibration.file import Calibration
from dipc.calibration.tensors import SCORES
from dipc.ir.program import Mlp, Program
from dipc.ir.verify import empty_port
from dipc.ops.glu import ACTIVATIONS
from kit.tiny_models import outlined, random_ids

WIDTH = 8
GRID = (0.25, 0.5, 0.75)
_FOLDER = TemporaryDirectory()


def mlp_inputs(program: Program, tokens: Tensor) -> dict[str, Tensor]:
    """Site prefix -> what the MLP is given, [T, D], in one call of an outlined program: token ids, or x [1, T, D]."""
    graph = program.edit()
    glus = [n for n in graph.nodes if n.target is torch.ops.dipc.glu.default]
    list(graph.nodes)[-1].args = (tuple(n.args[0] for n in glus),)
    given = {"tokens": tokens, "positions": torch.arange(tokens.shape[1])[None]}
    ports = [given.get(p.kind, empty_port(p, tokens.shape[1], 0)) for p in program.inputs]
    values = fx.GraphModule(dict(program.weights), graph)(*ports)
    return {m.site_prefix: x[0] for m, x in zip(program.mlps, values, strict=True)}


def scores(program: Program, mlp: Mlp, x: Tensor) -> dict[str, Tensor]:
    """Score -> its values for all tokens, [T, U]."""
    act, options = ACTIVATIONS[mlp.activation]
    bias = {m: program.weights.get(f"{mlp.name}.b_{m}") for m in ("gate", "up")}
    gate = act(linear(x, program.weights[mlp.gate], bias["gate"]), **options)
    up = linear(x, program.weights[mlp.up], bias["up"])
    return {"input": x.abs(), "gate": gate.abs(), "up": up.abs(), "glu": (gate * up).abs()}


def calibration_of(program: Program, tokens: Tensor) -> Calibration:
    """Thresholds of this call; random predictors and sensitivities; a divergence by which later layers cost less."""
    generator = torch.Generator().manual_seed(11)
    found, tensors = dict[str, list[Tensor]](), dict[str, Tensor]()
    shares = torch.linspace(0, 1, 201)
    for mlp in program.mlps:
        p = mlp.site_prefix
        for score, values in scores(program, mlp, mlp_inputs(program, tokens)[p]).items():
            found.setdefault(score, []).append(values.flatten())
            tensors[f"quantiles.{p}.{score}"] = torch.quantile(values.flatten(), shares)
            if score in ("input", "glu"):
                larger = values >= values.median(dim=1, keepdim=True).values
                tensors[f"popularity.{p}.{score}"] = larger.float().mean(dim=0)
        tensors[f"sensitivity.{p}"] = 0.1 + torch.rand(mlp.d_model, generator=generator)
        shapes = {"w1": (WIDTH, mlp.d_model), "b1": (WIDTH,), "w2": (mlp.d_ff, WIDTH), "b2": (mlp.d_ff,)}
        tensors |= {f"predictor.{p}.{n}": torch.randn(*s, generator=generator) for n, s in shapes.items()}
    tensors |= {f"quantiles.all.{s}": torch.quantile(torch.cat(found[s]), shares) for s in SCORES}
    falling = torch.tensor([[4.0, 2.0, 1.0], [2.0, 1.0, 0.5]])
    curves = {m.site_prefix: falling / (3 * i + 1) for i, m in enumerate(program.mlps)}
    tensors |= DensityAllocation(0.2, 1.1, GRID, curves).to_tensors()
    return Calibration({"model": program.info.name, "digest": program.info.digest}, tensors)


def saved(calibration: Calibration, folder: Path) -> str:
    """The path of a calibration's file."""
    calibration.save(folder / "calibration.safetensors")
    return str(folder / "calibration.safetensors")


@cache
def tiny_calibration() -> str:
    """The file of one for the tiny Llama of `kit.tiny_models`."""
    return saved(calibration_of(outlined(), random_ids(64, seed=3)[None]), Path(_FOLDER.name))
