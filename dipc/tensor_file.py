"""dipc's own tensor files (traces, calibrations): safetensors whose header names format and schema and holds JSON."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from dipc.errors import BadFile
from dipc.files import write_whole
from dipc.input_file import check_input, memory_bytes


@dataclass(frozen=True)
class TensorFormat:
    """One kind of file.

    Attributes:
        kind: what messages call it; the header's `format` is `dipc.KIND`.
        schema: the newest that is read, and what is written.
        make: what to do where there is none.
        again: what to do about a damaged one.
        framework: of the tensors: `numpy` or `pt`.
    """

    kind: str
    schema: int
    make: str
    again: str
    framework: Literal["numpy", "pt"]

    def write(self, path: Path, tensors: dict[str, Any], objects: dict[str, Any]) -> None:
        """Write tensors, and JSON objects by their names in the header. UsageError if that cannot be done."""
        from safetensors import numpy, torch

        save: Any = numpy.save if self.framework == "numpy" else torch.save
        header = {"format": f"dipc.{self.kind}", "schema": str(self.schema)}
        header |= {name: json.dumps(value) for name, value in objects.items()}
        write_whole(path, lambda part: part.write_bytes(save(tensors, header)))

    def read(self, path: Path, *names: str, mapped: bool = False) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The tensors, and the JSON objects of those names.

        Args:
            path: the file.
            names: of the objects.
            mapped: leave the tensors in the file, as a read-only map of it, which needs no memory; bytes alone.

        Raises:
            BadFile: there is no such file, or it is damaged, of another kind or of a newer schema.
        """
        header, tensors = self._open(path, mapped)
        if header.get("format") != f"dipc.{self.kind}":
            raise BadFile(f"{path}: not a {self.kind}; {self.make}")
        schema = header.get("schema", "")
        if not re.fullmatch("[1-9][0-9]{0,8}", schema):
            raise BadFile(f"{path}: {self.kind} schema {schema[:20]!r} is no number; {self.again}")
        if int(schema) > self.schema:
            raise BadFile(
                f"{path}: {self.kind} schema {schema} is newer than {self.schema}, which this dipc reads; update dipc"
            )
        return tensors, [self._object(path, header, name) for name in names]

    def _open(self, path: Path, mapped: bool) -> tuple[dict[str, str], dict[str, Any]]:
        try:
            check_input(path, None if mapped else memory_bytes())
            with safe_open(path, framework=self.framework) as file:
                names = file.keys()
                tensors = _mapped(path) if mapped else {name: file.get_tensor(name) for name in names}
                return file.metadata() or {}, tensors
        except FileNotFoundError as error:
            raise BadFile(f"{path}: there is no such {self.kind}; {self.make}") from error
        except OSError as error:
            raise BadFile(f"{path}: cannot be read: {error.strerror or error}") from error
        except (SafetensorError, TypeError, KeyError, ValueError, RuntimeError) as error:
            raise BadFile(f"{path}: damaged, or not a {self.kind} ({error}); {self.again}") from error

    def _object(self, path: Path, header: dict[str, str], name: str) -> dict[str, Any]:
        try:
            value = json.loads(header.get(name, ""))
        except (ValueError, RecursionError) as error:
            raise BadFile(f"{path}: its header {name!r} is no JSON; {self.again}") from error
        if not isinstance(value, dict):
            raise BadFile(f"{path}: its header {name!r} is no JSON object; {self.again}")
        return value


def _mapped(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The byte tensors of a file whose header was checked, as views of a map; to write to one is an error."""
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(start - 8))
    header.pop("__metadata__", None)
    content = np.memmap(path, np.uint8, "r") if header else np.zeros(0, np.uint8)
    tensors = {}
    for name, about in header.items():
        begin, end = about["data_offsets"]
        if about["dtype"] != "U8":
            raise ValueError(f"a tensor of {about['dtype']}, where bytes are mapped")
        tensors[name] = np.asarray(content[start + begin : start + end]).reshape(about["shape"])
    return tensors
