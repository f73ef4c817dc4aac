"""One row's figures: a program measured on the text beside the dense one, and its bytes counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dipc.backends._session import Session
from dipc.evaluation.perplexity import evaluate, perplexity
from dipc.ir.program import Program, is_buffer
from dipc.ir.selections import reads_of
from dipc.ir.weight_parts import pruned_values, values_per_entry
from dipc.memory.lowering import lower
from dipc.memory.trace import Trace
from dipc.options import TextSpec
from dipc.studies.compare.result import Figures
from dipc.text import Text
from dipc.tuning.lora.adapter import adapted_name

Watch = Callable[[int, int], None]


def of_dense(program: Program, session: Session, text: Text, watch: Watch, **extent: Any) -> Figures:
    """The figures of the dense model; what its session remembers serves all that is measured beside it."""
    score = perplexity(session, text, progress=watch, windows=TextSpec(**extent))
    return Figures(score.perplexity, score.bits_per_byte, 0.0, 1.0, None, *bytes_read(program, program, None))


def measure(program: Program, captured: Program, dense: Session, text: Text, watch: Watch, **extent: Any) -> Figures:
    """The figures of a program on a text.

    Args:
        program: as compiled.
        captured: the model that it was compiled from.
        dense: what runs that.
        text: what to measure on.
        watch: called with windows done and in all.
        **extent: `seq_len` and `max_tokens`, as for `evaluate`.
    """
    score = evaluate(program, text, dense=dense, record=True, progress=watch, windows=TextSpec(**extent))
    own = (score.perplexity, score.bits_per_byte, score.kl_to_dense, score.density, score.hit_rate)
    return Figures(*own, *bytes_read(program, captured, score.trace))


def bytes_read(program: Program, captured: Program, trace: Trace | None) -> tuple[float, float, float]:
    """Bytes that a token reads: of the MLPs by the masks, of all else, and what of both holds no parameter.

    What holds none is every tensor that the captured model does not have in one form or another: predictors, norms of
    columns, scales and zeros, and the bits that say what was pruned.
    """
    traffic, parts, pruned = lower(program), values_per_entry(program.graph), pruned_values(program.graph)
    values = set(pruned.values())
    own = {*captured.weights, *map(adapted_name, captured.weights)}

    def size_bytes(name: str) -> float:
        weight = program.weights[name]
        exact = name in parts and name not in values
        return weight.numel() * (float(weight.element_size()) if exact else program.info.bits_of(name) / 8)

    def is_overhead(name: str) -> bool:
        if name in parts:
            return name in pruned or (parts[name] == 0 and name not in values)
        return name not in own and not is_buffer(name)

    per_unit = {read.weight: read.per_unit for node in program.graph.nodes for read in reads_of(node)}
    mlp_bytes = overhead_bytes = 0.0
    resident = set(program.weights)
    for site in traffic.sites:
        density = 1.0 if site.full or trace is None else trace.density(site.name)
        fetched = {name for matrix in site.matrices for name in (matrix, *per_unit[matrix])}
        mlp_bytes += density * site.size_bytes
        overhead_bytes += density * sum(map(size_bytes, filter(is_overhead, fetched)))
        resident -= fetched
    overhead_bytes += sum(map(size_bytes, filter(is_overhead, resident)))
    return mlp_bytes, traffic.resident_bytes - traffic.resident_unread_bytes, overhead_bytes
