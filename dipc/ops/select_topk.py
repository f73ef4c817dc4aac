"""`select_topk`: keep the k units with the largest scores, token by token; of equal scores the lower index wins."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from dipc import native
from dipc.ir.onnx_form import OnnxForm, onnx_node
from dipc.ir.operator import Operator, Read
from dipc.ir.signature import schema_of


def reference(score: Tensor, k: int, site: str = "", dense: Tensor | None = None) -> Tensor:
    """topK of Eq. 7 and 8. score [..., U] -> mask bool[..., U] with k units per token (all, where `dense`).

    A stable descending sort, because `torch.topk` does not promise which of equal scores it takes. NaN counts as
    +infinity. `site` names the place of selection in traces and reports; it changes nothing.
    """
    rank = torch.where(score.isnan(), torch.inf, score)
    kept = torch.sort(rank, dim=-1, descending=True, stable=True).indices.narrow(-1, 0, k)
    mask = torch.zeros_like(score, dtype=torch.bool).scatter_(-1, kept, True)
    return mask if dense is None else mask | dense.unsqueeze(-1)


def kernel(score: Tensor, k: int, site: str = "", dense: Tensor | None = None) -> Tensor:
    """The native selection where the library is there and covers the case, else the reference; the same bits."""
    if not native.covers_scores(str(score.dtype), str(score.device.type)):
        return reference(score, k, site, dense)
    native.set_threads(torch.get_num_threads())
    rows = score.detach().reshape(-1, score.shape[-1])
    skip = None if dense is None else dense.reshape(-1).numpy()
    return torch.from_numpy(native.select_topk(rows.numpy(), k, skip)).reshape(score.shape)


def fake(score: Tensor, k: int, site: str = "", dense: Tensor | None = None) -> Tensor:
    """A mask of the score's shape."""
    if not 0 <= k <= score.shape[-1]:
        raise ValueError(f"select_topk: k is {k}, but {site or 'the site'} has {score.shape[-1]} units")
    return torch.empty_like(score, dtype=torch.bool)


def traffic(node: fx.Node) -> tuple[Read, ...]:
    """Reads no weight."""
    return ()


def examples(generator: torch.Generator, tokens: int, units: int) -> list[tuple[Any, ...]]:
    """Scores with many ties, NaN and infinity among them, and k from none to all."""
    score = torch.randint(0, 5, (1, tokens, units), generator=generator).float()
    dense = torch.rand(1, tokens, generator=generator) < 0.5
    odd = torch.tensor([0, 1, torch.nan, torch.inf, -torch.inf])[score.long()]
    return [(score, 0), (score, units // 2, "here"), (score, units), (score, units // 3, "", dense), (odd, units // 2)]


# TopK promises an order of equal values only where its result is sorted.
BODY = """
SelectTopk <k, site> (score) => (mask)
{
    infinity = Constant <value_float = inf> ()
    broken = IsNaN (score)
    ranked = Where (broken, infinity, score)
    k = Constant <value_int: int = @k> ()
    first = Constant <value_ints = [0]> ()
    count = Unsqueeze (k, first)
    largest, kept = TopK <axis = -1, largest = 1, sorted = 1> (ranked, count)
    shape = Shape (score)
    none = ConstantOfShape <value = int8[1] {0}> (shape)
    kept_shape = Shape (kept)
    ones = ConstantOfShape <value = int8[1] {1}> (kept_shape)
    marked = ScatterElements <axis = -1> (none, kept, ones)
    mask = Cast <to = 9> (marked)
}
"""


def to_onnx(score: Tensor, k: int, site: str = "", dense: Tensor | None = None) -> Any:
    """`SelectTopk`, and the dense tokens' full masks after it."""
    mask = onnx_node("SelectTopk", (score,), {"k": k, "site": site}, (torch.bool, score.shape))
    return mask if dense is None else mask | dense.unsqueeze(-1)


OPERATOR = Operator(
    "select_topk",
    schema_of(reference),
    reference,
    fake,
    traffic,
    examples,
    kernel=kernel,
    onnx=OnnxForm(to_onnx, {"SelectTopk": BODY}),
)
