"""One architecture of transformers, shrunk: `python -m kit.architectures FAMILY` says in one line what became of it.

In a process of its own, because some take for ever: `captured DEVIATION`, `refused REASON` or `skipped WHY`.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from dipc.api import capture
from dipc.errors import UnsupportedModel
from kit.reference import called, deviation_from
from kit.tiny_models import SIZES, random_ids

SMALL: dict[str, Any] = {
    **SIZES,
    **dict.fromkeys(("head_dim", "sliding_window", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("n_embd", "d_model", "lru_width", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("n_layer", "n_layers", "num_layers", "decoder_layers"), 2),
    **dict.fromkeys(("n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("n_inner", "ffn_dim", "decoder_ffn_dim"), 48),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "moe_intermediate_size"), 16),
    **dict.fromkeys(("mamba_d_state", "ssm_state_size", "state_size", "mamba_chunk_size", "chunk_size"), 8),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "hidden_size_per_layer_input"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "linear_num_key_heads", "linear_num_value_heads"), 4),
    "n_positions": 64,
    "num_experts_per_tok": 2,
    "mamba_d_head": 16,
    "num_kv_shared_layers": 0,
    "vocab_size_per_layer_input": 96,
}


def shrunk(family: str) -> nn.Module:
    """A model of a family with as many of these sizes as its configuration knows, one layer of each kind."""
    usual = CONFIG_MAPPING[family]().get_text_config()
    known = usual.to_dict()
    options = {name: value for name, value in SMALL.items() if name in known}
    kinds = list(dict.fromkeys(known.get("layer_types") or []))
    if kinds:
        options |= {"layer_types": kinds, "num_hidden_layers": len(kinds)}
    torch.manual_seed(0)
    model: nn.Module = AutoModelForCausalLM.from_config(type(usual)(**options)).eval()
    return model


def main(family: str) -> str:
    """What became of a family, in one line."""
    try:
        model, pieces = shrunk(family), random_ids(24).split(9)
        called(model, pieces)
    except Exception as error:
        return f"skipped {type(error).__name__}"
    try:
        return f"captured {deviation_from(model, capture(model), pieces)}"
    except UnsupportedModel as error:
        return f"refused {error}"


if __name__ == "__main__":
    print(main(sys.argv[1]))
