"""Read a LoRA checkpoint of PEFT, and fold it into matrices with PEFT's own arithmetic.

Only what ends up in the weights of linear layers can be folded. Anything else that a checkpoint may hold changes the
computation in another way, so it is refused by name rather than left out. Nothing is unpickled.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dipc.documents import JsonObject, read_json
from dipc.errors import BadFile
from dipc.frontend.tracer import first_line, quiet
from dipc.input_file import check_input, is_there, memory_bytes, read_input
from dipc.tuning.lora.adapter import CONFIG, RECORD, TENSORS, LinearLayer, lora_layer, peft_module, skeleton

RECORD_SCHEMA = 1
_MOST_JSON_BYTES = 1 << 24
_MATRIX = re.compile(r"base_model\.model\.(.+)\.(lora_A\.weight|lora_B\.weight|lora_magnitude_vector(?:\.weight)?)")
# Fields of a LoraConfig that say where adapters are, how they are scaled, or how they were trained.
_FOLDABLE = {
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "peft_type",
    "peft_version",
    "r",
    "rank_pattern",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "use_dora",
    "use_rslora",
}
# The others take a part of the base weights, which the checkpoint does not hold.
_INITIALISATIONS = (True, False, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class Checkpoint:
    """A LoRA checkpoint.

    Attributes:
        folder: where it is.
        config: its configuration as PEFT takes it.
        tensors: the adapters' matrices, under PEFT's names.
        copies: weights of the model itself that PEFT saved with them; it does so beside an adapted head.
        record: what dipc wrote of an adapter that it trained; empty for another's.
    """

    folder: Path
    config: Any
    tensors: Mapping[str, Tensor]
    copies: Mapping[str, Tensor]
    record: Mapping[str, Any]

    @property
    def modules(self) -> list[str]:
        """Paths of the layers that it adapts."""
        return list(dict.fromkeys(_parse(key)[0] for key in self.tensors))

    @classmethod
    def load(cls, folder: Path) -> Checkpoint:
        """Read a folder.

        Raises:
            BadFile: it is no PEFT checkpoint, damaged, or holds what cannot be folded.
            MissingDependency: no peft.
        """
        config, tensors = _config(folder), _tensors(folder)
        adapters = {key: tensor for key, tensor in tensors.items() if _MATRIX.fullmatch(key)}
        others = {key: tensor for key, tensor in tensors.items() if key not in adapters}
        return cls(folder, config, adapters, others, read_record(folder))

    def merged(self, layers: Mapping[str, LinearLayer], weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Path and new matrix [O, I] of every adapted layer: W + scale B A, or what the variant of LoRA makes of them.

        Raises:
            BadFile: an adapter does not fit its layer, or the result is not finite.
        """
        self._check_fit(layers, weights)
        chosen = {path: layers[path] for path in self.modules}
        model = self._wrapped(skeleton(layers, weights))
        for path, layer in chosen.items():
            lora = lora_layer(model, path)
            lora.base_layer.weight = nn.Parameter(layer.matrix(weights).clone(), requires_grad=False)
            lora.merge()
            matrix = lora.base_layer.weight.detach()
            if matrix.device.type != "meta" and not bool(matrix.isfinite().all()):
                raise BadFile(f"{self.folder / TENSORS}: {path} would have weights that are not finite")
            yield path, matrix
            lora.base_layer.weight = None

    def _check_fit(self, layers: Mapping[str, LinearLayer], weights: Mapping[str, Tensor]) -> None:
        where = self.folder / TENSORS
        for key, tensor in self.tensors.items():
            path, part = _parse(key)
            if path not in layers:
                raise BadFile(f"{where}: adapts {path}, which is no linear layer of this model")
            outputs, inputs = layers[path].shape(weights)
            wanted, found = (inputs, tensor.shape[-1]) if part == "lora_A.weight" else (outputs, tensor.shape[0])
            if wanted != found:
                raise BadFile(
                    f"{where}: {key} is {tuple(tensor.shape)}, which does not fit the layer's {outputs} x {inputs}"
                )

        for key, tensor in self.copies.items():
            name = key.removeprefix("base_model.model.").replace(".base_layer.", ".")
            layer = layers.get(name.removesuffix(".weight"))
            own = weights.get(name) if layer is None else layer.matrix(weights)
            if own is None or own.shape != tensor.shape or not _same(own, tensor):
                raise BadFile(f"{where}: {key} is no adapter of a linear layer and cannot be folded into one")

    def _wrapped(self, base: nn.Module) -> Any:
        """PEFT's model around the skeleton, the checkpoint's matrices in it."""
        peft = peft_module()
        try:
            with torch.random.fork_rng(devices=[]), quiet():
                model = peft.get_peft_model(base, self.config)
                found = peft.set_peft_model_state_dict(model, dict(self.tensors))
        except Exception as error:
            raise BadFile(f"{self.folder}: PEFT cannot load it: {first_line(error)}") from None
        missing = [key for key in found.missing_keys if "lora_" in key]
        if missing or found.unexpected_keys:
            key = (missing or found.unexpected_keys)[0]
            problem = (
                f"{TENSORS} lacks {key}, which it asks for" if missing else f"{TENSORS} has {key}, which it does not"
            )
            raise BadFile(f"{self.folder / CONFIG}: {problem}")
        return model


def read_record(folder: Path) -> JsonObject:
    """Read what dipc wrote of an adapter that it trained; empty for another's. BadFile where it is damaged."""
    where = folder / RECORD
    if not is_there(where):
        return {}
    record = read_json(_bytes(where), where)
    recipe = record.get("recipe")
    if record.get("kind") != "adapter" or not isinstance(recipe, dict) or not {"model", "digest"} <= set(recipe):
        raise BadFile(f"{where}: is no record of an adapter that dipc trained")
    if record.get("schema") != RECORD_SCHEMA:
        raise BadFile(f"{where}: has schema {record.get('schema')}, and this dipc reads {RECORD_SCHEMA}; upgrade dipc")
    return record


def _config(folder: Path) -> Any:
    where = folder / CONFIG
    if not is_there(folder):
        raise BadFile(f"{folder}: no such folder; an adapter is a folder with {CONFIG} and {TENSORS}")
    if not is_there(where):
        raise BadFile(f"{folder}: has no {CONFIG}, so it is no PEFT checkpoint")
    given = read_json(_bytes(where), where)
    if given.get("peft_type") != "LORA":
        raise BadFile(f"{where}: is of the kind {given.get('peft_type')}; only LORA can be folded into weights")
    peft = peft_module()
    defaults = peft.LoraConfig().to_dict()
    for name, value in given.items():
        if name == "init_lora_weights":
            if value not in _INITIALISATIONS:
                raise BadFile(
                    f"{where}: {name}={value} goes with changed base weights, which only PEFT can save (merge)"
                )
        elif name not in _FOLDABLE and value != defaults.get(name) and (name in defaults or value):
            raise BadFile(f"{where}: {name}={value} is not a part of the weights and cannot be folded into them")
    # Of the rest, PEFT would ask the skeleton for what only a whole language model has.
    apart = ("init_lora_weights", "runtime_config", "task_type")
    kept = {name: value for name, value in given.items() if name in defaults and name not in apart}
    try:
        return peft.LoraConfig(**{**kept, "inference_mode": True})
    except Exception as error:
        raise BadFile(f"{where}: PEFT cannot read it: {first_line(error)}") from None


def _tensors(folder: Path) -> dict[str, Tensor]:
    where = folder / TENSORS
    if not where.is_file():
        if (folder / "adapter_model.bin").is_file():
            raise BadFile(
                f"{folder}: adapter_model.bin is a pickle, which may run code; load it with PEFT and save it anew"
            )
        raise BadFile(f"{folder}: has no {TENSORS}")
    try:
        check_input(where, memory_bytes())
        tensors = load_file(where)
    except (OSError, SafetensorError, TypeError, KeyError, ValueError, RuntimeError) as error:
        raise BadFile(f"{where}: cannot be read: {first_line(error)}") from None
    if not tensors:
        raise BadFile(f"{where}: holds nothing")
    return tensors


def _parse(key: str) -> tuple[str, str]:
    """The path of the layer and the part of the adapter that a matrix's name gives."""
    found = _MATRIX.fullmatch(key)
    assert found is not None
    return found[1], found[2]


def _same(own: Tensor, copy: Tensor) -> bool:
    return own.device.type == "meta" or torch.equal(own.to(copy.dtype), copy)


def _bytes(path: Path) -> bytes:
    try:
        return read_input(path, _MOST_JSON_BYTES)
    except FileNotFoundError:
        raise BadFile(f"{path}: there is no such file") from None
