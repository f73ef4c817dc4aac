"""A bare config.json as a model: its structure on the meta device, and the width that it says weights are stored in."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from dipc.errors import BadFile, UnsupportedModel
from dipc.frontend.configs import read_configuration
from dipc.frontend.decoder import config_dtype, on_meta, require_decoder
from dipc.frontend.model_json import read_config
from dipc.frontend.quantization import linear_bits, method_of, priced_tensors, quantization_of, without_quantization
from dipc.frontend.stored_width import StoredWidth, stored_width
from dipc.frontend.tracer import Source, first_line

NOTICE = logging.WARNING + 1
"""The level of what a user is to hear where the warnings of libraries are silenced."""
log = logging.getLogger("dipc.frontend")


def from_config(path: Path) -> Source:
    """Open a config.json.

    Raises:
        BadFile: it is none.
        UnsupportedModel: it is of no decoder-only language model, of one whose code comes with the checkpoint, or does
            not say how wide quantised weights are.
    """
    read_config(path)
    try:
        # False, not left out: transformers would ask at a terminal whether to run code that the config names.
        config = read_configuration(path, trust_remote_code=False)
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise UnsupportedModel(
                f"{path}: its model's code comes with the checkpoint, and from a config alone it is never run"
            ) from error
        raise BadFile(f"{path}: not a model's config.json: {first_line(error)}") from error
    if getattr(config, "auto_map", None):
        raise UnsupportedModel(f"{path}: its model's code comes with the checkpoint, and from a config it is never run")
    require_decoder(config, str(path))
    bits = 8.0 * (config_dtype(config) or torch.float16).itemsize  # read before from_config overwrites it
    quantization = quantization_of(config)
    without_quantization(config)
    try:
        twin = on_meta(config)
    except Exception as error:
        raise UnsupportedModel(f"{path}: no model can be made of it: {first_line(error)}") from error
    name = path.stem if path.name != "config.json" else path.resolve().parent.name
    width = StoredWidth(bits)
    if quantization is not None:
        width = stored_width(priced_tensors(str(path), quantization, twin, bits))
        method = method_of(quantization)
        each = linear_bits(method, quantization)
        log.log(
            NOTICE, "%s: priced by its quantization_config: %s, linear layers %.4g bits a weight", path, method, each
        )
    return Source(twin, config, name, width.bits, own_bits=width.own)
