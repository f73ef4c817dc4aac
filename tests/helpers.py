"""Small models with random weights, and short ways to run programs, for every test that needs one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from dipc.api import Program, capture
from dipc.backends.eager import EagerSession
from dipc.ir.program import Mlp, ModelInfo, Port, TensorType
from dipc.ir.verify import verify_structure
from dipc.memory.trace import Trace
from dipc.passes.outline_glu import OutlineGlu

# The models are tiny: a second thread costs more than it brings.
torch.set_num_threads(1)

SHARED = Path(__file__).parents[2] / "shared"
"""Trained models and texts beside the checkout; tests that want them are skipped without."""

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


def run_pieces(program: Program, ids_T: Tensor, piece: int) -> tuple[Tensor, dict[str, Tensor], EagerSession]:
    """Logits [T, V], masks [T, U] of every site, and the session, from calls of `piece` tokens."""
    session = EagerSession(program, record=True)
    steps = [session.step(chunk) for chunk in ids_T.split(piece)]
    masks = {site: torch.cat([s.masks[site] for s in steps]) for site in steps[0].masks}
    return torch.cat([s.logits for s in steps]), masks, session


def uniform_trace(units: Mapping[str, int], active: Mapping[str, int], tokens: int, seed: int) -> Trace:
    """Each token touches `active` units of a site, any such set being as likely as another."""
    generator = np.random.default_rng(seed)
    ranks = {site: generator.random((tokens, size)).argsort(axis=1).argsort(axis=1) for site, size in units.items()}
    return Trace.from_masks({site: rank < active[site] for site, rank in ranks.items()}, {})


def relative(a: Tensor, b: Tensor) -> float:
    """Largest difference over the largest magnitude of `b`."""
    return float((a - b).abs().max() / b.abs().max())


def agreement(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The fraction of mask bits that are the same."""
    same = sum(int((a[site] == b[site]).sum()) for site in b)
    return same / sum(mask.numel() for mask in b.values())


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
