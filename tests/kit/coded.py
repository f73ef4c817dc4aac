"""Programs whose matrices came as codes, of several forms in turn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dipc.frontend.stored_codes import with_codes
from dipc.ir.codes import CodeFormat, QuantizedTensor, round_to_nearest
from dipc.ir.program import Program, is_buffer
from dipc.ops.dequantize import reference, with_minima

# Minima of 16 bits, zero points, 5 bits with minima of 32, 6 bits about the middle.
FORMS = (
    (CodeFormat(4, 16, 1), torch.float16),
    (CodeFormat(4, 8, 1, symmetric=False), None),
    (CodeFormat(5, 32, 1), torch.float32),
    (CodeFormat(6, 16, 1), None),
)
Form = tuple[CodeFormat, torch.dtype | None]


def values(q: QuantizedTensor) -> Tensor:
    """The matrix that codes stand for, float32."""
    return reference(q.codes, q.scales, q.zeros, q.bits, q.group, q.axis, torch.float32, q.minima)


def matrices(program: Program) -> dict[str, Tensor]:
    """The matrices of a captured program that may be codes, by name."""
    return {n: w for n, w in program.weights.items() if w.dim() == 2 and not is_buffer(n)}


def coded(program: Program, forms: Sequence[Form] = FORMS) -> tuple[Program, dict[str, QuantizedTensor]]:
    """The program with codes, and the codes: random ones with minima of the type that a form names, or else rounded."""
    generator = torch.Generator().manual_seed(0)
    made = {}
    for i, (name, weight) in enumerate(matrices(program).items()):
        form, tables = forms[i % len(forms)]
        rows, columns = weight.shape
        if tables is None:
            made[name] = round_to_nearest(weight, form.bits, form.group, form.axis, form.symmetric)
            continue
        q = with_minima(generator, (rows, columns), form, tables)
        assert q.minima is not None
        scale = float(weight.std())
        scales, minima = ((t.float() * scale).to(tables) for t in (q.scales, q.minima))
        made[name] = QuantizedTensor(q.codes, scales, None, q.bits, q.group, q.axis, minima)
    after, wide = with_codes(program, made)
    assert not wide
    return after, made


def widened(program: Program, codes: dict[str, QuantizedTensor]) -> Program:
    """The program with the values that the codes stand for as weights."""
    return program.replace(weights={**program.weights, **{n: values(q) for n, q in codes.items()}})
