"""Exporting each architecture once: that takes seconds, and what a capture reads of it depends on no weight."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from torch import nn

from dipc.frontend.tracer import Source, trace
from dipc.ir.program import Program

_EXPORTED: dict[Any, Any] = {}


@contextmanager
def captures_share_exports() -> Iterator[None]:
    """Let captures of one architecture share the exporter's graph, which each of them reads and none changes."""

    def sharing(source: Source) -> Program:
        # Slow to import, so left until there is something to capture.
        from transformers.exporters import DynamoExporter

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(DynamoExporter, "export", _once(DynamoExporter.export))
            return trace(source)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dipc.frontend.hugging_face.trace", sharing)
        yield


def _once(export: Any) -> Any:
    def remembered(self: Any, model: nn.Module, inputs: Any, **options: Any) -> Any:
        if any("forward" in vars(module) for module in model.modules()):
            return export(self, model, inputs, **options)
        key = _architecture(model), tuple(type(layer) for layer in inputs["past_key_values"].layers)
        if key not in _EXPORTED:
            _EXPORTED[key] = export(self, model, inputs, **options)
        return _EXPORTED[key]

    return remembered


def _architecture(model: Any) -> Any:
    """All that the exporter sees of a model on the meta device: modules, config, and the form of every tensor."""
    config = {**model.config.to_dict(), "_name_or_path": None, "attention": model.config._attn_implementation}
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    first: dict[int, str] = {}
    forms = tuple((n, first.setdefault(id(t), n), tuple(t.shape), t.dtype, t.stride()) for n, t in tensors)
    return tuple(type(module) for module in model.modules()), repr(model), repr(config), forms, model.training
