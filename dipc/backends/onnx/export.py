"""The ONNX backend: a program becomes `model.onnx`, which runs in every ONNX Runtime.

What dipc adds to ONNX are nodes of the domain `ai.dipc`. Each has a function body of standard operators in the file, so
a stock runtime runs it; where dipc's library is registered, its kernels run instead.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dipc.backends import Export
from dipc.backends.onnx.chain import NotRepeated
from dipc.backends.onnx.file import EXTERNAL_DATA_BYTES, finish, write
from dipc.backends.onnx.folding import fold_small_weights
from dipc.backends.onnx.fusions import fuse
from dipc.backends.onnx.graph import expand_glus, in_float32, lowered
from dipc.backends.onnx.matmul_nbits import lookups_as_bytes, use_matmul_nbits, widen_codes
from dipc.backends.onnx.names import input_names, metadata, output_names
from dipc.backends.onnx.repeated_model import repeat_layers
from dipc.backends.onnx.runtime import MODEL
from dipc.backends.onnx.short_program import shorten
from dipc.backends.onnx.stored_initializers import narrow_initializers
from dipc.errors import UnsupportedModel, UsageError
from dipc.files import check_output, whole_folder
from dipc.frontend.tracer import first_line, quiet
from dipc.ir.onnx_form import OPSET, OnnxForm
from dipc.ir.program import Program
from dipc.ir.verify import empty_port

if TYPE_CHECKING:
    import onnx_ir as ir

log = logging.getLogger("dipc.backends.onnx")
# Sizes to trace with: any but 0 and 1, which torch.export takes for constants.
_SEQ, _PAST, _PAST_WINDOW = 4, 5, 3


def export(
    program: Program,
    folder: Path,
    *,
    pipeline: str = "",
    external_data_bytes: int = EXTERNAL_DATA_BYTES,
) -> Export:
    """Write a program as `model.onnx` with its tokenizer's files; large weights go to `model.onnx.data` beside it.

    Args:
        program: with weights. It is computed in float32; weights keep the dtype that they are stored in.
        folder: a new folder, written whole or not at all.
        pipeline: what made the program, for the model's metadata.
        external_data_bytes: from how many bytes of weights on they have a file of their own.

    Raises:
        UsageError: no weights, or the folder exists or cannot be written.
        UnsupportedModel: an operator or an eviction policy without ONNX form, or torch cannot export the graph.
        MissingDependency: no onnx or onnxscript.
    """
    folder = Path(folder)
    check_output(folder)
    if not program.info.has_weights:
        raise UsageError(f"{program.info.name} was captured from a config alone: it has no weights to export")
    with whole_folder(folder) as staging:
        model, operators = to_ir(program, pipeline=pipeline)
        write(model, staging / MODEL, external_data_bytes)
        if program.tokenizer is not None:
            program.tokenizer.save_pretrained(str(staging))
    return Export(
        folder,
        {p.relative_to(folder).as_posix(): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()},
        operators,
        tuple(str(v.name) for v in model.graph.inputs),
        tuple(str(v.name) for v in model.graph.outputs),
    )


def to_ir(
    program: Program, *, pipeline: str = "", fusions: bool = True, repeat: bool = True
) -> tuple[ir.Model, dict[str, int]]:
    """The model in memory, its weights shared with the program's, and how often each operator of `ai.dipc` is called.

    Raises UnsupportedModel as `export` does.
    """
    computed = widen_codes(in_float32(expand_glus(program)))
    ready = fold_small_weights(lookups_as_bytes(use_matmul_nbits(computed)))
    model, forms = (repeat and _repeated(ready, fusions)) or _whole(ready, fusions)
    calls = finish(model, ready, forms, metadata(ready, pipeline))
    narrow_initializers(model, program.info)
    return model, calls


def _repeated(program: Program, fusions: bool) -> tuple[ir.Model, list[OnnxForm]] | None:
    """The model from one of fewer layers; None where the layers are not seen to be copies of each other."""
    try:
        short = shorten(program)
        model, forms = _whole(short.program, fusions)
        repeat_layers(model, short)
    except NotRepeated as reason:
        log.debug("%s is lowered to ONNX whole: %s", program.info.name, reason)
        return None
    log.debug("%s: %d of %d layers stood for all", program.info.name, len(short.layers), program.info.layers)
    return model, forms


def _whole(program: Program, fusions: bool) -> tuple[ir.Model, list[OnnxForm]]:
    """The model of a program as the exporter makes it, with the forms of the operators that it calls."""
    module, forms = lowered(program)
    names = input_names(program)
    model = _translate(program, module, [names[p.name] for p in program.inputs], output_names(program))
    if fusions:
        fuse(model)
    return model, forms


def _translate(program: Program, module: torch.nn.Module, inputs: list[str], outputs: list[str]) -> ir.Model:
    arguments = tuple(empty_port(p, _SEQ, _PAST, past_window=_PAST_WINDOW) for p in program.inputs)
    dynamic = tuple(
        {i: torch.export.Dim.AUTO for i, extent in enumerate(p.type.shape) if isinstance(extent, str)}
        for p in program.inputs
    )
    try:
        with quiet(), torch.no_grad():
            exported = torch.export.export(module, arguments, dynamic_shapes=dynamic, strict=False)
            made: Any = torch.onnx.export(
                exported,
                args=(),
                input_names=inputs,
                output_names=outputs,
                opset_version=OPSET,
                dynamo=True,
                optimize=True,
                verbose=False,
            )
    except UnsupportedModel:
        raise
    except Exception as error:
        cause = error.__cause__ if isinstance(error.__cause__, UnsupportedModel) else None
        if cause is not None:
            raise cause from None
        raise UnsupportedModel(
            f"{program.info.name} cannot be exported to ONNX: {first_line(_first_cause(error))}"
        ) from error
    model: ir.Model = made.model
    return model


def _first_cause(error: BaseException) -> Exception:
    """Return what the exporter wraps in advice of many lines: the operator that has no ONNX form, above all."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    assert isinstance(error, Exception)
    return error
