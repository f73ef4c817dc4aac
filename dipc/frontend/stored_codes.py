"""Codes that came with a checkpoint, put into a captured program in place of the matrices they stand for.

    program, wide = with_codes(program, {"model.layers.0.mlp.up_proj.weight": QuantizedTensor(...), ...})

takes any `dipc.ir.codes.QuantizedTensor` (with zero points, with minima, or with neither) by the name of the parameter
that it is of, and makes of it what the passes int4 and gptq make of a matrix that they round: a `dequantize` before its
first reader, of `NAME.codes`, `NAME.scales` and, where it has them, `NAME.zeros` or `NAME.minima`. Nothing is rounded:
the program computes what its codes say, in the dtype that the parameter had. A table that embeds tokens gives its rows
from codes too (`dequantize_rows`), also where it is the head's matrix, so that nothing is kept twice; of groups across
the rows it stays as it is for lookups. `wide` are the matrices that keep the parameter's values, each with the reason.

The parameters themselves are dropped, and may be anything of the right shape and dtype until then. The digest is of the
program with its codes. `program.dense`, where there is one, gets the same codes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch import Tensor, fx

from dipc.frontend.digest import model_digest
from dipc.ir.codes import QuantizedTensor
from dipc.ir.pattern import Mismatch
from dipc.ir.program import Program
from dipc.ir.stored_weight import StoredWeight, other_reader, readers_of, store
from dipc.ir.verify import verify_structure


def with_codes(program: Program, codes: Mapping[str, QuantizedTensor]) -> tuple[Program, tuple[Mismatch, ...]]:
    """The program with matrices as codes, and the matrices that it could not take so, with the reason.

    Args:
        program: as captured, with weights or from a config alone.
        codes: by the name of the parameter that they stand for, of its shape [R, C].
    """
    programs = [program] if program.dense is None else [program, program.dense]
    readers = readers_of(programs)
    made: dict[str, StoredWeight] = {}
    wide: list[Mismatch] = []
    for name, tensor in codes.items():
        weight = next((p.weights[name] for p in programs if name in p.weights), None)
        reason = _obstacle(name, weight, tensor, readers.get(name, []))
        if reason is not None or weight is None:
            wide.append(Mismatch(reason or "", name.removesuffix(".weight")))
        else:
            made[name] = StoredWeight.of_codes(tensor, weight.dtype, lookups=True)
    if not made:
        return program, tuple(wide)
    after, *dense = (_with_digest(p) for p in store(programs, made))
    return after.replace(dense=dense[0]) if dense else after, tuple(wide)


def _obstacle(name: str, weight: Tensor | None, tensor: QuantizedTensor, readers: list[fx.Node]) -> str | None:
    if weight is None:
        return "the program has no weight of that name"
    if tuple(weight.shape) != tensor.shape:
        return f"its codes are of a matrix {list(tensor.shape)}, and the weight is {list(weight.shape)}"
    return other_reader(name, readers)


def _with_digest(program: Program) -> Program:
    verify_structure(program)
    return program.replace(info=dataclasses.replace(program.info, digest=model_digest(program)))
