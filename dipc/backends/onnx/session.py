"""Run an exported model with ONNX Runtime, call after call, its KV cache and selection state carried along.

The file is the same with dipc's kernel library and without: a node of the domain `ai.dipc` runs on a registered kernel,
else by its function body. Values go in and out by DLPack, so nothing is copied between calls.

Shape legend: T tokens of a call.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from dipc.artifact.reader import read_tokenizer
from dipc.backends._backend import Kernels
from dipc.backends._kv_cache import Past, rewound
from dipc.backends._session import Step, check_call
from dipc.backends.onnx.metadata import Carried, Metadata, read_metadata, with_masks
from dipc.backends.onnx.runtime import MODEL, load_problem, onnxruntime_module, register_kernels
from dipc.errors import BadFile, UsageError
from dipc.frontend.tracer import first_line
from dipc.input_file import check_input

if TYPE_CHECKING:
    import onnxruntime

_EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"


@dataclass(frozen=True)
class RuntimeOptions:
    """How ONNX Runtime runs a model.

    Attributes:
        kernels: register dipc's kernel library: "auto" where it can be, True or fail, False never (function bodies).
        threads: of one operator; by default ONNX Runtime's choice, the physical cores.
        spinning: idle threads wait busily, which is faster and takes the cores from whatever else runs.
    """

    kernels: Kernels = "auto"
    threads: int | None = None
    spinning: bool = True


class OnnxSession:
    """A running exported model: a `Session` (dipc.backends._session).

    Args:
        path: the folder with `model.onnx`, or the file. A tokenizer beside it is taken along.
        record: also return every site's masks.
        options: how to run it.
        tokenizer: in place of the folder's.

    Raises:
        UsageError: no such file.
        BadFile: a file that is damaged, stands apart from its data, or was not exported by dipc.
        MissingDependency: no onnxruntime, or kernels are demanded and cannot be had.
    """

    def __init__(
        self, path: str | Path, *, record: bool = False, options: RuntimeOptions | None = None, tokenizer: Any = None
    ) -> None:
        self.path, options = model_file(path), options or RuntimeOptions()
        ort = onnxruntime_module()
        settings = ort.SessionOptions()
        library = register_kernels(settings, options.kernels)
        self._session, self._sites = _open(ort, self.path, settings, options, record)
        self.metadata: Metadata = read_metadata(self.path, self._session.get_modelmeta().custom_metadata_map)
        _check_inputs(self.path, self._session, self.metadata)
        backend = "onnx-bodies" if library is None else "onnx-kernels"
        found = tokenizer or _tokenizer(self.path.parent)
        self.identity = self.metadata.identity(backend, found, _vocabulary(self._session))
        self._asked = [port.name for port in self._session.get_inputs()]
        self._results = ["logits", *(c.output for c in self.metadata.carried), *self._sites.values()]
        self._pasts = {c.input: Past(c.past_axis, c.window) for c in self.metadata.carried}
        self._values: dict[str, Tensor] = {}
        self._position = 0
        try:
            self.reset()
        except (RuntimeError, OverflowError) as error:
            raise BadFile(f"{self.path}: what it carries cannot begin: {first_line(error)}; export again") from error

    def reset(self) -> None:
        """Forget everything: KV cache, selection state, weight cache."""
        self._values = {carried.input: carried.start() for carried in self.metadata.carried}
        self._position = 0

    def new_sequence(self) -> None:
        """Forget the text but keep the weight cache warm, as a device does between two prompts."""
        for carried in self.metadata.carried:
            if carried.of_text:
                self._values[carried.input] = carried.start()
        self._position = 0

    def rewind(self, position: int) -> bool:
        """Forget the tokens from `position` on; False, with nothing forgotten, where a weight cache is carried."""
        values = rewound(self._values, self._pasts, self._position, position)
        if values is None:
            return False
        self._values, self._position = values, position
        return True

    @property
    def position(self) -> int:
        """Tokens seen in this sequence."""
        return self._position

    def state(self, name: str) -> Tensor:
        """The present value of a carried input, under its name in the file."""
        return self._values[name]

    def step(self, ids: Sequence[int] | Tensor, *, dense: bool = False) -> Step:
        """Feed tokens [T]; `dense` leaves them dense where the program's scope is `decode`.

        Raises:
            UsageError: no token, or more than the model's context holds.
        """
        ids_T = torch.as_tensor(ids, dtype=torch.long)
        count = len(ids_T)
        check_call(count, self._position, self.identity.context)
        given = {
            **{name: self._pasts[name].fed(value) for name, value in self._values.items()},
            "input_ids": ids_T[None],
            "position_ids": torch.arange(self._position, self._position + count)[None],
            "dense": torch.full((1, count), dense),
        }
        logits, *others = self._run({name: given[name] for name in self._asked})
        kept, masks = others[: len(self._values)], others[len(self._values) :]
        self._values = {n: self._pasts[n].kept(value, count) for n, value in zip(self._values, kept, strict=True)}
        self._position += count
        return Step(logits[0].float(), {site: mask[0] for site, mask in zip(self._sites, masks, strict=True)})

    def _run(self, given: dict[str, Tensor]) -> list[Tensor]:
        from onnxruntime import OrtValue

        feed = {name: OrtValue.from_dlpack(value.contiguous()) for name, value in given.items()}
        return [from_dlpack(value) for value in self._session.run_with_ort_values(self._results, feed)]


def model_file(path: str | Path) -> Path:
    """The `.onnx` file that a path means. UsageError if there is none."""
    path = Path(path)
    file = path / MODEL if os.path.isdir(path) else path
    try:
        check_input(file)
    except FileNotFoundError:
        raise UsageError(f"{file}: no such file; `dipc export` makes one") from None
    return file


def _open(
    ort: Any, path: Path, settings: onnxruntime.SessionOptions, options: RuntimeOptions, record: bool
) -> tuple[onnxruntime.InferenceSession, dict[str, str]]:
    """The session, and site -> name of the output with its mask if they are recorded."""
    # What goes wrong is raised as well; the log would print it a second time, in colours.
    settings.log_severity_level = 4
    settings.add_session_config_entry("session.intra_op.allow_spinning", str(int(options.spinning)))
    if options.threads is not None:
        settings.intra_op_num_threads = options.threads
    model: str | bytes = str(path)
    sites: dict[str, str] = {}
    if record:
        model, sites = with_masks(path)
        settings.add_session_config_entry(_EXTERNAL_FOLDER, str(path.parent.resolve()))
    try:
        return ort.InferenceSession(model, settings, providers=["CPUExecutionProvider"]), sites
    except Exception as error:
        raise BadFile(f"{path}: {load_problem(error)}") from error


def _check_inputs(path: Path, session: onnxruntime.InferenceSession, metadata: Metadata) -> None:
    """BadFile unless inputs and outputs are those of the metadata."""
    inputs, outputs = ({port.name for port in ports} for ports in (session.get_inputs(), session.get_outputs()))
    known = {"input_ids", "position_ids", "dense", *(c.input for c in metadata.carried)}
    strange = sorted(inputs - known) + sorted({"logits", *(c.output for c in metadata.carried)} - outputs)
    if strange:
        raise BadFile(f"{path}: {strange[0]} does not fit what it says it carries; it was changed after the export")
    ports = {port.name: port for port in session.get_inputs()}
    for carried in metadata.carried:
        if not _fits(carried, ports.get(carried.input)):
            raise BadFile(f"{path}: {carried.input} is of another type than it says; it was changed after the export")


def _fits(carried: Carried, port: Any) -> bool:
    """Return whether an input of the model takes the value that is carried to it; one that there is not takes any."""
    if port is None:
        return True
    kinds = {
        "tensor(float)": "float32",
        **{f"tensor({name})": name for name in ("bool", "int64", "float16", "bfloat16")},
    }
    extents = zip(carried.shape, port.shape, strict=False)
    sizes = all(not isinstance(own, int) or own == stated for stated, own in extents)
    return kinds.get(port.type) == carried.dtype and len(port.shape) == len(carried.shape) and sizes


def _vocabulary(session: onnxruntime.InferenceSession) -> int:
    """The logits of a token, one for each that the model knows; 0 where the file does not say."""
    logits = next(port for port in session.get_outputs() if port.name == "logits")
    return logits.shape[-1] if logits.shape and isinstance(logits.shape[-1], int) else 0


def _tokenizer(folder: Path) -> Any:
    if not (folder / "tokenizer.json").is_file() and not (folder / "tokenizer_config.json").is_file():
        return None
    return read_tokenizer(folder)
