"""`fuse-lora`: fold LoRA adapters into the weights (Eq. 9), so that the compiled model has none and pays for none."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import fx

from dipc.errors import BadFile, UsageError
from dipc.ir.operator import is_stored_in_parts
from dipc.ir.program import Program
from dipc.pipeline.pass_ import Pass, PassResult
from dipc.tuning.lora.adapter import adapted_name, linear_layers
from dipc.tuning.lora.adapter_file import Checkpoint


@dataclass(frozen=True)
class FuseLora(Pass):
    """Fold a PEFT checkpoint into the weights: one that `dipc finetune` trained, or any other.

    An adapter that recovers what sparsity loses is no part of the model that results are compared with; any other is.

    Attributes:
        adapter: the folder, with adapter_config.json and adapter_model.safetensors.
    """

    requires: ClassVar[tuple[str, ...]] = ("outline-glu",)
    # An adapter is there to change the numbers; only NaN is wrong.
    tolerance: ClassVar[float] = math.inf
    adapter: str | None = None

    def run(self, program: Program) -> PassResult:
        """Rewrite all linear layers that the adapter names.

        Raises:
            UsageError: no adapter is given, or a method or a rounding came first.
            BadFile: the adapter cannot be read, folded, or is of another model.
            MissingDependency: no peft.
        """
        self._check_order(program)
        if self.adapter is None:
            raise UsageError(f"{self.name}: which adapter? write {self.name}{{adapter=FOLDER}}")
        checkpoint = Checkpoint.load(Path(self.adapter))
        _check_model(checkpoint, program)
        after = self._folded(program, checkpoint)
        dense = program.dense
        if checkpoint.record:
            dense = program.reference
        elif dense is not None:
            dense = self._folded(dense, checkpoint)
        return PassResult(after.replace(dense=dense), tuple(checkpoint.modules))

    def _check_order(self, program: Program) -> None:
        if program.method.name != "dense":
            raise UsageError(f"{self.name}: {program.method.name} ran before; put {self.name} first, then the method")
        if any(is_stored_in_parts(n) for n in program.graph.nodes):
            raise UsageError(f"{self.name}: weights are rounded or pruned for good; put {self.name} first")

    def _folded(self, program: Program, checkpoint: Checkpoint) -> Program:
        graph, weights = program.edit(), dict(program.weights)
        layers = linear_layers(graph)
        renamed: dict[str, str] = {}
        for path, matrix in checkpoint.merged(layers, program.weights):
            parts = matrix.split(layers[path].rows(program.weights))
            for (name, readers), part in zip(layers[path].readers.items(), parts, strict=True):
                # A matrix that several layers share is the others' as it was.
                new = adapted_name(name if name.startswith(path) else path)
                weights[new] = part
                _redirect(graph, readers, name, new)
                renamed[name] = new
        mlps = tuple(
            dataclasses.replace(m, **{k: renamed.get(getattr(m, k), getattr(m, k)) for k in ("gate", "up", "down")})
            for m in program.mlps
        )
        options = ",".join(filter(None, (program.method.options, str(self))))
        method = dataclasses.replace(program.method, options=options)
        return program.replace(graph=graph, weights=weights, mlps=mlps, method=method)


def _redirect(graph: fx.Graph, readers: list[fx.Node], old: str, new: str) -> None:
    """Let the readers of a weight take another."""
    for value in list(graph.find_nodes(op="get_attr", target=old)):
        with graph.inserting_before(value):
            node = graph.get_attr(new)
        node.meta = dict(value.meta)
        for reader in readers:
            reader.replace_input_with(value, node)
        for unused in (n for n in (value, node) if not n.users):
            graph.erase_node(unused)


def _check_model(checkpoint: Checkpoint, program: Program) -> None:
    recipe = checkpoint.record.get("recipe")
    # A model without weights has a digest of its own.
    if recipe and program.info.has_weights and recipe["digest"] != program.info.digest:
        raise BadFile(
            f"{checkpoint.folder}: was trained for {recipe['model']} ({recipe['digest']}), "
            f"not for {program.info.name} ({program.info.digest})"
        )
