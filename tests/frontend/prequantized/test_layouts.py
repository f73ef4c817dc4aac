"""Layers of quantised checkpoints: codes are taken over bit by bit, and what has no such form is widened exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dipc.frontend.prequantized import awq, bitsandbytes, compressed_tensors, gptq
from dipc.frontend.prequantized.layout import Layout, Matrix
from dipc.ir.codes import QuantizedTensor
from dipc.ir.stored_weight import values_of
from kit.quantized_layers import Layer, compressed, compressed_int8, four_bit_floats, int8_rows, made_up
from kit.quantized_layers import awq as pack_awq
from kit.quantized_layers import gptq as pack_gptq


def values(matrix: Matrix) -> Tensor:
    return values_of(matrix, torch.float32) if isinstance(matrix, QuantizedTensor) else matrix


def config(num_bits: int, group: int | None, form: str = "pack-quantized", **more: Any) -> dict[str, Any]:
    """A quantization_config of compressed-tensors."""
    weights = {"num_bits": num_bits, "group_size": group, **more}
    return {"format": form, "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}}


def test_gptq_by_hand() -> None:
    """Eight outputs; input i of each has code i, so a column's word reads 7 to 0 from the high end."""
    parts = {
        "qweight": torch.full((1, 8), 0x76543210, dtype=torch.int32),
        "qzeros": torch.tensor([[0x77777777]], dtype=torch.int32),
        "scales": torch.full((1, 8), 0.5).half(),
    }
    made = gptq.LAYOUT.matrix(parts, (8, 8), {"bits": 4, "group_size": 8})
    assert (
        isinstance(made, QuantizedTensor) and made.zeros is None and made.codes[0].tolist() == [0x10, 0x32, 0x54, 0x76]
    )
    assert values(made)[3].tolist() == [-4, -3.5, -3, -2.5, -2, -1.5, -1, -0.5]
    later = gptq.LAYOUT.matrix(parts, (8, 8), {"bits": 4, "group_size": 8, "checkpoint_format": "gptq_v2"})
    assert values(later)[3].tolist() == [-3.5, -3, -2.5, -2, -1.5, -1, -0.5, 0]


def test_awq_by_hand() -> None:
    """Two inputs of eight outputs; output i has code i. A word has them as 0 2 4 6 1 3 5 7, the first lowest."""
    parts = {
        "qweight": torch.full((2, 1), 0x75316420, dtype=torch.int32),
        "qzeros": torch.tensor([[0x11111111]], dtype=torch.int32),
        "scales": torch.full((1, 8), 2.0).half(),
    }
    made = awq.LAYOUT.matrix(parts, (8, 2), {"bits": 4, "group_size": 2})
    assert isinstance(made, QuantizedTensor) and values(made).T.tolist() == [[-2, 0, 2, 4, 6, 8, 10, 12]] * 2


def test_compressed_tensors_by_hand() -> None:
    parts = {"weight_packed": torch.tensor([[0x76543210]], dtype=torch.int32), "weight_scale": torch.tensor([[0.25]])}
    made = compressed_tensors.LAYOUT.matrix(parts, (1, 8), config(4, None))
    assert values(made).tolist() == [[-2, -1.75, -1.5, -1.25, -1, -0.75, -0.5, -0.25]]


def test_bitsandbytes_by_hand() -> None:
    """The first of two codes is in the high half of their byte, and a block is two values wide."""
    parts = four_bit_floats(torch.tensor([[1, 15], [0, 2]]), torch.arange(16.0), torch.tensor([2.0, 0.5]), 2, "float16")
    assert parts["weight"].tolist() == [[0x1F], [0x02]]
    made = bitsandbytes.LAYOUT.matrix(parts, (2, 2), {})
    assert isinstance(made, Tensor) and made.dtype == torch.float16 and made.tolist() == [[2, 30], [0, 1]]


Case = tuple[str, Layout, Callable[[Layer], dict[str, Tensor]], Layer, dict[str, Any]]


def gptq_case(bits: int, group: int, less: int) -> Case:
    layer = made_up((64, 96), bits, group)
    size, form = -1 if group == 96 else group, "gptq" if less else "gptq_v2"
    about = {"bits": bits, "group_size": size, "checkpoint_format": form}
    return f"gptq-{bits}-{group}-{form}", gptq.LAYOUT, lambda la: pack_gptq(la, less), layer, about


def packed_case(name: str, layer: Layer, packed_zeros: bool = True) -> Case:
    group = None if layer.group == layer.codes.shape[1] else layer.group
    return name, compressed_tensors.LAYOUT, lambda la: compressed(la, packed_zeros), layer, config(layer.bits, group)


CASES: list[Case] = [
    *(gptq_case(*c) for c in ((2, 32, 1), (3, 32, 0), (4, 32, 1), (4, 96, 0), (8, 48, 1))),
    ("awq", awq.LAYOUT, pack_awq, made_up((64, 96), 4, 32), {"bits": 4, "group_size": 32, "version": "GEMM"}),
    ("awq-whole", awq.LAYOUT, pack_awq, made_up((64, 96), 4, 96), {"w_bit": 4, "q_group_size": -1}),
    packed_case("packed-4", made_up((24, 96), 4, 32)),
    packed_case("packed-4-symmetric", made_up((24, 96), 4, 32, symmetric=True)),
    packed_case("packed-8-channels", made_up((24, 36), 8, 36)),
    packed_case("packed-4-ragged", made_up((20, 42), 4, 42)),
    packed_case("packed-4-plain-zeros", made_up((24, 96), 4, 32), packed_zeros=False),
    ("int8", compressed_tensors.LAYOUT, compressed_int8, made_up((24, 36), 8, 36), config(8, None, "int-quantized")),
    ("bitsandbytes", bitsandbytes.LAYOUT, int8_rows, made_up((24, 36), 8, 36, True, torch.float32), {}),
]


@pytest.mark.parametrize(("layout", "pack", "layer", "about"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_codes_are_taken_over(layout: Layout, pack: Any, layer: Layer, about: dict[str, Any]) -> None:
    parts = pack(layer)
    assert set(parts) <= set(layout.parts) and layout.holds(parts) and layout.obstacle(about) is None
    rows, columns = layer.codes.shape
    made = layout.matrix(parts, (rows, columns), about)
    assert isinstance(made, QuantizedTensor)
    assert (made.bits, made.group, made.axis, made.shape) == (layer.bits, layer.group, 1, (rows, columns))
    assert (made.zeros is None) == bool((layer.zeros == 2 ** (layer.bits - 1)).all())
    exact = layer.scales.dtype == torch.float16
    assert made.scales.dtype == (torch.float16 if exact else torch.float32)
    assert torch.allclose(values(made).double(), layer.values, rtol=0 if exact else 1e-6, atol=0)


def test_scales_in_bfloat16_are_not_rounded() -> None:
    layer = made_up((8, 32), 4, 16, symmetric=True, dtype=torch.bfloat16)
    tiny = Layer(layer.codes, layer.zeros, layer.scales * 2**-20, 4, 16)
    for given, dtype in ((layer, torch.float16), (tiny, torch.float32)):
        made = compressed_tensors.LAYOUT.matrix(compressed(given), (8, 32), config(4, 16))
        assert isinstance(made, QuantizedTensor) and made.scales.dtype == dtype
        assert torch.equal(values(made).double(), given.values)


def test_act_order_is_widened_exactly() -> None:
    """Inputs of a group lie anywhere, which codes in runs cannot say."""
    layer = made_up((32, 64), 4, 16)
    parts = pack_gptq(layer)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    parts["g_idx"] = (order // 16).int()
    made = gptq.LAYOUT.matrix(parts, (32, 64), {"bits": 4, "group_size": 16, "desc_act": True})
    places = order // 16
    wanted = (layer.codes - layer.zeros[:, places]).double() * layer.scales.double()[:, places]
    assert isinstance(made, Tensor) and torch.equal(made.double(), wanted)
    sorted_all_the_same = gptq.LAYOUT.matrix(
        pack_gptq(layer), (32, 64), {"bits": 4, "group_size": 16, "desc_act": True}
    )
    assert isinstance(sorted_all_the_same, QuantizedTensor)


def test_a_zero_point_past_the_last_code_is_widened() -> None:
    """GPTQ stores zero points less one, so that 15 means 16."""
    layer = made_up((32, 32), 4, 32)
    high = Layer(layer.codes, torch.full_like(layer.zeros, 16), layer.scales, 4, 32)
    made = gptq.LAYOUT.matrix(pack_gptq(high), (32, 32), {"bits": 4, "group_size": 32})
    assert isinstance(made, Tensor) and torch.equal(made.double(), high.values)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("block", [64, 40])
def test_four_bit_floats_are_widened(dtype: str, block: int) -> None:
    generator = torch.Generator().manual_seed(3)
    codes, table = torch.randint(0, 16, (12, 32), generator=generator), torch.randn(16, generator=generator)
    largest = torch.rand(-(-384 // block), generator=generator)
    wide = (table[codes].reshape(-1) * largest.repeat_interleave(block)[:384]).view(12, 32)
    made = bitsandbytes.LAYOUT.matrix(four_bit_floats(codes, table, largest, block, dtype), (12, 32), {})
    assert isinstance(made, Tensor) and torch.equal(made, wide.to(getattr(torch, dtype)))


def test_four_bit_floats_whose_scales_are_codes_too() -> None:
    generator = torch.Generator().manual_seed(4)
    codes, table = torch.randint(0, 16, (8, 64), generator=generator), torch.randn(16, generator=generator)
    outer, places = torch.rand(256, generator=generator), torch.randint(0, 256, (8,), generator=generator)
    parts = four_bit_floats(codes, table, places.to(torch.uint8), 64, "float32")
    parts |= {"weight.nested_quant_map": outer, "weight.nested_absmax": torch.tensor([0.75])}
    made = bitsandbytes.LAYOUT.matrix(parts, (8, 64), {})
    assert torch.equal(values(made), table[codes] * (outer[places] * 0.75)[:, None])


@pytest.mark.parametrize("per", ["tensor", "outputs", "blocks"])
def test_fp8_is_widened(per: str) -> None:
    weight = torch.randn(6, 8, generator=torch.Generator().manual_seed(5)).to(torch.float8_e4m3fn)
    blocks = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    scale = {"tensor": torch.tensor([0.5]), "outputs": torch.arange(1.0, 7)[:, None], "blocks": blocks}
    spread = {**scale, "blocks": blocks.repeat_interleave(4, 0)[:6].repeat_interleave(4, 1)}
    about = config(8, None, "float-quantized", type="float", block_structure=[4, 4])
    made = compressed_tensors.LAYOUT.matrix({"weight": weight, "weight_scale": scale[per]}, (6, 8), about)
    assert isinstance(made, Tensor) and torch.equal(made, weight.float() * spread[per])


def broken(parts: dict[str, Tensor], **changes: Tensor | None) -> dict[str, Tensor]:
    return {n: t for n, t in {**parts, **changes}.items() if t is not None}


LAYER = made_up((32, 32), 4, 16)
ABOUT = {"bits": 4, "group_size": 16}
GPTQ, AWQ, PACKED = pack_gptq(LAYER), pack_awq(LAYER), compressed(LAYER)
FOUR_BITS = {"weight": torch.zeros(512, 1).byte(), "weight.absmax": torch.ones(16)}
OTHER_ORDER = int8_rows(made_up((32, 32), 8, 32)) | {"weight_format": torch.tensor(2)}
WRONG: list[tuple[Layout, dict[str, Tensor], dict[str, Any], str]] = [
    (gptq.LAYOUT, broken(GPTQ, scales=None), ABOUT, "has no scales"),
    (gptq.LAYOUT, GPTQ, {"bits": 4, "group_size": 8}, r"scales is \[2, 32\] and should be \[4, 32\]"),
    (gptq.LAYOUT, broken(GPTQ, g_idx=torch.full((32,), 7).int()), ABOUT, "other groups than its 2"),
    (gptq.LAYOUT, broken(GPTQ, qweight=torch.zeros(4, 32)), ABOUT, "qweight is float32"),
    (awq.LAYOUT, broken(AWQ, qzeros=None), ABOUT, "has no qzeros"),
    (compressed_tensors.LAYOUT, PACKED, config(8, 16), "rows of 4 words"),
    (compressed_tensors.LAYOUT, broken(PACKED, weight_scale=torch.ones(32, 5)), config(4, 16), "5 groups, which 32"),
    (bitsandbytes.LAYOUT, FOUR_BITS, {}, "no quant_state"),
    (bitsandbytes.LAYOUT, OTHER_ORDER, {}, "in the order of a GPU"),
]


@pytest.mark.parametrize(("layout", "parts", "about", "expected"), WRONG)
def test_parts_that_are_wrong(layout: Layout, parts: dict[str, Tensor], about: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        layout.matrix(parts, (32, 32), about)


@pytest.mark.parametrize(
    ("layout", "about", "expected"),
    [
        (gptq.LAYOUT, {"bits": 5}, "5 bits a weight"),
        (gptq.LAYOUT, {"bits": 4, "checkpoint_format": "marlin"}, "checkpoint format 'marlin'"),
        (awq.LAYOUT, {"bits": 3}, "3 bits a weight"),
        (awq.LAYOUT, {"bits": 4, "version": "gemv_fast"}, "layout 'gemv_fast'"),
        (awq.LAYOUT, {"bits": 4, "zero_point": False}, "no zero points"),
        (compressed_tensors.LAYOUT, config(4, 16, "nvfp4-pack-quantized"), "format 'nvfp4-pack-quantized'"),
        (compressed_tensors.LAYOUT, config(3, 16), "packed codes of 3 bits"),
        (compressed_tensors.LAYOUT, config(4, 16) | {"sparsity_config": {"format": "sparse-24"}}, "sparse-24"),
        (compressed_tensors.LAYOUT, config(4, 16) | {"transform_config": {"config_groups": {"r": {}}}}, "rotated"),
        (compressed_tensors.LAYOUT, {}, "config_groups that it cannot mean"),
    ],
)
def test_what_is_not_read(layout: Layout, about: dict[str, Any], expected: str) -> None:
    assert expected in str(layout.obstacle(about))


@pytest.mark.parametrize(("bits", "symmetric"), [(4, True), (4, False), (8, False)])
def test_compressed_tensors_by_its_own_library(bits: int, symmetric: bool) -> None:
    pytest.importorskip("loguru", reason="compressed_tensors imports it")
    library = pytest.importorskip("compressed_tensors.compressors.pack_quantized.base")
    forms = pytest.importorskip("compressed_tensors.quantization")
    layer = made_up((24, 96), bits, 32, symmetric)
    arguments = forms.QuantizationArgs(num_bits=bits, group_size=32, strategy="group", symmetric=symmetric)
    scheme = forms.QuantizationScheme(targets=["Linear"], weights=arguments)
    wide = library.PackedQuantizationCompressor.decompress(compressed(layer), scheme)["weight"]
    made = compressed_tensors.LAYOUT.matrix(compressed(layer), (24, 96), config(bits, 32))
    assert torch.equal(values(made).half(), wide)
