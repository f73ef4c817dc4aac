"""Dense linears with quantised weights become ONNX Runtime's `MatMulNBits`, which never makes the weights floats.

It takes a weight [N, K] whose groups run along the inputs: codes [N, K / group, bytes of a group], the very bytes of
ours; scales [N, K / group]; zero points packed as the codes are. A linear of another form keeps its `Dequantize`.
Source: ONNX Runtime's ContribOperators.md, com.microsoft.MatMulNBits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn.functional import pad
from torch.onnx import ops as onnx_ops

from dipc.ir import operators
from dipc.ir.operator import argument
from dipc.ir.program import Program

LINEAR = torch.ops.aten.linear.default
# The product is computed from 8-bit activations.
INT8_ACCURACY = 4


@dataclass(frozen=True)
class _Codes:
    """The arguments of a `dequantize`."""

    codes: fx.Node
    scales: fx.Node
    zeros: fx.Node | None
    bits: int
    group: int
    axis: int

    @classmethod
    def of(cls, node: fx.Node) -> _Codes:
        return cls(*(argument(node, name) for name in ("codes", "scales", "zeros", "bits", "group", "axis")))

    def fits(self, program: Program) -> bool:
        """Return whether `MatMulNBits` has this form: groups along the inputs, powers of two that fill the rows."""
        width = program.weights[str(self.codes.target)].shape[1] * 8 // self.bits
        power = self.group >= 16 and self.group & (self.group - 1) == 0
        return self.bits in (4, 8) and self.axis == 1 and power and width % self.group == 0


def use_matmul_nbits(program: Program) -> Program:
    """The program with a `MatMulNBits` for each linear whose weight has its form. Weights are shared, not copied."""
    after = program.replace(graph=program.edit())
    graph, weights = after.graph, dict(after.weights)
    for node in after.nodes_of(operators.target("dequantize")):  # type: ignore[arg-type]
        found = _Codes.of(node)
        users = list(node.users)
        if not found.fits(program) or any(u.target is not LINEAR or u.args[0] is node for u in users):
            continue
        # Another reader of the same codes would want them as they are.
        if len(found.codes.users) > 1 or (found.zeros is not None and len(found.zeros.users) > 1):
            continue
        codes, scales = str(found.codes.target), str(found.scales.target)
        rows = weights[codes].shape[0]
        groups = weights[scales].shape[1]
        weights[codes] = weights[codes].reshape(rows, groups, -1)
        if found.zeros is not None:
            weights[str(found.zeros.target)] = packed_zeros(weights[str(found.zeros.target)], found.bits)
        for user in users:
            bias = argument(user, "bias")
            with graph.inserting_before(user):
                wide = graph.call_function(torch.ops.aten.to.dtype, (found.scales, torch.float32))
                given = (user.args[0], found.codes, wide, found.zeros, bias, found.bits, found.group)
                new = graph.call_function(matmul_nbits, given)
            user.replace_all_uses_with(new)
            graph.erase_node(user)
        graph.erase_node(node)
    return after.replace(graph=graph, weights=weights)


def packed_zeros(zeros: Tensor, bits: int) -> Tensor:
    """Zero points uint8 [N, G] as `MatMulNBits` takes them: of 4 bits two to a byte, the first in the low half."""
    if bits == 8:
        return zeros
    even = pad(zeros, (0, zeros.shape[1] % 2))
    return even[:, 0::2] | (even[:, 1::2] << 4)


def matmul_nbits(
    x: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor | None, bias: Tensor | None, bits: int, group: int
) -> Any:
    """The node, in a graph that is traced for export. x [..., K] -> [..., N]."""
    rows, groups, _ = codes.shape
    sizes: dict[str, Any] = {"K": groups * group, "N": rows, "bits": bits, "block_size": group}
    return onnx_ops.symbolic(
        "com.microsoft::MatMulNBits",
        (x, codes, scales, zeros, None, bias),
        {**sizes, "accuracy_level": INT8_ACCURACY},
        dtype=torch.float32,
        shape=(*x.shape[:-1], rows),
        version=1,
    )
