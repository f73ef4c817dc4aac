"""The paper's dense throughput rows (Tables 2, 6 and 7) from the real configs of its models, with no fitted constant.

Sizes are 4.25 bits for every parameter: INT4 with one 16-bit scale per 64 weights. The paper counts no KV cache.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import dipc
from dipc.ir.program import Program
from dipc.memory.lowering import lower
from kit.paths import CONFIGS

# Model: parameters, published size in GB and DRAM in GB (Table 2), published tokens per second.
TABLE_2 = {
    "phi-3-medium": (13_960_238_080, 7.4, 4.0, 0.29),
    "llama-3-8b": (8_030_261_248, 4.3, 2.5, 0.57),
    "mistral-7b": (7_241_732_096, 3.9, 2.0, 0.54),
}


@pytest.mark.parametrize("model", TABLE_2)
def test_the_published_size_is_the_parameters_at_four_and_a_quarter_bits(model: str) -> None:
    parameters, published_gb, _, _ = TABLE_2[model]
    with torch.device("meta"):
        real = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(CONFIGS / f"{model}.json"))
    assert sum(p.numel() for p in real.parameters()) == parameters
    assert parameters * 4.25 / 8 / 1e9 == pytest.approx(published_gb, rel=0.02)


def test_phi_3_mini_is_published_larger_than_its_parameters_explain() -> None:
    """3.82 B parameters at 4.25 bits are 2.03 GB; the paper says 2.4 GB."""
    with torch.device("meta"):
        real = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(CONFIGS / "phi-3-mini.json"))
    parameters = sum(p.numel() for p in real.parameters())
    assert parameters == 3_821_079_552
    assert parameters * 4.25 / 8 / 1e9 == pytest.approx(2.03, abs=0.005)


@pytest.mark.nightly
@pytest.mark.parametrize("model", TABLE_2)
def test_dense_throughput_of_table_2_through_the_whole_compiler(model: str) -> None:
    """Capture, outline, lower, allocate, price. By hand: 1 / (size - DRAM) s, all flash at 1 GB/s."""
    parameters, _, dram, published = TABLE_2[model]
    program = dipc.compile(CONFIGS / f"{model}.json", "outline-glu").program
    assert program.parameter_count == parameters
    cost = dipc.estimate(program, "a18", dram=f"{dram} GB", bits_per_weight=4.25, context=0)
    by_hand = 1 / (parameters * 4.25 / 8 / 1e9 - dram)
    assert cost.dense.throughput == pytest.approx(by_hand, rel=1e-3)
    assert cost.dense.throughput == pytest.approx(published, abs=0.0051)


@cache
def phi_3_medium() -> Program:
    return dipc.compile(CONFIGS / "phi-3-medium.json", "outline-glu").program


def dense_throughput(program: Program, dram: str, flash: str, bits: float | None = 4.25) -> float:
    cost = dipc.estimate(program, "a18", dram=dram, flash=flash, bits_per_weight=bits, context=0)
    return cost.dense.throughput


def test_dense_throughput_of_tables_6_and_7_through_the_whole_compiler() -> None:
    """Phi-3-Medium. 2 GB gives 0.1846, which the paper prints as 0.19 (from its rounded 7.4 GB, 0.1852)."""
    by_dram = [dense_throughput(phi_3_medium(), f"{d} GB", "1 GB/s") for d in (2, 4, 6)]
    assert by_dram == pytest.approx([0.19, 0.29, 0.71], abs=0.0055)
    by_flash = [dense_throughput(phi_3_medium(), "4 GB", f"{f} GB/s") for f in (0.5, 1, 2)]
    assert by_flash == pytest.approx([0.15, 0.29, 0.59], abs=0.0051)


def test_the_pass_int4_makes_the_width_that_the_paper_counts() -> None:
    """Codes and scales of the linear layers are 4.25 bits to the byte; the embedding table keeps its 16 bits.

    The paper counts 4.25 bits for the table too. With them the row is the same; without, the model is 241 MB larger.
    """
    parameters, table, norms = 13_960_238_080, 32_064 * 5_120, 81 * 5_120
    program = dipc.compile(phi_3_medium(), "int4{group=64}").program
    own = (parameters - table - norms) * 4.25 / 8 + (table + norms) * 2
    assert program.parameter_count == parameters and lower(program).total_bytes == own
    assert dense_throughput(program, "4 GB", "1 GB/s") == pytest.approx(
        dense_throughput(phi_3_medium(), "4 GB", "1 GB/s")
    )
    assert dense_throughput(program, "4 GB", "1 GB/s", None) == pytest.approx(1 / (own / 1e9 - 4), rel=1e-3)
