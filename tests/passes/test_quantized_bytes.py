"""The bytes of quantised weights: of a unit, of what is shared, of a whole model and of its price."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from torch import fx

import dipc
from dipc.ir.selections import cache_aware
from dipc.memory.lowering import lower, mean_bits
from dipc.pipeline.mlp_rewriter import MlpRewriter
from dipc.pipeline.sparsity_pass import SparsityPass
from kit.quantization import compiled, sites, small_glu
from kit.tiny_models import tiny_llama


@pytest.mark.parametrize(
    ("form", "unit_input", "unit_glu", "shared"),
    [
        # A unit of "input" is a column of 64 in gate and in up, one of "glu" a column of 128 in down. Groups of 32 down
        # it: 32 bytes of codes and two 2-byte scales; 64 bytes and four scales.
        ("int4{group=32}", 2 * (32 + 2 * 2), 64 + 4 * 2, 0),
        ("int4{group=32 symmetric=false}", 2 * (32 + 2 * 3), 64 + 4 * 3, 0),
        ("int4{group=128}", 2 * (32 + 2), 64 + 2, 0),  # a group of 64 where the column ends
        ("int8{group=64}", 2 * (64 + 2), 128 + 2 * 2, 0),
        # Along the inputs a unit has codes only; shared are 64 rows of 128 / 32 groups twice, and 128 rows of 64 / 32.
        ("int4{group=32 axis=inputs}", 2 * 32, 64, (2 * 64 * 4 + 128 * 2) * 2),
        ("int8{group=64 axis=inputs symmetric=false}", 2 * 64, 128, (2 * 64 * 2 + 128 * 1) * 3),
    ],
)
def test_bytes_of_a_unit_by_hand(form: str, unit_input: int, unit_glu: int, shared: int) -> None:
    program = compiled(f"{form},dip", small_glu()).program
    assert sites(program) == {"layers.0.input": (128, unit_input), "layers.0.glu": (64, unit_glu)}
    traffic = lower(program)
    assert traffic.resident_bytes == shared
    # What the files hold is what is counted.
    assert traffic.total_bytes == sum(w.nbytes for w in program.weights.values())
    assert lower(program.reference).total_bytes == traffic.total_bytes
    assert program.parameter_count == 3 * 64 * 128
    assert mean_bits(program) == 8 * traffic.total_bytes / (3 * 64 * 128)
    assert [s.unit_weights for s in traffic.sites] == [2 * 64, 128]


@dataclass(frozen=True)
class Rows(SparsityPass):
    """Keep rows of up and gate by a score that reads a predictor of its own."""

    def rewrite(self, mlp: MlpRewriter) -> fx.Node:
        mask = mlp.select_topk(mlp.abs(mlp.linear(mlp.x, mlp.gate)), self.density, "glu")
        hidden = mlp.product(mlp.activate(mlp.linear(mlp.x, mlp.gate)), mlp.row_linear(mlp.x, mask, mlp.up))
        return mlp.gather_linear(hidden, mask, mlp.down)


def test_rows_take_the_other_axis_along() -> None:
    # Up [64, 128]: a row has 64 bytes of codes, and along its inputs 128 / 32 scales. Down's column shares them then.
    inputs = Rows().run(compiled("int4{group=32 axis=inputs}", small_glu()).program).program
    assert sites(inputs)["layers.0.glu"] == (64, 64 + 4 * 2 + 64)
    outputs = Rows().run(compiled("int4{group=32}", small_glu()).program).program
    assert sites(outputs)["layers.0.glu"] == (64, 64 + 64 + 4 * 2)
    # Gate is read whole, scales and all: 64 * 128 / 2 bytes and 256 scales, in both.
    for program in (inputs, outputs):
        gate = next(s for s in lower(program).sites if s.name == "layers.0.gate")
        assert gate.full and gate.units == 128 and gate.size_bytes == 64 * 64 + 256 * 2
    assert lower(inputs).resident_bytes == lower(outputs).resident_bytes == 2 * 256


def test_a_width_is_the_price_of_what_is_not_quantised() -> None:
    program = compiled("int8{weights=mlp},dip").program
    assert sites(program, 2) == sites(program)
    apart = program.parameter_count - sum(s.weights for s in lower(program).sites)
    assert lower(program, 2).resident_bytes == apart * 2 / 8
    assert mean_bits(tiny_llama(), 4.25) == 4.25 and mean_bits(tiny_llama()) == 32


def test_an_embedding_table_that_is_not_read_is_still_not_read() -> None:
    table = tiny_llama().weights["model.embed_tokens.weight"].numel() * 4
    assert lower(compiled("int4").program).resident_unread_bytes == table


def test_a_model_without_weights(config: Path, tmp_path: Path) -> None:
    bare = dipc.capture(config)
    result = dipc.compile(bare, "int4,dip-ca", check_numerics=True)
    program = result.program
    assert all(w.device.type == "meta" for w in program.weights.values())
    assert program.parameter_count == bare.parameter_count
    # 4.25 bits for the linear layers; the table of 192 x 128 and five norms of 128 have 16.
    apart = 192 * 128 + 5 * 128
    assert lower(program).total_bytes == (bare.parameter_count - apart) * 4.25 / 8 + apart * 2
    assert lower(program, 4.25).total_bytes == pytest.approx(bare.parameter_count * 4.25 / 8)
    dipc.save(result, tmp_path / "out")
    found = dipc.load(tmp_path / "out")
    assert found.text() == program.text() and lower(found) == lower(program)


def test_an_estimate_prices_quantised_weights_as_a_width_prices_all(config: Path) -> None:
    bare = dipc.capture(config)
    options: dict[str, Any] = {"dram": "70%", "context": 0}
    priced = dipc.estimate(dipc.compile(bare, "dip").program, "a18", bits_per_weight=4.25, **options)
    real = dipc.estimate(dipc.compile(bare, "int4,dip").program, "a18", bits_per_weight=4.25, **options)
    assert real.bits_per_weight == priced.bits_per_weight == 4.25
    assert real.model_bytes == priced.model_bytes and real.speedup == pytest.approx(priced.speedup)
    own = dipc.estimate(dipc.compile(bare, "int4,dip").program, "a18", **options)
    assert 4.25 < own.bits_per_weight < 8 and own.model_bytes > real.model_bytes


def test_capacities_of_a_device_are_those_of_the_quantised_model(config: Path) -> None:
    bare = dipc.capture(config)
    resident = lower(dipc.compile(bare, "int4").program).resident_bytes
    # A unit of "input" is 2 * 136 bytes, one of "glu" 68: with 34,816 + 17,408 bytes a layer and half of that, half.
    half = int(resident) + 34_816 + 17_408
    program = dipc.compile(bare, f'int4,dip-ca{{hw=a18 dram="{half} B" context=0}}').program
    assert cache_aware(program) == {
        f"layers.{i}.{site}": ("lfu", units // 2) for i in (0, 1) for site, units in (("input", 128), ("glu", 256))
    }
