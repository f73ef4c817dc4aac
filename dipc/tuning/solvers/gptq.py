"""GPTQ: codes column after column, each column's rounding error made good by those that are still free.

Source: Frantar, Ashkboos, Hoefler, Alistarh: "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", 2022, algorithm 1. Shapes: weight [O, I], Hessian [I, I].
"""

from __future__ import annotations

import torch
from torch import Tensor

from dipc.ir.codes import CodeFormat, QuantizedTensor, grid, in_groups, nearest, pack
from dipc.tuning.solvers.hessian import DAMPING, inverse_factor

BLOCK = 128
"""Columns whose updates of the columns after them are made in one product."""


def gptq(
    weight: Tensor,
    hessian: Tensor,
    form: CodeFormat,
    *,
    act_order: bool = False,
    damping: float = DAMPING,
    block: int = BLOCK,
) -> QuantizedTensor:
    """Quantise a weight so that its outputs change little; a grid is that of `round_to_nearest`.

    Args:
        weight: [O, I], finite.
        hessian: [I, I], see `hessian_of`; it is computed in its dtype.
        form: of the codes. With groups along the outputs a column has scales of its own, found when its turn comes;
            along the inputs they are found when the group's first column has its turn.
        act_order: begin with the columns whose inputs are largest. The groups along the inputs stay what they were, so
            their scales are those of the weight as it was given.
        damping: see `inverse_factor`.
        block: columns of a block; made a multiple of the group where groups run along the inputs.

    Raises:
        ValueError: as `inverse_factor` and `pack`.
    """
    free = weight.detach().to(hessian.dtype, copy=True)
    columns = free.shape[1]
    order = hessian.diagonal().argsort(descending=True) if act_order else torch.arange(columns, device=free.device)
    factor = inverse_factor(hessian[order][:, order], damping)
    free = free[:, order]
    codes = torch.zeros(free.shape, dtype=torch.uint8, device=free.device)
    grids = _Grids(weight.detach().float(), form, fixed=act_order)
    block = max(1, block // form.group) * form.group if form.axis == 1 else block
    for first in range(0, columns, block):
        last = min(first + block, columns)
        errors = torch.zeros_like(free[:, first:last])
        for j in range(first, last):
            place = int(order[j])
            # The group begins in this block, whose columns are all up to date.
            scales, zeros = grids.of(place, free[:, j : j + form.group])
            codes[:, place] = nearest(free[:, j], scales, zeros, form.bits)
            rounded = (codes[:, place] - zeros) * scales
            error = (free[:, j] - rounded) / factor[j, j]
            free[:, j:last] -= torch.outer(error, factor[j, j:last])
            errors[:, j - first] = error
        free[:, last:] -= errors @ factor[first:last, last:]
    return grids.quantized(codes)


class _Grids:
    """Scales and zero points of a weight [O, I], found group by group, or all at once where they are fixed."""

    def __init__(self, weight: Tensor, form: CodeFormat, fixed: bool) -> None:
        self.form, self.fixed = form, fixed and form.axis == 1
        turned = weight if form.axis == 1 else weight.T
        # [O, N] along the inputs; [I, N] along the outputs.
        self.scales, self.zeros = self._grid(turned)

    def _grid(self, values: Tensor) -> tuple[Tensor, Tensor]:
        return grid(in_groups(values, self.form.group), self.form.bits, self.form.symmetric)

    def of(self, column: int, ahead: Tensor) -> tuple[Tensor, Tensor]:
        """Scales and zero points [O] of a column, of which `ahead` [O, group] are the values, and the group's."""
        group = self.form.group
        if self.form.axis == 0:
            values = ahead[:, 0].float()
            self.scales[column], self.zeros[column] = self._grid(values)
            spread = (t[column].repeat_interleave(group)[: len(values)] for t in (self.scales, self.zeros))
        else:
            at = column // group
            if column % group == 0 and not self.fixed:
                self.scales[:, at], self.zeros[:, at] = (t[:, 0] for t in self._grid(ahead.float()))
            spread = (t[:, at] for t in (self.scales, self.zeros))
        scales, zeros = spread
        return scales.to(ahead.dtype), zeros.to(ahead.dtype)

    def quantized(self, codes: Tensor) -> QuantizedTensor:
        """Codes [O, I] with the grids that they are of."""
        bits, group, axis = self.form.bits, self.form.group, self.form.axis
        scales, zeros = (t if axis == 1 else t.T for t in (self.scales, self.zeros.to(torch.uint8)))
        kept_zeros = None if self.form.symmetric else zeros.contiguous()
        return QuantizedTensor(pack(codes, bits), scales.contiguous(), kept_zeros, bits, group, axis)
