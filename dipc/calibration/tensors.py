r"""The tensors of a calibration: their names, shapes and ranges.

P is `Mlp.site_prefix`, such as `layers.3`. A score is `input` |x|, `gate` |act(W_gate x)|, `up` |W_up x| or `glu`
|GLU(x)|; one that is "of all" is over the units of all MLPs.

    part         tensor                                type
    thresholds   quantiles.P.SCORE, quantiles.all.SCORE  f32[Q]  ascending, at Q evenly spaced shares from 0 to 1
                 statistics.P.SCORE                    f32[3]  mean, mean square and maximum of the score
                 popularity.P.input, popularity.P.glu  f32[D], f32[F]
    sensitivity  sensitivity.P                         f32[D]
    predictors   predictor.P.w1, .b1, .w2, .b2         f32[H, D], f32[H], f32[F, H], f32[F]
                 recall.P                              f32[2]  of the largest 10 % and 50 %, on held-out windows
    allocation   allocation.fit, allocation.grid       f64[2], f64[G]  a grid ascends within (0, 1)
                 allocation.divergence.P               f32[2, G]
    (always)     windows                               i64[N, T]

A file may hold any of the parts, and a part any of the MLPs.

Shape legend: D d_model, F d_ff, G densities, H a predictor's hidden width, N windows of T tokens, Q quantiles.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from dipc.errors import UsageError

SCORES = ("input", "gate", "up", "glu")
PREDICTOR = ("w1", "b1", "w2", "b2")
_P = r"(?P<mlp>layers\.\d+(?:\.\d+)?)"
_SCORE = f"(?:{'|'.join(SCORES)})"
# A letter stands for the same size in all tensors of an MLP, and of no MLP.
_TABLE: tuple[tuple[str, torch.dtype, tuple[str | int, ...]], ...] = (
    (rf"quantiles\.(?:all|{_P})\.{_SCORE}", torch.float32, ("Q",)),
    (rf"statistics\.{_P}\.{_SCORE}", torch.float32, (3,)),
    (rf"popularity\.{_P}\.input", torch.float32, ("D",)),
    (rf"popularity\.{_P}\.glu", torch.float32, ("F",)),
    (rf"sensitivity\.{_P}", torch.float32, ("D",)),
    (rf"predictor\.{_P}\.w1", torch.float32, ("H", "D")),
    (rf"predictor\.{_P}\.b1", torch.float32, ("H",)),
    (rf"predictor\.{_P}\.w2", torch.float32, ("F", "H")),
    (rf"predictor\.{_P}\.b2", torch.float32, ("F",)),
    (rf"recall\.{_P}", torch.float32, (2,)),
    (r"allocation\.fit", torch.float64, (2,)),
    (r"allocation\.grid", torch.float64, ("G",)),
    (rf"allocation\.divergence\.{_P}", torch.float32, (2, "G")),
    (r"windows", torch.int64, ("N", "T")),
)
_SHARED = ("G",)


def mlp_of(name: str) -> str:
    """The site prefix of the MLP that a tensor belongs to; empty if it belongs to none."""
    found = re.search(_P, name)
    return found["mlp"] if found else ""


def sizes_of(tensors: Mapping[str, Tensor]) -> dict[tuple[str, str], int]:
    """The size that each letter of the table has, by MLP and letter.

    Raises:
        UsageError: a tensor is not in the table, or not as it says.
    """
    sizes: dict[tuple[str, str], int] = {}
    for name, tensor in tensors.items():
        dtype, shape = _expected(name)
        fits = tensor.dtype == dtype and tensor.dim() == len(shape) and tensor.numel() > 0
        for letter, size in zip(shape, tensor.shape, strict=False):
            key = "" if letter in _SHARED else mlp_of(name), str(letter)
            fits = fits and size == (letter if isinstance(letter, int) else sizes.setdefault(key, size))
        if not fits:
            raise UsageError(f"calibration: {name} is {tensor.dtype} {list(tensor.shape)}, which does not fit the rest")
        if not _in_range(name, tensor):
            raise UsageError(f"calibration: {name} holds values that it cannot have")
    whole = {f"predictor.{mlp_of(n)}.{part}" for n in tensors if n.startswith("predictor.") for part in PREDICTOR}
    whole |= {f"allocation.{part}" for n in tensors if n.startswith("allocation.") for part in ("fit", "grid")}
    if missing := sorted(whole - set(tensors)):
        raise UsageError(f"calibration: {missing[0]} is missing")
    return sizes


def _expected(name: str) -> tuple[torch.dtype, tuple[str | int, ...]]:
    for pattern, dtype, shape in _TABLE:
        if re.fullmatch(pattern, name):
            return dtype, shape
    raise UsageError(f"calibration: {name!r} is no tensor of a calibration")


def _in_range(name: str, tensor: Tensor) -> bool:
    if not tensor.isfinite().all():
        return False
    if name.startswith(("predictor.", "allocation.fit", "allocation.divergence")):
        return True
    if name == "allocation.grid":
        return bool((tensor > 0).all() and (tensor < 1).all() and (tensor.diff() > 0).all())
    if name.startswith("quantiles.") and (len(tensor) < 2 or bool((tensor.diff() < 0).any())):
        return False
    most = 1.0 if name.startswith(("popularity.", "recall.")) else math.inf
    return bool((tensor >= 0).all() and (tensor <= most).all())
