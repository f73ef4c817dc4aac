"""GGUF files of models that are small enough to be written for every test, as llama.cpp's converter writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from kit.byte_text import byte_tokenizer

gguf = pytest.importorskip("gguf", reason="GGUF files are written with the package gguf")

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    """`model.layers.0.mlp.up_proj.weight` -> `blk.0.ffn_up.weight`."""
    path, _, suffix = name.rpartition(".")
    if path.startswith("model.layers."):
        _, _, number, path = path.split(".", 3)
        return f"blk.{number}.{_NAMES[path]}.{suffix}"
    return f"{_NAMES[path]}.{suffix}"


def gguf_tensors(model: nn.Module) -> dict[str, Any]:
    """The weights by llama.cpp's names; of a Llama's queries and keys, the halves of each head's rows interleaved."""
    config: Any = model.config
    tensors = {}
    for name, weight in model.named_parameters():
        values = weight.detach().float().numpy()
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        if config.model_type == "llama" and (kind := name.split(".")[-2]) in heads:
            halves = values.reshape(heads[kind], 2, -1, *values.shape[1:])
            values = halves.swapaxes(1, 2).reshape(values.shape)
        tensors[gguf_name(name)] = np.ascontiguousarray(values)
    return tensors


def write_gguf(
    path: Path,
    model: nn.Module,
    kind: str = "F32",
    *,
    architecture: str | None = None,
    tokenizer: bool = False,
    tensors: dict[str, Any] | None = None,
    more: dict[str, Any] | None = None,
    **options: Any,
) -> Path:
    """Write a model.

    Args:
        path: the file.
        model: whose sizes and, unless given, weights it has.
        kind: storage type of its matrices; vectors are F32.
        architecture: what it says that it is; by default the model's type.
        tokenizer: with a byte-level one of 258 tokens and a chat template.
        tensors: in place of the model's.
        more: further metadata, numbers and strings by their keys.
        options: of `gguf.GGUFWriter`.
    """
    config: Any = model.config
    writer = gguf.GGUFWriter(str(path), architecture or config.model_type, **options)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    for key, value in (more or {}).items():
        add = {str: writer.add_string, float: writer.add_float32, int: writer.add_uint32}[type(value)]
        add(key, value)
    if tokenizer:
        _add_tokenizer(writer)
    form = gguf.GGMLQuantizationType[kind]
    for name, values in (gguf_tensors(model) if tensors is None else tensors).items():
        if values.ndim > 1 and kind != "F32":
            writer.add_tensor(name, gguf.quants.quantize(values, form), raw_dtype=form)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: Any) -> None:
    vocab = byte_tokenizer().get_vocab()
    tokens = [*sorted(vocab, key=lambda token: vocab[token]), "th"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL, *[gguf.TokenType.NORMAL] * (len(tokens) - 1)])
    writer.add_token_merges(["t h"])
    writer.add_eos_token_id(0)
    writer.add_eot_token_id(1)
    writer.add_chat_template("{{ messages[0]['content'] }}")
