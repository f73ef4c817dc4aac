"""The dtype that a weight is stored in: 16 bits where the checkpoint has it so and nothing is lost."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from dipc.ir.program import ModelInfo
from dipc.ir.stored_dtype import stored_bytes, stored_dtype

INFO = ModelInfo("m", "llama", 1, 4, 8, 16, 16.0, "0" * 16, True, own_bits={"norm": 32.0})
WIDE = dataclasses.replace(INFO, weight_bits=32.0, own_bits={})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, -0.0, 65504.0, 2.0**-24, 0.1], torch.float32),  # 0.1 of float32 is no number of 16 bits
        ([1.0, -0.0, 65504.0, 2.0**-24], torch.float16),
        ([1.0, 65520.0], torch.float32),  # would be infinite in float16, and loses a bit in bfloat16
        ([1.0, 2.0**100, 2.0**-130], torch.bfloat16),
        ([1 + 2.0**-10], torch.float16),
        ([1 + 2.0**-11], torch.float32),
        ([1 + 2.0**-7, 2.0**17], torch.bfloat16),
        ([], torch.float16),
    ],
)
def test_the_narrowest_that_holds_every_value(values: list[float], expected: torch.dtype) -> None:
    weight = torch.tensor(values)
    assert stored_dtype("w", weight, INFO) == expected
    back = weight.to(expected).float()
    assert back.view(torch.int32).tolist() == weight.view(torch.int32).tolist()


@pytest.mark.parametrize("weight", [torch.ones(3).double(), torch.ones(3).bfloat16(), torch.ones(3).int()])
def test_other_dtypes_are_kept(weight: Tensor) -> None:
    assert stored_dtype("w", weight, INFO) == weight.dtype


def test_it_follows_the_checkpoint_weight_by_weight() -> None:
    ones = torch.ones(4, 4)
    assert stored_dtype("w", ones, WIDE) == stored_dtype("norm", ones, INFO) == torch.float32
    assert stored_dtype("w", ones.to("meta"), INFO) == torch.float32
    assert stored_dtype("norm.codes", ones, INFO) == torch.float32  # a part is looked up by its weight's name
    assert stored_bytes({"w": ones, "norm": ones}, INFO) == 32 + 64


def test_a_value_at_the_very_end_is_seen() -> None:
    weight = torch.ones(2**21 + 1)
    assert stored_dtype("w", weight, INFO) == torch.float16
    weight[-1] = 0.1
    assert stored_dtype("w", weight, INFO) == torch.float32
