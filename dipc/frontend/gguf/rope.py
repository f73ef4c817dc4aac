"""Rotary embeddings of a GGUF file: what transformers' reading of it leaves out.

llama.cpp stretches positions by keys of the metadata (linear, YaRN), and the frequencies of Llama 3.1 and later by a
tensor of factors; transformers reads neither, and would compute another model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dipc.errors import UnsupportedModel
from dipc.frontend.gguf.container import GgufFile
from dipc.frontend.gguf.weights import ROPE_FACTORS, widened

_LONG_FACTORS = ("rope_factors_long.weight", "rope_factors_short.weight")


def stretch_positions(file: GgufFile, config: Any) -> None:
    """Put the scaling that the metadata name into a config, in place.

    Raises:
        UnsupportedModel: a kind of scaling that has no such form here.
    """
    said = f"{file.architecture}.rope.scaling"
    kind, factor = file.metadata.get(f"{said}.type", "none"), file.metadata.get(f"{said}.factor")
    known = getattr(config, "rope_parameters", None) or {}
    if known.get("rope_type", "default") != "default" or (kind == "none" and not _factors(file)):
        return
    if kind not in ("linear", "yarn") or not isinstance(factor, float) or "rope_theta" not in known or _factors(file):
        raise UnsupportedModel(
            f"{file.path}: scales its rotary embedding ({'longrope' if _factors(file) else kind}) in a way that is not "
            "read from GGUF; give the Hugging Face checkpoint"
        )
    scaling = {"rope_type": kind, "factor": factor}
    if kind == "yarn":
        original = file.metadata.get(f"{said}.original_context_length", config.max_position_embeddings)
        scaling["original_max_position_embeddings"] = int(original)
    config.rope_parameters = dict(known) | scaling


def _factors(file: GgufFile) -> bool:
    return any(name in file.tensors for name in _LONG_FACTORS)


def divide_frequencies(file: GgufFile, model: nn.Module) -> None:
    """Divide a model's rotary frequencies, in place, by the factors that the file brings, if it brings any.

    Raises:
        UnsupportedModel: the model has no frequencies of that number.
    """
    if (factors := file.tensors.get(ROPE_FACTORS)) is None:
        return
    divisor = torch.from_numpy(np.require(widened(factors), requirements=["C", "W"]))
    turned = 0
    for module in model.modules():
        for name in ("inv_freq", "original_inv_freq"):
            if isinstance(found := getattr(module, name, None), Tensor) and found.shape == divisor.shape:
                setattr(module, name, found / divisor)
                turned += 1
    if not turned:
        raise UnsupportedModel(f"{file.path}: holds {ROPE_FACTORS}, which fit none of the model's rotary embeddings")
