"""Programs on another device: fake CUDA tensors know where they are, and refuse to meet one that is elsewhere.

There is no value in them either, so whatever asks for one, and so would wait for the device, fails.
"""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map_only

from dipc.api import compile, evaluate, generate
from dipc.backends.eager import EagerSession
from dipc.errors import UsageError
from dipc.ir.operators import OPERATORS
from dipc.ir.placement import choose_device, place
from kit.letters import TEXT, lettered
from kit.tiny_models import random_ids, tiny_llama

CUDA = torch.device("cuda:0")


@pytest.mark.parametrize("passes", ["outline-glu", "dip", "dip-ca{scope=decode}", "gate", "wina"])
def test_a_step_runs_where_the_weights_are(passes: str) -> None:
    program, ids = compile(tiny_llama(), passes).program, random_ids(5)
    with FakeTensorMode() as mode:
        both = {**program.reference.weights, **program.weights}
        fake = {name: mode.from_tensor(weight) for name, weight in both.items()}
        dense = program.dense and program.dense.replace(weights={n: fake[n] for n in program.dense.weights})
        program = program.replace(weights={n: fake[n] for n in program.weights}, dense=dense)
        placed = place(program, CUDA)
        assert {w.device for w in placed.weights.values()} == {CUDA}
        if placed.dense is not None:
            assert all(w is placed.weights[n] for n, w in placed.dense.weights.items() if n in placed.weights)
        session = EagerSession(placed, record=True)
        for tokens, dense_step in ((mode.from_tensor(ids), True), ([7], False)):
            step = session.step(tokens, dense=dense_step)
            assert step.logits.device == CUDA and all(m.device == CUDA for m in step.masks.values())
        assert all(session.state(port.name).device == CUDA for port in placed.carried)
        session.new_sequence()
        session.step([7])


@pytest.mark.parametrize("name", ["select-topk", "select-cache-aware", "gather-linear", "row-linear", "glu"])
def test_operators_compute_where_their_arguments_are_and_wait_for_nothing(name: str) -> None:
    operator = OPERATORS.get(name)
    examples = operator.examples(torch.Generator().manual_seed(0), 4, 8)
    with FakeTensorMode() as mode:
        for arguments in examples:
            fake = tree_map_only(torch.Tensor, lambda t: mode.from_tensor(t).to(CUDA), list(arguments))
            made = (operator.kernel or operator.reference)(*fake)
            assert {t.device for t in tree_leaves(made)} == {CUDA}


def test_a_program_on_the_cpu_stays_as_it_is() -> None:
    program = compile(tiny_llama(), "dip").program
    assert place(program, "cpu") is program
    if not torch.cuda.is_available():
        assert place(program, "auto") is program


@pytest.mark.parametrize("name", ["gpu", "cpu:1", "cuda:x", "mps", "", "cuda:99"])
def test_devices_that_are_not_there(name: str) -> None:
    with pytest.raises(UsageError, match=f"no device '{name}'"):
        choose_device(name)
    with pytest.raises(UsageError, match="no device"):
        evaluate(lettered("dip"), TEXT, device=name)
    with pytest.raises(UsageError, match="no device"):
        generate(lettered("dip"), "a", device=name)
