"""Figures as text, dicts that JSON holds, and the comparison of two program texts, on cases worked by hand."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipc.api import compile as compile_program
from dipc.api import to_dict
from dipc.documents import document
from dipc.ir.pattern import Mismatch
from dipc.pipeline.pass_ import Pass
from dipc.pipeline.runner import PassLog
from dipc.quantities import NO_BREAK, number, percent, ranges, share
from dipc.report.compiled import compiled_dict, deviation_text, operators_text
from dipc.report.diff import changes, layer_of
from dipc.report.estimate import estimate_dict
from dipc.report.explain import verdicts
from dipc.report.passes import attributes, options, summary
from dipc.report.score import score_dict
from kit.byte_text import CONTEXT, WORDS, byte_tokenizer
from kit.tiny_models import tiny_llama


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0"),
        (13960238080, "13,960,238,080"),
        (0.0, "0"),
        (0.19, "0.1900"),
        (1.40849, "1.408"),
        (51.8249, "51.82"),
        (999.96, "1000"),
        (2105.7, "2,106"),
        (123456.0, "123,456"),
        (1234567.0, "1.235e+06"),
        (0.00001234, "1.234e-05"),
        (math.inf, "inf"),
        (math.nan, "nan"),
    ],
)
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


def test_shares() -> None:
    assert [share(x) for x in (None, 0.5, 1.0, 0.49951)] == ["-", "0.5", "1", "0.5"]
    assert [percent(x) for x in (None, 0.5, 1.0, 0.19451)] == ["-", "50.0 %", "100.0 %", "19.5 %"]
    assert [deviation_text(x) for x in (None, 0.0, 3.21e-6)] == ["-", "0", "3.2e-06"]


def test_ranges() -> None:
    assert ranges([5, 0, 1, 2, 7, 8]) == "0-2,5,7-8"
    assert ranges([]) == ""


@given(st.sets(st.integers(0, 60)))
def test_ranges_name_each_index(indices: set[int]) -> None:
    parts = [part.split("-") for part in ranges(indices).split(",") if part]
    assert {i for part in parts for i in range(int(part[0]), int(part[-1]) + 1)} == indices


def test_a_document_is_strict_json() -> None:
    made = document("log", entry=PassLog("dip", 0.1, ("a",), (Mismatch("why", "b"),), {"glu": -1}), worst=math.inf)
    read = json.loads(json.dumps(made, allow_nan=False))
    assert (read["schema"], read["kind"], read["worst"]) == (1, "log", "inf")
    assert read["entry"]["mismatches"] == [{"reason": "why", "where": "b", "node": ""}]


def test_operators() -> None:
    changed = {"operator.getitem": 10, "aten.silu": -2, "dipc.gather_linear": 6, "aten.mul.Tensor": 2}
    assert operators_text(changed).replace(NO_BREAK, " ") == "+6 gather_linear, +2 mul, -2 silu"
    assert operators_text({}) == "-"


def text_of(layer: int, node: str, product: str) -> list[str]:
    return [
        f"model.layers.{layer}.mlp.up_proj:",
        f"  %linear{node} = {product}(%x{node}, @model.layers.{layer}.mlp.up_proj.weight)",
        f"model.layers.{layer}:",
        f"  %add{node} = aten.add(%x{node}, %linear{node})",
    ]


def test_layers_that_change_alike_are_one_change() -> None:
    head = ["program tiny", "  input input_ids: int64[1, seq] (tokens)"]
    before = "\n".join([*head, *text_of(0, "", "linear"), *text_of(1, "_7", "linear"), *text_of(2, "_9", "linear")])
    after = "\n".join([*head, *text_of(0, "", "gather"), *text_of(1, "_7", "gather"), *text_of(2, "_9", "linear")])
    mlps = [f"model.layers.{i}.mlp" for i in range(3)]
    (found,) = changes(before, after, mlps)
    assert (found.module, found.layers) == ("model.layers.0.mlp", (0, 1))
    assert found.lines[1:] == (
        "-%linear = linear(%x, @model.layers.0.mlp.up_proj.weight)",
        "+%linear = gather(%x, @model.layers.0.mlp.up_proj.weight)",
    )
    assert [c.layers for c in changes(before, after, mlps, layer=1)] == [(1,)]
    assert changes(before, before, mlps) == []


def test_ports_belong_to_their_layer() -> None:
    before = "program tiny\n  input input_ids: int64[1, seq] (tokens)\n"
    after = before + "".join(f"  input layers_{i}_glu_t: int64[] (state)\n" for i in range(12))
    after += "  input dense: bool[1, seq] (dense)\n"
    found = {c.layers: c.lines[1:] for c in changes(before, after, [])}
    assert found[tuple(range(12))] == ("+input layers_0_glu_t: int64[] (state)",)
    assert found[()][-1] == "+input dense: bool[1, seq] (dense)"


@pytest.mark.parametrize(
    ("name", "layer"),
    [("model.layers.3.mlp", 3), ("layers_12_input_cached", 12), ("transformer.h.4.mlp", 4), ("model.norm", -1)],
)
def test_layer_of(name: str, layer: int) -> None:
    assert layer_of(name) == layer


def test_attributes_of_a_docstring() -> None:
    section = "Attributes:\n    a: first,\n        and more: of it.\n    b: second."
    assert attributes(f"What it is.\n\n{section}\n\nRaises:\n    c: never.\n") == {
        "a": "first, and more: of it.",
        "b": "second.",
    }


@dataclass(frozen=True)
class Base(Pass):
    """Something general.

    Attributes:
        a: as the base has it.
        b: the other.
    """

    a: int = 1
    b: Literal["x", "y"] = "x"


@dataclass(frozen=True)
class Derived(Base):
    """Something special.

    Attributes:
        a: as it is here.
    """

    c: float | None = None


@dataclass(frozen=True)
class Silent(Pass):
    pass


def test_options_are_described_by_the_class_and_its_bases() -> None:
    assert summary(Derived) == "Something special."
    found = [(o.name, o.type, o.default, o.meaning) for o in options(Derived)]
    assert found == [
        ("a", "whole number", 1, "as it is here."),
        ("b", "x | y", "x", "the other."),
        ("c", "number", None, ""),
    ]
    assert (summary(Silent), options(Silent)) == ("", [])


def test_results_name_all_that_they_depend_on() -> None:
    from dipc.api import estimate, evaluate

    program = tiny_llama(vocab_size=257, max_position_embeddings=CONTEXT).replace(tokenizer=byte_tokenizer())
    result = compile_program(program, "dip{density=0.5 layers=1}")
    log = compiled_dict(result)
    assert log["passes"][1]["skipped"][0]["reason"] == "layer 0 is not among layers=1"
    assert [v.density for v in verdicts(result.program, result.log)] == [1.0, 0.5]
    score = score_dict(evaluate(result.program, WORDS, seq_len=32))
    assert score["method"] == {"name": "dip", "density": 0.75, "scope": "all", "options": "dip{layers=1}"}
    assert {"text", "seq_len", "windows", "tokens", "cache_policy", "prefill"} <= set(score)
    price = estimate_dict(estimate(result.program, "a18", dram="80%", context=0, text=WORDS, seq_len=32), "a18.yaml")
    assert price["device"]["file"] == "a18.yaml"
    assert price["score"]["perplexity"] > 1
    use = price["sparse"]["dram"]
    assert sum(use.values()) == pytest.approx(price["device"]["dram_available_bytes"])
    json.dumps([log, score, price], allow_nan=False)
    assert to_dict(result) == log
