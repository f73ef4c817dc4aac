"""Sliding windows in ONNX Runtime: the session drops what has left a window; who drops nothing is right too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dipc.api import Program, capture
from dipc.backends.eager import EagerSession
from dipc.backends.onnx.session import OnnxSession, RuntimeOptions
from kit.runs import relative
from kit.tiny_models import random_ids, tiny_model

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from dipc.backends.onnx.export import export  # noqa: E402

WINDOW, TOLERANCE = 8, 2e-5
BODIES = RuntimeOptions(kernels=False, threads=1)
Exported = tuple[nn.Module, Program, Path]


@pytest.fixture(scope="module", params=["gemma3_text", "mistral"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Layers with a window beside such without, and windows alone."""
    options: dict[str, Any] = {"sliding_window": WINDOW}
    if request.param == "gemma3_text":
        options |= {"head_dim": 8, "layer_types": ["sliding_attention", "full_attention"]}
    model = tiny_model(request.param, **options)
    program, folder = capture(model, name=request.param), tmp_path_factory.mktemp("onnx") / "model"
    export(program, folder)
    return model, program, folder


def test_the_logits_are_those_of_transformers_and_the_window_is_kept(exported: Exported) -> None:
    model, program, folder = exported
    ids = random_ids(40)
    with torch.no_grad():
        expected = model(ids[None]).logits[0].float()
    session, eager = OnnxSession(folder, options=BODIES), EagerSession(program)
    for pieces in ([ids], [ids[:20], *ids[20:].split(1)], ids.split(7)):
        session.new_sequence()
        assert relative(torch.cat([session.step(p).logits for p in pieces]), expected) <= TOLERANCE
    session.new_sequence()
    for piece in (ids[:30], ids[30:31]):
        session.step(piece)
        eager.step(piece)
    for port, carried in zip(program.carried, session.metadata.carried, strict=True):
        assert session.state(carried.input).shape == eager.state(port.name).shape
        assert session.state(carried.input).shape[2] == (WINDOW if port.window else 31)
    assert not session.rewind(10)
    assert session.rewind(30) and relative(session.step(ids[30:]).logits, expected[30:]) <= TOLERANCE


def test_what_a_file_says_of_its_windows(exported: Exported) -> None:
    _, program, folder = exported
    model = onnx.load(str(folder / "model.onnx"))
    carried = json.loads({p.key: p.value for p in model.metadata_props}["dipc.carried"])
    sizes = {i.name: [d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.input}
    assert len(carried) == len(program.carried)
    for port, item in zip(program.carried, carried, strict=True):
        past = "past" if port.window is None else "past_window"
        assert item["shape"] == sizes[item["input"]] == [1, 2, past, 8]
        assert item.get("window") == port.window


def test_a_caller_that_drops_nothing_gets_the_same(exported: Exported) -> None:
    """The masks of a file go by the window: its inputs may be longer than they need be."""
    import onnxruntime

    model, _, folder = exported
    ids = random_ids(40)
    with torch.no_grad():
        expected = model(ids[None]).logits[0].float()
    running = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    names = [o.name for o in running.get_outputs()]
    feed = {c.input: c.start().numpy() for c in OnnxSession(folder, options=BODIES).metadata.carried}
    logits = []
    for start, piece in zip(range(0, 40, 10), ids.split(10), strict=True):
        positions = torch.arange(start, start + 10)[None]
        given = {"input_ids": piece[None].numpy(), "position_ids": positions.numpy()}
        found = dict(zip(names, running.run(None, given | feed), strict=True))
        logits.append(torch.from_numpy(found["logits"][0]))
        feed = {name: found[name.replace("past_key_values", "present")] for name in feed}
    assert relative(torch.cat(logits), expected) <= TOLERANCE
