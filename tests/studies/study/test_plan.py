"""`dipc plan`: it names a measured point that compiles to what was measured, and says where dense is the answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import dipc
from dipc.api import Plan, plan
from dipc.errors import UsageError
from dipc.ir.program import Program
from dipc.ir.selections import cache_aware
from dipc.text import Text
from kit.byte_text import WORDS
from kit.command_line import Cli

OPTIONS: dict[str, Any] = {
    "densities": (0.9, 0.6),
    "gammas": (0.2, 0.5),
    "dram": "80%",
    "context": 0,
    "text": Text("words", WORDS * 4),
    "step": 0,
}


@pytest.fixture(scope="module")
def program(model: Path) -> Program:
    return dipc.compile(str(model), "outline-glu").program


@pytest.fixture(scope="module")
def found(program: Program) -> Plan:
    # Random weights hardly care for sparsity, so nearly everything is within a half.
    return plan(program, max_ppl_increase="50%", **OPTIONS)


def test_the_choice_is_the_fastest_measured_point_within_the_limit(found: Plan) -> None:
    assert found.choice is not None and found.study.dense_perplexity is not None
    limit = found.study.dense_perplexity * 1.5
    within = [p for p in found.study.points if p.perplexity is not None and p.perplexity <= limit]
    assert found.choice.throughput == max(point.throughput for point in within) > found.dense.throughput
    assert {point.method for point in found.best} == {"dip", "dip-ca", "dip-ca, shared"}


def test_what_it_says_to_compile_is_what_was_measured(program: Program, tmp_path: Path) -> None:
    found = plan(program, max_ppl_increase="50%", methods="dip-ca", out=tmp_path, **OPTIONS)
    # The folder holds the study that the plan rests on, not one of what would help.
    held = json.loads((tmp_path / "study.json").read_text("utf-8"))
    assert found.help and [p["id"] for p in held["points"]] == [p.id for p in found.study.points]
    assert found.choice is not None and found.passes is not None and "hw=a18" in found.passes
    made = dipc.compile(program, found.passes).program
    cost = dipc.estimate(made, "a18", dram="80%", context=0, text=OPTIONS["text"])
    assert cost.sparse is not None and cost.score is not None
    assert cost.sparse.throughput == pytest.approx(found.choice.throughput, rel=1e-9)
    # The capacities are in the program already: evaluated as it is, it gives the plan's perplexity.
    assert dipc.evaluate(made, OPTIONS["text"]).perplexity == pytest.approx(found.choice.perplexity, rel=1e-6)
    assert all(units > 0 for _, units in cache_aware(made).values())


def test_what_would_help_is_faster(found: Plan) -> None:
    assert found.choice is not None
    assert [item.what for item in found.help][-1] == "flash of 2 GB/s" and len(found.help) == 2
    assert all(item.point.throughput > found.choice.throughput for item in found.help)


def test_dense_is_the_answer_where_nothing_is_within(program: Program) -> None:
    found = plan(program, max_ppl_increase="0.0000001%", methods="dip", **OPTIONS)
    if found.choice is None:
        assert found.passes is None and found.reason is not None and "nothing keeps within" in found.reason
    else:
        assert (found.choice.perplexity or 0) <= (found.study.dense_perplexity or 0) * (1 + 1e-9)


def test_what_knows_the_future_is_no_plan(program: Program) -> None:
    with pytest.raises(UsageError, match="no device does"):
        plan(program, policy="belady", **OPTIONS)


def test_the_command(cli: Cli, model: Path, text: Path, tmp_path: Path) -> None:
    arguments = ("plan", model, "--hw", "a18", "--dram", "80%", "--max-ppl-increase", "50%", "--density", "0.9,0.6")
    options = ("--gamma", "0.2", "--step", "0", "--context", "0", "--text", text, "-o", tmp_path / "out", "-q")
    result = cli(*arguments, *options)
    assert (result.code, result.err) == (0, "") and max(map(len, result.out.splitlines())) <= 80
    for part in ("passes", "tokens/s", "flash per token", "the same with", "simulated"):
        assert part in result.out
    document = cli(*arguments, *options, "--json").json()
    assert document["kind"] == "plan" and document["choice"]["pipeline"].split("{")[0] in document["passes"]
    assert document["choice"]["tokens_per_second"] > document["dense"]["tokens_per_second"]
    cli("plan", model / "config.json", "--hw", "a18").fails(2, "no perplexity to keep within")
