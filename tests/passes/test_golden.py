"""Golden files: the text of one rewritten MLP for every method, ports and outputs included.

A change in what a method writes shows here as a diff to read. `pytest tests/passes --update-golden` accepts it.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from dipc.pipeline.pass_ import PASSES
from dipc.pipeline.runner import run_pipeline
from dipc.pipeline.sparsity_pass import SparsityPass
from dipc.pipeline.text import parse_pipeline
from kit.paths import TESTS
from kit.tiny_models import one_glu

GOLDEN = TESTS / "golden"
BUILT_IN = [n for n in PASSES.builtin() if issubclass(PASSES.get(n), SparsityPass)]


@pytest.mark.parametrize("scope", ["all", "decode"])
@pytest.mark.parametrize("name", BUILT_IN)
def test_the_graph_of_a_method(name: str, scope: str, request: pytest.FixtureRequest) -> None:
    generator = torch.Generator().manual_seed(0)
    gate, up = (torch.randn(6, 4, generator=generator) for _ in range(2))
    program = one_glu(gate, up, torch.randn(4, 6, generator=generator), "silu")
    # As from a config alone, for which methods need no calibration.
    weights = {name: weight.to("meta") for name, weight in program.weights.items()}
    program = program.replace(weights=weights, info=dataclasses.replace(program.info, has_weights=False))
    text = run_pipeline(program, parse_pipeline(f"{name}{{scope={scope}}}")).program.text()
    file = GOLDEN / f"{name}-{scope}.txt"
    if request.config.getoption("--update-golden"):
        file.write_text(text, encoding="utf-8")
    assert file.is_file(), f"no {file.name}: run with --update-golden and read what it writes"
    assert text == file.read_text(encoding="utf-8")
