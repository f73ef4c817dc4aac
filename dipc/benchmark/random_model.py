"""A model of a real shape with random weights, made in seconds and without a download."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from dipc.errors import BadFile, UnsupportedModel
from dipc.tracer import first_line, quiet


def random_model(config: Path, seed: int) -> nn.Module:
    """The model of a config.json in float32.

    Matrices are normal with a deviation of 1 / sqrt(inputs), so that activations keep the size and the spread that
    selection needs; norms are 1 and biases 0. The head is stored apart from the embedding table even where the config
    ties them: a token reads as many bytes, and the head can be quantised as any other matrix.

    Args:
        config: a config.json of a causal language model that transformers knows.
        seed: of the weights.

    Raises:
        BadFile: no such file, or it is no model's config.
        UnsupportedModel: no model can be made of it.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    try:
        found = AutoConfig.from_pretrained(config, trust_remote_code=False)
    except Exception as error:
        raise BadFile(f"{config}: not a model's config.json: {first_line(error)}") from error
    found.tie_word_embeddings = False
    try:
        with quiet(), no_init_weights():
            model: nn.Module = AutoModelForCausalLM.from_config(found, dtype=torch.float32, trust_remote_code=False)
    except Exception as error:
        raise UnsupportedModel(f"{config}: no model can be made of it: {first_line(error)}") from error
    fill(model, seed)
    return model.eval()


def fill(model: nn.Module, seed: int) -> None:
    """Give every parameter its random value, in place."""
    generator = torch.Generator().manual_seed(seed)
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() < 2:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            else:
                deviation = 1.0 if id(parameter) in tables else parameter.shape[-1] ** -0.5
                parameter.normal_(0, deviation, generator=generator)
