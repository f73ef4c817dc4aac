"""The forms that a program's weights are stored in, beside what its checkpoint took for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from dipc.ir.operator import argument, has_argument
from dipc.ir.program import is_buffer
from dipc.ir.weight_parts import TABLES, parameters_per_entry, part_of, weight_of
from dipc.quantities import number
from dipc.report.table import table

if TYPE_CHECKING:
    from torch import fx

    from dipc.ir.program import Program

_LITTLE = 16
"""Bits below which a weight of the checkpoint that is computed as floats was widened."""


@dataclass(frozen=True)
class StoredRow:
    """One weight: its `form`, and bits per parameter as the checkpoint has it and as it is here, scales included."""

    name: str
    form: str
    parameters: int
    checkpoint_bits: float
    bits: float


def stored_rows(program: Program) -> list[StoredRow]:
    """Every weight of the program; of one that is stored in parts, its main part stands for all."""
    held, forms = parameters_per_entry(program.graph), _forms(program)
    sizes = {name: w.numel() * w.element_size() for name, w in program.weights.items()}
    rows = []
    for name, weight in program.weights.items():
        parameters = int(weight.numel() * held.get(name, 1))
        if is_buffer(name) or not parameters:
            continue
        stem = name.rpartition(".")[0] if name in forms else ""
        parts = sum(sizes.get(part_of(stem, table), 0) for table in (*TABLES, "values")) if stem else 0
        bits = 8 * (sizes[name] + parts) / parameters
        checkpoint = program.info.bits_of(weight_of(name))
        form = forms.get(name) or _float_form(str(weight.dtype).removeprefix("torch."), checkpoint)
        rows.append(StoredRow(weight_of(name).removesuffix(".weight"), form, parameters, checkpoint, bits))
    return rows


def stored_table(program: Program) -> RenderableType | None:
    """The same for people, weights of one form in a row; None where all are floats as they came."""
    rows = stored_rows(program)
    if all(row.form in ("float32", "float16", "bfloat16") for row in rows):
        return None
    groups: dict[tuple[str, float, float], list[StoredRow]] = {}
    for row in rows:
        groups.setdefault((row.form, round(row.checkpoint_bits, 3), round(row.bits, 3)), []).append(row)
    cells = [
        [form, _names(found), number(sum(row.parameters for row in found)), f"{before:.4g}", f"{bits:.4g}"]
        for (form, before, bits), found in groups.items()
    ]
    return table("weights", ["form", "of", ">parameters", ">bits in the checkpoint", ">here"], cells)


def _names(rows: list[StoredRow]) -> str:
    return rows[0].name if len(rows) == 1 else f"{len(rows)} weights"


def _float_form(dtype: str, checkpoint_bits: float) -> str:
    return f"{dtype}, widened" if checkpoint_bits < _LITTLE else dtype


def _forms(program: Program) -> Mapping[str, str]:
    """Name of codes, or of kept bits -> what they are."""
    found: dict[str, str] = {}
    for node in [n for n in program.graph.nodes if n.op == "call_function"]:
        if has_argument(node, "kept"):
            found[str(argument(node, "kept").target)] = "kept values and a bit for each"
        elif has_argument(node, "scales") and argument(node, "bits"):
            main = "codes" if has_argument(node, "codes") else "units"
            found[str(argument(node, main).target)] = _code_form(node, program)
    return found


def _code_form(node: fx.Node, program: Program) -> str:
    tables: list[Any] = [argument(node, name) for name in TABLES]
    scales, zeros, minima = tables
    dtype = str(program.weights[str(scales.target)].dtype).removeprefix("torch.")
    extra = "minima" if minima is not None else "zero points" if zeros is not None else ""
    given = f"{dtype} scales" + (f" and {extra}" if extra else "")
    return f"{argument(node, 'bits')}-bit codes in groups of {argument(node, 'group')}, {given}"
