"""Dense linears with quantised weights become ONNX Runtime's `MatMulNBits`, which never makes the weights floats.

It takes a weight [N, K] whose groups run along the inputs: codes [N, K / group, bytes of a group], the very bytes of
ours; scales [N, K / group]; zero points packed as the codes are. A linear of another form keeps its `Dequantize`. It
has no minima: what they and the middle code come to, one float32 number per group, is multiplied by the sums of the
groups' inputs beside it. A table whose rows are looked up by the same codes is looked up in this form.
Source: ONNX Runtime's ContribOperators.md, com.microsoft.MatMulNBits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn.functional import pad
from torch.onnx import ops as onnx_ops

from dipc.ir.operator import argument, set_argument
from dipc.ir.program import Program
from dipc.ir.stored_weight import codes_of
from dipc.ir.weight_parts import copy_of, part_of, weight_of
from dipc.ops import dequantize, dequantize_rows

LINEAR = torch.ops.aten.linear.default
DEQUANTIZE, ROWS = dequantize.OPERATOR.target, dequantize_rows.OPERATOR.target
# The product is computed from 8-bit activations.
INT8_ACCURACY = 4


# Codes of these widths are stored in a file as codes of 8 bits: ONNX has types of 4 and 8, and 2 without operators.
_WIDENED = (5, 6)


def widen_codes(program: Program) -> Program:
    """The program with codes of 5 and 6 bits in 8; lookups alone read them as they are."""
    after = program.replace(graph=program.edit())
    weights = dict(after.weights)
    for node in after.nodes_of(DEQUANTIZE):
        if argument(node, "bits") in _WIDENED:
            codes = argument(node, "codes")
            weights[str(codes.target)] = codes_of(node, weights).widened(8).codes
            same = after.graph.find_nodes(op="get_attr", target=str(codes.target))
            for user in [user for reader in same for user in reader.users]:
                set_argument(user, "bits", 8)
    return after.replace(weights=weights)


def lookups_as_bytes(program: Program) -> Program:
    """The program with lookups in tables of codes as operations on their bytes, which get no 4-bit type in the file.

    Bytes that a `dequantize` needs with that type are there twice.
    """
    after = program.replace(graph=program.edit())
    weights = dict(after.weights)
    for node in after.nodes_of(ROWS):
        codes = argument(node, "codes")
        name = str(codes.target)
        others = [u for same in after.graph.find_nodes(op="get_attr", target=name) for u in same.users]
        if argument(node, "bits") == 4 and any(user.target is DEQUANTIZE for user in others):
            weights[copy_of(name)] = weights[name].clone()  # the exporter makes one of what shares memory
            with after.graph.inserting_before(node):
                set_argument(node, "codes", after.graph.get_attr(copy_of(name)))
        node.target = dequantize_rows.to_onnx
    return after.replace(graph=after.graph, weights=weights)


@dataclass(frozen=True)
class _Codes:
    """The arguments of a `dequantize`."""

    codes: fx.Node
    scales: fx.Node
    zeros: fx.Node | None
    minima: fx.Node | None
    bits: int
    group: int
    axis: int

    @classmethod
    def of(cls, node: fx.Node) -> _Codes:
        return cls(*(argument(node, name) for name in ("codes", "scales", "zeros", "minima", "bits", "group", "axis")))

    def fits(self, program: Program) -> bool:
        """Return whether `MatMulNBits` has this form: groups along the inputs, powers of two that fill the rows."""
        width = program.weights[str(self.codes.target)].shape[1] * 8 // self.bits
        power = self.group >= 16 and self.group & (self.group - 1) == 0
        return self.bits in (4, 8) and self.axis == 1 and power and width % self.group == 0


def use_matmul_nbits(program: Program) -> Program:
    """The program with a `MatMulNBits` for each linear whose weight has its form. Weights are shared, not copied."""
    after = program.replace(graph=program.edit())
    work = _Rewriting(after.graph, dict(after.weights))
    for node in after.nodes_of(DEQUANTIZE):
        found = _Codes.of(node)
        if not found.fits(program) or any(u.target is not LINEAR or u.args[0] is node for u in node.users):
            continue
        # Another reader of the same codes would want them as they are, but for a lookup, which can take blocks.
        same = after.graph.find_nodes(op="get_attr", target=str(found.codes.target))
        lookups = [user for reader in same for user in reader.users if user is not node]
        if all(user.target is ROWS for user in lookups):
            work.replace(node, found, lookups)
    return after.replace(graph=after.graph, weights=work.weights)


@dataclass
class _Rewriting:
    """The graph and the weights that are being rewritten."""

    graph: fx.Graph
    weights: dict[str, Tensor]
    sums: dict[tuple[fx.Node, int], fx.Node] = field(default_factory=dict)
    """The sums of the groups of an input."""

    def replace(self, node: fx.Node, found: _Codes, lookups: list[fx.Node]) -> None:
        codes, scales = str(found.codes.target), str(found.scales.target)
        rows, groups = self.weights[scales].shape
        self.weights[codes] = self.weights[codes].reshape(rows, groups, -1)
        zeros, offsets = self._zeros(found, bool(lookups)), self._offsets(found)
        for user in lookups:
            with self.graph.inserting_before(user):
                new = self.graph.call_function(dequantize_rows.to_onnx, user.args, dict(user.kwargs))
            user.replace_all_uses_with(new)
            self.graph.erase_node(user)
        for user in list(node.users):
            x, bias = user.args[0], argument(user, "bias")
            assert isinstance(x, fx.Node)
            with self.graph.inserting_before(user):
                wide = self.graph.call_function(torch.ops.aten.to.dtype, (found.scales, torch.float32))
                new = self.graph.call_function(
                    matmul_nbits, (x, found.codes, wide, zeros, bias, found.bits, found.group)
                )
                if offsets:
                    table = self.graph.get_attr(offsets)
                    new = self.graph.call_function(add_product, (new, self._sums_of(x, found.group), table))
            user.replace_all_uses_with(new)
            self.graph.erase_node(user)
        self.graph.erase_node(node)

    def _zeros(self, found: _Codes, are_shared: bool) -> fx.Node | None:
        """The zero points in the form of `MatMulNBits`; where lookups take them too, beside them."""
        if found.zeros is None:
            return None
        name = str(found.zeros.target)
        packed = packed_zeros(self.weights[name], found.bits)
        if not are_shared:
            self.weights[name] = packed
            return found.zeros
        self.weights[copy_of(name)] = packed
        with self.graph.inserting_after(found.zeros):
            return self.graph.get_attr(copy_of(name))

    def _offsets(self, found: _Codes) -> str:
        """The name of what groups are off by where codes count from the middle one, [G, N]; "" without minima."""
        if found.minima is None:
            return ""
        scales, minima = (self.weights[str(table.target)].float() for table in (found.scales, found.minima))
        name = part_of(weight_of(str(found.codes.target)), "offsets")
        self.weights[name] = (minima + scales * 2 ** (found.bits - 1)).T.contiguous()
        return name

    def _sums_of(self, x: fx.Node, group: int) -> fx.Node:
        if (x, group) not in self.sums:
            self.sums[x, group] = self.graph.call_function(group_sums, (x, group))
        return self.sums[x, group]


def group_sums(x: Tensor, group: int) -> Tensor:
    """[..., K] -> [..., K / group]."""
    sums: Tensor = x.unflatten(-1, (-1, group)).sum(-1)
    return sums


def add_product(y: Tensor, sums: Tensor, offsets: Tensor) -> Tensor:
    """[..., N] + [..., G] [G, N] -> [..., N]."""
    return y + sums @ offsets


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
