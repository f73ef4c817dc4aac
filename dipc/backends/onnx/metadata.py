"""The metadata of an exported model: enough to run it with nothing but the file.

dipc.model, dipc.digest, dipc.context            the model it was made from, and the most tokens it takes
dipc.method, dipc.options, dipc.density, dipc.scope   the sparsification
dipc.eos_ids    JSON list: the tokens that end a text, any of them; those of the tokenizer do too
dipc.carried    JSON list: what goes from a call's outputs into the next call's inputs; each with `input`, `output`,
                `dtype` as numpy spells it (or bfloat16), `shape` (with "seq", "past" and "past_window" as symbols),
                `fill`, its value before the first call, and perhaps `window`, positions that its layer attends to
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor

from dipc.documents import first_problem
from dipc.errors import BadFile, MissingDependency
from dipc.ir.identity import Identity
from dipc.ir.program import PAST, Method

DOMAIN = "ai.dipc"
_Fill = bool | int | float


class Carried(BaseModel):
    """A value that a call hands to the next one."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")
    input: str
    output: str
    dtype: Literal["bool", "int64", "float32", "float16", "bfloat16"]
    shape: tuple[Annotated[int, Field(ge=0)] | Literal["past", "past_window", "seq"], ...]
    fill: _Fill
    window: Annotated[int, Field(ge=2)] | None = None

    @property
    def past_axis(self) -> int | None:
        """The dimension that counts past positions; None if there is none."""
        return next((i for i, extent in enumerate(self.shape) if extent in PAST), None)

    @property
    def of_text(self) -> bool:
        """Return whether it belongs to a text, as a KV cache does, and not to the selections."""
        return not self.input.startswith("past_selection.")

    def start(self) -> Tensor:
        """Its value before the first call."""
        shape = [0 if isinstance(extent, str) else extent for extent in self.shape]
        return torch.full(shape, self.fill, dtype=getattr(torch, self.dtype))


class Metadata(BaseModel):
    """The metadata of one file."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    model: str
    digest: str
    context: Annotated[int, Field(ge=1)]
    method: str
    options: str
    density: float
    scope: str
    eos_ids: tuple[int, ...] = ()
    carried: tuple[Carried, ...]

    def identity(self, backend: str, tokenizer: Any, vocab: int = 0) -> Identity:
        """The model that runs, as results name it; `vocab` is 0 where it is not known."""
        method = Method(self.method, self.density, self.scope, self.options)
        return Identity(self.model, self.digest, self.context, method, backend, tokenizer, vocab, self.eos_ids)

    def to_map(self) -> dict[str, str]:
        """As the key-value pairs of an ONNX file."""
        fields = json.loads(self.model_dump_json(exclude_none=True))
        return {f"dipc.{key}": value if isinstance(value, str) else json.dumps(value) for key, value in fields.items()}


def read_metadata(path: Path, pairs: Mapping[str, str]) -> Metadata:
    """The metadata in an ONNX file's key-value pairs.

    Args:
        path: for messages.
        pairs: the file's.

    Raises:
        BadFile: the file was not exported by dipc, or by one that says other things.
    """
    if "dipc.carried" not in pairs:
        raise BadFile(f"{path}: was not exported by dipc (its metadata has no dipc.carried)")
    found: dict[str, Any] = {name: pairs.get(f"dipc.{name}") for name in Metadata.model_fields}
    where = "eos_ids: "
    try:
        # Exports of an earlier dipc name no end tokens.
        found["eos_ids"] = TypeAdapter(tuple[int, ...]).validate_json(pairs.get("dipc.eos_ids", "[]"))
        where = "carried: "
        found["carried"] = TypeAdapter(tuple[Carried, ...]).validate_json(pairs["dipc.carried"])
        where = ""
        return Metadata(**found)
    except ValidationError as error:
        raise BadFile(f"{path}: metadata dipc.{where}{first_problem(error)}; export again") from None


def with_masks(path: Path) -> tuple[bytes, dict[str, str]]:
    """The model with every site's mask among its outputs; weights stay in their own file.

    Returns:
        The serialised model, and site -> name of the output.

    Raises:
        BadFile: not an ONNX model.
        MissingDependency: no onnx.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError:
        raise MissingDependency("recording an exported model's masks needs onnx: pip install 'dipc[onnx]'") from None

    try:
        model = onnx.load(str(path), load_external_data=False)
    except DecodeError:
        raise BadFile(f"{path}: damaged, or no ONNX model; export again") from None
    sites = _masks(model.graph.node)
    known = {value.name for value in model.graph.output}
    for name in sites.values():
        if name not in known:
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.BOOL, None))
    return model.SerializeToString(), sites


def _masks(nodes: Sequence[Any]) -> dict[str, str]:
    """Site -> the value that is its mask: the selection's, with the dense tokens put in where that comes after."""
    after = {node.input[0]: node.output[0] for node in nodes if node.op_type == "Or"}
    found = {}
    for node in nodes:
        site = next((a.s.decode() for a in node.attribute if a.name == "site"), None)
        if node.domain == DOMAIN and site is not None:
            found[site] = after.get(node.output[0], node.output[0])
    return found
