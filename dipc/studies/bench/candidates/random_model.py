"""A model of a real shape with random weights, made in seconds and without a download."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from dipc.errors import BadFile, UnsupportedModel
from dipc.frontend.tracer import first_line, quiet


def random_model(config: Path, seed: int) -> nn.Module:
    """Make the model of a config.json, in float32.

    Matrices, the embedding table too, are normal with a deviation of 1 / sqrt(inputs), so that activations keep the
    size and the spread that selection needs; norms are 1 and biases 0.

    Args:
        config: a config.json of a causal language model that transformers knows.
        seed: of the weights.

    Raises:
        BadFile: no such file, or it is no model's config.
        UnsupportedModel: no model can be made of it.
    """
    # transformers takes seconds to import, and whoever asks for a contest imports this file too.
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    try:
        found = AutoConfig.from_pretrained(config, trust_remote_code=False)
    except Exception as error:
        raise BadFile(f"{config}: not a model's config.json: {first_line(error)}") from error
    try:
        with quiet(), no_init_weights():
            made = AutoModelForCausalLM.from_config(found, dtype=torch.float32, trust_remote_code=False)
            made.tie_weights()  # is part of the initialisation that is left out
    except Exception as error:
        raise UnsupportedModel(f"{config}: no model can be made of it: {first_line(error)}") from error
    model: nn.Module = made.eval()
    fill(model, seed)
    return model


def fill(model: nn.Module, seed: int) -> None:
    """Give every parameter its random value, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() < 2:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            else:
                parameter.normal_(0, parameter.shape[-1] ** -0.5, generator=generator)
