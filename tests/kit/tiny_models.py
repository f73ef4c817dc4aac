"""Small models with random weights, for every test that needs one."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, fx, nn
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from dipc.api import Program, capture
from dipc.ir.program import Mlp, ModelInfo, Port, TensorType
from dipc.ir.verify import verify_structure
from dipc.passes.outline_glu import OutlineGlu

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def tiny_model(family: str = "llama", seed: int = 0, **options: Any) -> nn.Module:
    """A random causal language model of a transformers family; options change its config."""
    torch.manual_seed(seed)
    model: nn.Module = AutoModelForCausalLM.from_config(CONFIG_MAPPING[family](**{**SIZES, **options})).eval()
    with torch.no_grad():
        # Biases start at zero and norms at one, where leaving one out would not show.
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@cache
def tiny_llama(**options: Any) -> Program:
    """A two-layer Llama of d_model 32 and d_ff 48, captured once. Programs are values: nobody changes it."""
    return capture(tiny_model("llama", **options), name="tiny")


@cache
def outlined(**options: Any) -> Program:
    """The same with its MLPs as `glu` nodes."""
    return OutlineGlu().run(tiny_llama(**options)).program


def random_ids(count: int, vocab: int = SIZES["vocab_size"], seed: int = 0) -> Tensor:
    """i64[count], never a special token."""
    return torch.randint(3, vocab, (count,), generator=torch.Generator().manual_seed(seed))


def one_glu(
    gate_FD: Tensor,
    up_FD: Tensor,
    down_DF: Tensor,
    activation: str = "relu",
    biases: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Program:
    """A program that is one gated MLP: its "tokens" are x f32[1, T, D] and its "logits" the MLP's output.

    For cases worked by hand, where a model around the MLP would be in the way. `biases` are of gate, up and down.
    """
    graph = fx.Graph()
    x = graph.placeholder("x")
    weights = {"mlp.gate": gate_FD, "mlp.up": up_FD, "mlp.down": down_DF}
    weights |= {} if biases is None else dict(zip(("mlp.b_gate", "mlp.b_up", "mlp.b_down"), biases, strict=True))
    names = [graph.get_attr(name) for name in weights]
    rest = (None, None, None) if biases is None else ()
    node = graph.call_function(torch.ops.dipc.glu.default, (x, *names, *rest, activation))
    node.meta = {"module": "mlp"}
    graph.output((node,))
    d_ff, d_model = up_FD.shape
    program = Program(
        graph,
        weights,
        (Port("x", "tokens", TensorType("float32", (1, "seq", d_model))),),
        ("logits",),
        ModelInfo("by hand", "glu", 1, d_model, 1, 64, 32.0, "0", True),
        (Mlp("mlp", 0, "mlp.gate", "mlp.up", "mlp.down", d_model, d_ff, activation),),
    )
    verify_structure(program)
    return program
