"""The pipelines of models that are compared: "dense", or a method as pipeline text."""

from __future__ import annotations

import dataclasses

from dipc.backends import BACKENDS
from dipc.pipeline.pass_ import Pass
from dipc.pipeline.text import parse_pipeline, pipeline_text
from dipc.studies.bench.options import DENSE, DecodeOptions


def eval_pipeline(passes: str) -> list[Pass]:
    """Return the passes of a model whose perplexity is measured."""
    return parse_pipeline("outline-glu" if passes == DENSE else passes)


def decode_pipeline(passes: str, format: str, backend: str = DecodeOptions.backend) -> str:
    """Return the whole pipeline: a method or none, then the format, then what the backend lowers programs by.

    The dense model has its groups along the inputs: only then does ONNX Runtime have a product for it (MatMulNBits).
    """
    quantised = [] if format == "float32" else parse_pipeline(format)
    if passes != DENSE:
        lowering = BACKENDS.get(backend).lowering
        return pipeline_text([*parse_pipeline(passes), *quantised, *(parse_pipeline(lowering) if lowering else ())])
    return pipeline_text([*parse_pipeline("outline-glu"), *map(_along_inputs, quantised)])


def _along_inputs(step: Pass) -> Pass:
    has_axis = any(option.name == "axis" for option in dataclasses.fields(step))
    return dataclasses.replace(step, axis="inputs") if has_axis else step  # type: ignore[call-arg]
