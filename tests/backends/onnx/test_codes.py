"""Exported models whose weights came as codes: what becomes of each form, and that nothing is lost of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import onnx
import pytest
import torch

from dipc.api import Program, capture, compile
from dipc.ir.codes import CodeFormat
from dipc.passes.pack import Pack
from kit.coded import FORMS, Form, coded
from kit.exported import ONE_LAYER, Running, bytes_of, calls_of, check_same
from kit.tiny_models import tiny_model

# Groups that MatMulNBits does not take.
ODD = ((CodeFormat(4, 12, 1), torch.float16), (CodeFormat(8, 5, 1), torch.float32))
BLOCKS = ((CodeFormat(4, 16, 1), torch.float16), (CodeFormat(8, 32, 1), None))


@cache
def model(tied: bool) -> Program:
    return capture(tiny_model("llama", tie_word_embeddings=tied, **ONE_LAYER), name="tiny")


@pytest.mark.parametrize(
    ("forms", "tied", "nbits", "calls"),
    [
        # Of zero points in groups of 8 MatMulNBits has no form; two of the seven matrices are such.
        (FORMS, False, 6, {"Dequantize": 2}),
        (BLOCKS, True, 7 + 1, {}),
        (ODD, True, 0, {"Dequantize": 0, "DequantizeMinima": 8}),
    ],
)
def test_dense_models_are_their_programs(
    forms: Sequence[Form], tied: bool, nbits: int, calls: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dipc.backends.onnx.matmul_nbits.INT8_ACCURACY", 1)
    program, codes = coded(model(tied), forms)
    made = bytes_of(program)
    check_same(program, Running(made))
    assert calls_of(made) == {name: count for name, count in calls.items() if count}
    loaded = onnx.load_model_from_string(made)
    assert sum(n.op_type == "MatMulNBits" for n in loaded.graph.node) == nbits
    stored = sum(len(i.raw_data) for i in loaded.graph.initializer if ".weight." in i.name)
    # Codes of 5 and 6 bits take 8; a table of 4 bits that is looked up and dequantised is there twice.
    assert stored <= 2 * sum(q.size_bytes for q in codes.values())


def test_a_packed_model_is_its_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dipc.backends.onnx.matmul_nbits.INT8_ACCURACY", 1)
    program, _ = coded(model(True), ((CodeFormat(4, 16, 1), torch.float16),))
    packed = Pack().run(compile(program, "dip{density=0.5}").program).program
    made = bytes_of(packed)
    check_same(packed, Running(made))
    assert calls_of(made) == {"PackedGatherLinearInt4Minima": 1, "PackedGatherSwiGluInt4Minima": 1, "SelectTopk": 2}
