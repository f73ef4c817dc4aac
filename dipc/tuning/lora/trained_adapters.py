"""The adapters of a sparse program, made and saved by PEFT, while dipc trains them.

There is one for each linear layer of the original model that the method reads sparsely: up, gate and down for DIP, up
and down for CATS, as in the paper. What decides the masks, or is read whole, stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from dipc.errors import UsageError
from dipc.ir.program import Program
from dipc.ir.selections import reads_of
from dipc.ir.weight_parts import values_per_entry
from dipc.tuning.lora.adapter import ADAPTER, TENSORS, linear_layers, lora_layer, peft_module, skeleton
from dipc.tuning.lora.trainable import Adapted

_MATRICES = ("gate", "up", "down")


class TrainedAdapters:
    """Adapters for what a program reads by a mask; at first they change nothing.

    A projection that holds gate and up in one matrix has one adapter, of which each half gets its rows.

    Args:
        program: sparse, its weights neither rounded nor pruned for good.
        rank: of each adapter.
        seed: of the random matrices.

    Raises:
        UsageError: weights are rounded or pruned for good, or the program reads no weight of an MLP by a mask.
        MissingDependency: no peft.
    """

    def __init__(self, program: Program, rank: int, seed: int) -> None:
        peft = peft_module()
        dense = program.reference
        layers = linear_layers(dense.graph)
        places: dict[str, tuple[str, int]] = {}
        for path, layer in layers.items():
            rows = layer.rows(dense.weights)
            places |= {name: (path, sum(rows[:i])) for i, name in enumerate(layer.readers)}
        found = {weight: places[name] for weight, name in _pruned(program).items()}
        self.modules = tuple(sorted({path for path, _ in found.values()}))
        config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=_shortest(self.modules, layers))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._model: Any = peft.get_peft_model(skeleton(layers, dense.weights), config)
        self.adapted = {
            weight: self._adapted(program.weights[weight], path, first) for weight, (path, first) in found.items()
        }

    def _adapted(self, weight: torch.Tensor, path: str, first: int) -> Adapted:
        lora = lora_layer(self._model, path)
        return Adapted(weight, lora.lora_A[ADAPTER].weight, lora.lora_B[ADAPTER].weight, lora.scaling[ADAPTER], first)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that are trained, by name."""
        return {name: p for name, p in self._model.named_parameters() if p.requires_grad}

    def save(self, folder: Path, model: str) -> None:
        """Write PEFT's two files into a folder, for the model of that name."""
        state = peft_module().get_peft_model_state_dict(self._model, save_embedding_layers=False)
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / TENSORS, {"format": "pt"})
        config = self._model.peft_config[ADAPTER]
        config.task_type, config.base_model_name_or_path, config.inference_mode = "CAUSAL_LM", model, True
        config.target_modules = sorted(config.target_modules)
        config.save_pretrained(folder)


def _pruned(program: Program) -> dict[str, str]:
    """Weight of a gated MLP that is read by a mask -> its name in the dense program."""
    if values_per_entry(program.graph):
        raise UsageError(
            f"{program.method.options}: weights are rounded or pruned for good; train adapters without that, then "
            "compile with fuse-lora first and that last"
        )
    read = {read.weight for node in program.graph.nodes for read in reads_of(node) if read.mask is not None}
    pairs = zip(program.mlps, program.reference.mlps, strict=True)
    found = {getattr(own, m): getattr(dense, m) for own, dense in pairs for m in _MATRICES if getattr(own, m) in read}
    if not found:
        raise UsageError(
            f"{program.method.options or 'the pipeline'}: reads no MLP sparsely; name a method, such as dip"
        )
    return found


def _shortest(modules: tuple[str, ...], layers: Mapping[str, object]) -> list[str]:
    """The layers' own names (`up_proj`) where they mean just these layers, else their paths."""
    leaves = {path.rpartition(".")[2] for path in modules}
    alike = {path for path in layers if path.rpartition(".")[2] in leaves}
    return sorted(leaves) if alike == set(modules) else list(modules)
