"""`select_threshold`: keep the units whose score reaches a threshold, however many a token has of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from dipc.ir.onnx_form import OnnxForm, onnx_node
from dipc.ir.operator import Operator, Read
from dipc.ir.signature import schema_of


def reference(score: Tensor, threshold: float, density: float, site: str = "", dense: Tensor | None = None) -> Tensor:
    """score [..., U] -> mask bool[..., U] of the scores >= threshold (all, where `dense`), compared in float32.

    NaN is kept. `density` is the share of units expected to be kept, for estimates; it changes nothing, nor does
    `site`, the place of selection in traces and reports. Section 3.1; CATS (Lee et al., 2024).
    """
    mask = ~(score.float() < threshold)
    return mask if dense is None else mask | dense.unsqueeze(-1)


def fake(score: Tensor, threshold: float, density: float, site: str = "", dense: Tensor | None = None) -> Tensor:
    """A mask of the score's shape."""
    if not 0 <= density <= 1:
        raise ValueError(f"select_threshold: density {density:g} at {site or 'the site'} is no share of its units")
    return torch.empty_like(score, dtype=torch.bool)


def traffic(node: fx.Node) -> tuple[Read, ...]:
    """Reads no weight."""
    return ()


def examples(generator: torch.Generator, tokens: int, units: int) -> list[tuple[Any, ...]]:
    """Scores many of which are the threshold itself, NaN and infinity among them."""
    score = torch.randint(0, 5, (1, tokens, units), generator=generator).float()
    dense = torch.rand(1, tokens, generator=generator) < 0.5
    odd = torch.tensor([0, 1, torch.nan, torch.inf, -torch.inf])[score.long()]
    return [(score, 2.0, 0.6), (score, 3.5, 0.2, "here", dense), (odd, 1.0, 0.5), (odd, 0.0, 1.0)]


# What is not below, NaN included, as the reference has it.
BODY = """
SelectThreshold <threshold, density, site> (score) => (mask)
{
    least = Constant <value_float: float = @threshold> ()
    below = Less (score, least)
    mask = Not (below)
}
"""


def to_onnx(score: Tensor, threshold: float, density: float, site: str = "", dense: Tensor | None = None) -> Any:
    """`SelectThreshold`, and the dense tokens' full masks after it."""
    attributes: dict[str, int | float | str] = {"threshold": threshold, "density": density, "site": site}
    mask = onnx_node("SelectThreshold", (score,), attributes, (torch.bool, score.shape))
    return mask if dense is None else mask | dense.unsqueeze(-1)


OPERATOR = Operator(
    "select_threshold",
    schema_of(reference),
    reference,
    fake,
    traffic,
    examples,
    onnx=OnnxForm(to_onnx, {"SelectThreshold": BODY}),
)
