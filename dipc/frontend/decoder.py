"""A transformers config and what it says of a model: that it is a decoder, what it computes in, and its structure."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dipc.errors import UnsupportedModel
from dipc.frontend.tracer import quiet


def require_decoder(config: Any, name: str) -> None:
    """UnsupportedModel unless the config is of a decoder-only language model; `name` is what messages call it."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    named = getattr(config, "architectures", None)
    architectures = [a for a in named if isinstance(a, str)] if isinstance(named, (list, tuple)) else []
    decoder = any(a.endswith(("ForCausalLM", "LMHeadModel")) for a in architectures) or not architectures
    encoder = getattr(config, "is_encoder_decoder", False) or config.model_type in ("bert", "roberta", "electra")
    # A checkpoint may bring its own code; whether that is run is decided when it is loaded.
    own = getattr(config, "auto_map", None)
    known = config.model_type in CAUSAL or (isinstance(own, dict) and "AutoModelForCausalLM" in own)
    if not decoder or encoder or not known:
        kind = architectures[0] if architectures else config.model_type
        raise UnsupportedModel(
            f"{name}: {kind} is no decoder-only language model; dipc compiles causal language models"
        )


def config_dtype(config: Any) -> torch.dtype | None:
    """The dtype that a config names; None where it names none."""
    found = getattr(config, "dtype", None)
    found = getattr(torch, found, None) if isinstance(found, str) else found
    return found if isinstance(found, torch.dtype) else None


def on_meta(config: Any) -> nn.Module:
    """The model of a config without memory for its weights."""
    from transformers import AutoModelForCausalLM

    with quiet(), torch.device("meta"):
        twin: nn.Module = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    return twin
