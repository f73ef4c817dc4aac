"""Exported models in ONNX Runtime, beside the programs that they were made from."""

from __future__ import annotations

import json

import numpy as np
import torch
from torch import Tensor

from dipc.backends.eager import EagerSession
from dipc.backends.onnx import export as backend
from dipc.backends.onnx.names import input_names
from dipc.ir.program import Program
from kit.runs import relative
from kit.tiny_models import random_ids

PIECES = (7, 1, 1, 1)
ONE_LAYER = {"intermediate_size": 64, "num_hidden_layers": 1}


def bytes_of(program: Program, **options: bool) -> bytes:
    import onnx_ir

    model, _ = backend.to_ir(program, pipeline="as tested", **options)
    made: bytes = onnx_ir.to_proto(model).SerializeToString()
    return made


class Running:
    """An exported model in ONNX Runtime by its function bodies, with what it carries, as its metadata say."""

    def __init__(self, model: bytes | str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # ONNX Runtime makes MatMulNBits of our bodies, by default from 8-bit activations.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.metadata = dict(self.session.get_modelmeta().custom_metadata_map)
        self.carried = json.loads(self.metadata["dipc.carried"])
        self.inputs = [i.name for i in self.session.get_inputs()]
        self.outputs = [o.name for o in self.session.get_outputs()]
        self.state = {
            c["input"]: np.full([0 if isinstance(n, str) else n for n in c["shape"]], c["fill"], c["dtype"])
            for c in self.carried
        }
        self.position = 0

    def step(self, ids_T: Tensor, dense: bool = False) -> Tensor:
        count = len(ids_T)
        given = {
            "input_ids": ids_T[None].numpy(),
            "position_ids": np.arange(self.position, self.position + count)[None],
            "dense": np.full((1, count), dense),
        }
        feed = {n: v for n, v in given.items() if n in self.inputs} | self.state
        results = dict(zip(self.outputs, self.session.run(None, feed), strict=True))
        self.state = {c["input"]: results[c["output"]] for c in self.carried}
        self.position += count
        return torch.from_numpy(results["logits"][0])


def check_same(program: Program, running: Running, tolerance: float = 1e-4, reference: Program | None = None) -> None:
    """The same logits for a prompt and single tokens, and the same selection state after them."""
    eager, ids = EagerSession(reference or program), random_ids(sum(PIECES))
    for index, chunk in enumerate(ids.split(list(PIECES))):
        prompt = index == 0
        assert relative(running.step(chunk, prompt), eager.step(chunk, dense=prompt).logits) < tolerance
    names = input_names(program)
    for port in program.carried:
        got, want = torch.from_numpy(running.state[names[port.name]]), eager.state(port.name)
        if port.window is not None:
            # This caller drops nothing, the session what has left the window.
            assert got.shape[2] == sum(PIECES) and want.shape[2] == port.window
            got = got[:, :, -port.window :]
        if port.kind == "state":
            assert torch.equal(got, want)
        else:
            assert relative(got, want.float()) < tolerance


def calls_of(model: bytes) -> dict[str, int]:
    import onnx

    loaded = onnx.load_model_from_string(model)
    names = [n.op_type for n in loaded.graph.node if n.domain == "ai.dipc"]
    assert {f.name for f in loaded.functions} == set(names)
    return {n: names.count(n) for n in sorted(set(names))}
