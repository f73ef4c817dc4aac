"""The pipelines of models that are compared: "dense", or a method as pipeline text."""

from __future__ import annotations

import dataclasses

from dipc.pipeline.pass_ import Pass
from dipc.pipeline.text import parse_pipeline, pipeline_text

DENSE = "dense"


def torch_pipeline(passes: str) -> list[Pass]:
    """Return the passes of a model that torch runs."""
    return parse_pipeline("outline-glu" if passes == DENSE else passes)


def onnx_pipeline(passes: str, format: str) -> str:
    """Return the whole pipeline: a method or none, then the format, then the packing that the kernels read.

    The dense model has its groups along the inputs: only then does ONNX Runtime have a product for it (MatMulNBits).
    """
    quantised = [] if format == "float32" else parse_pipeline(format)
    if passes != DENSE:
        return pipeline_text([*parse_pipeline(passes), *quantised, *parse_pipeline("pack")])
    return pipeline_text([*parse_pipeline("outline-glu"), *map(_along_inputs, quantised)])


def _along_inputs(step: Pass) -> Pass:
    has_axis = any(option.name == "axis" for option in dataclasses.fields(step))
    return dataclasses.replace(step, axis="inputs") if has_axis else step  # type: ignore[call-arg]
