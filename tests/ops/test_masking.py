"""`keep` is `torch.where` bit for bit, odd values included."""

from __future__ import annotations

import pytest
import torch

from dipc.ops._masking import keep


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_what_is_kept_keeps_its_bits_and_the_rest_is_plus_zero(dtype: torch.dtype) -> None:
    odd = torch.tensor([1.5, -2.0, -0.0, torch.nan, torch.inf, -torch.inf, 1e-40, -1.0], dtype=dtype)
    x = odd.repeat(3, 5)[:, ::2]  # not contiguous either
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    before, word = x.clone(), {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    got, expected = keep(x, mask), torch.where(mask, x, 0)
    assert got.dtype == dtype and torch.equal(got.view(word), expected.contiguous().view(word))
    assert torch.equal(x.contiguous().view(word), before.view(word))
