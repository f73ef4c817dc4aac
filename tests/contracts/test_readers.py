"""The contract of every reader: whatever a file is or holds, it is read, or refused in a line; nothing waits or runs.

A new reader is a line of READERS. Those of models, tokenizers and texts have tests of their own (tests/frontend,
tests/text, tests/evaluation); a line here adds these to them.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dipc import input_file
from dipc.artifact.graph_json import graph_from_json, graph_to_json
from dipc.artifact.manifest import NAME as MANIFEST
from dipc.artifact.manifest import read_manifest
from dipc.artifact.reader import file_record, load
from dipc.artifact.writer import save
from dipc.calibration.file import PARTS, Calibration
from dipc.cli.errors import LONGEST, one_line
from dipc.documents import json_bytes, read_json
from dipc.errors import BadFile, DipcError, UsageError
from dipc.hardware.find import load_device, validate_device
from dipc.memory.synthetic.activity import DEFAULT, ActivityModel
from dipc.memory.trace import Trace
from dipc.registry import load_plugin
from dipc.report.html import write_report
from dipc.report.study_file import read_study
from dipc.studies.compare.result import Figures
from dipc.studies.engine.folder import Folder, Layout
from dipc.tuning.lora.adapter_file import Checkpoint
from dipc.tuning.lora.training_file import Recipe, TrainingFile
from kit.damage import Form, changed_document, damaged
from kit.handmade_calibration import tiny_calibration
from kit.made_up_study import study_document
from kit.tiny_models import outlined
from kit.traces import uniform_trace

UFS = Path(__file__).parents[2] / "dipc" / "hwmodels" / "ufs-4.0.yaml"
LAYOUT = Layout("comparison", "comparison.json", "cells")
FIGURES = Figures(3.0, 1.0, 0.1, 0.5, None, 1e6, 1e5, 10.0)
RECIPE = Recipe("tiny", "0" * 16, "dip", "0" * 16, "text", "0" * 16, 4, 10, 1, 32, 1e-3, 0)


@dataclass(frozen=True)
class Reader:
    """Reads a file of one kind.

    Attributes:
        make: writes a good one, and whatever belongs to it, into a folder; returns its path.
        read: reads it, and makes use of what it says.
        form: how it is written.
        newer: what a later version of it says, and what becomes of this one's then; None where it has no version.
        absent: the exit code where there is none; 0 where that is no error.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], object]
    form: Form
    newer: tuple[bytes, bytes] | None = None
    absent: int = 5


def _copied(source: Path, name: str) -> Callable[[Path], Path]:
    return lambda folder: Path(shutil.copyfile(source, folder / name))


def _device(path: Path) -> None:
    validate_device(path)
    found = load_device(path)
    assert found.assumptions() and found.flash_bandwidth(4096) > 0


def _make_trace(folder: Path) -> Path:
    path = folder / "trace.safetensors"
    uniform_trace({"layers.0.input": 20, "layers.0.glu": 9}, {"layers.0.input": 5, "layers.0.glu": 3}, 8, 0).save(path)
    return path


def _trace(mapped: bool) -> Callable[[Path], object]:
    def read(path: Path) -> None:
        found = Trace.load(path, mapped=mapped)
        assert all(0 <= found.density(site) <= 1 for site in found.sites)

    return read


def _calibration(path: Path) -> None:
    found = Calibration.load(path)
    assert set(found.parts) <= set(PARTS) and len(found.mlps) >= 0
    _ = found.allocation


def _make_study(folder: Path) -> Path:
    path = folder / "study.json"
    path.write_bytes(json_bytes(study_document()))
    return path


def _report(path: Path) -> None:
    write_report(path, path.parent / "page.html", perfetto=path.parent / "perfetto.json")


def _make_graph(folder: Path) -> Path:
    path = folder / "program.json"
    path.write_bytes(json.dumps(graph_to_json(outlined())).encode())
    return path


def _make_artifact(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        save(outlined(), folder / "artifact")
        return folder / "artifact" / name

    return make


def _sealed(path: Path) -> None:
    """Read an artifact of which a file was forged with everything that is said of it."""
    if os.access(path, os.R_OK, effective_ids=True) and path.is_file() and path.stat().st_size < 2**30:
        manifest = read_manifest(path.parent)
        manifest.files[path.name] = file_record(path)
        (path.parent / MANIFEST).write_bytes(manifest.to_bytes())
    load(path.parent)


def _graph(path: Path) -> None:
    try:
        graph_from_json(read_json(input_file.read_input(path), path))
    except FileNotFoundError:
        raise BadFile(f"{path}: is not there") from None
    except BadFile as error:
        raise BadFile(f"{path}: {error}") from error


def _folder(path: Path) -> Folder:
    root = path.parent if path.name == LAYOUT.about else path.parents[1]
    return Folder(root, {"model": "tiny", "tokens": None}, LAYOUT)


def _make_cell(folder: Path) -> Path:
    cells = _folder(folder / LAYOUT.about)
    cells.keep("dip", {"a": 1}, vars(FIGURES))
    return cells.file("dip", {"a": 1})


def _cell(path: Path) -> None:
    found = _folder(path).read_as(Figures, "dip", {"a": 1})
    assert found is None or found.bytes_read is not None


def _make_about(folder: Path) -> Path:
    return _folder(folder / LAYOUT.about).path / LAYOUT.about


def _make_training(folder: Path) -> Path:
    file = TrainingFile(folder / "unfinished.safetensors")
    file.save(RECIPE, {"a": torch.zeros(2, 3)}, 1.5)
    return file.path


def _training(path: Path) -> None:
    TrainingFile(path).load(RECIPE)


def _make_adapter(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        from safetensors.torch import save_file

        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["up_proj"]}
        (folder / "adapter_config.json").write_bytes(json_bytes(config))
        record = {"schema": 1, "kind": "adapter", "recipe": {"model": "tiny", "digest": "0" * 16}}
        (folder / "dipc-adapter.json").write_bytes(json_bytes(record))
        at = "base_model.model.model.layers.0.mlp.up_proj"
        tensors = {f"{at}.lora_A.weight": torch.zeros(2, 8), f"{at}.lora_B.weight": torch.zeros(16, 2)}
        save_file(tensors, folder / "adapter_model.safetensors")
        from dipc.tuning.lora.adapter import CONFIG, RECORD, TENSORS

        place = {"config": CONFIG, "record": RECORD, "tensors": TENSORS}
        (folder / "dipc-adapter.json").rename(folder / RECORD)
        return folder / place[name]

    return make


def _adapter(path: Path) -> None:
    pytest.importorskip("peft")
    assert Checkpoint.load(path.parent).modules is not None


def _make_plugin(folder: Path) -> Path:
    path = folder / "no_such_thing.py"
    path.write_text("X = 1\n")
    return path


def _plugin(path: Path) -> None:
    try:
        load_plugin(path)
    except BadFile as error:
        if "defines no" not in str(error):
            raise


def _make_onnx(folder: Path) -> Path:
    """A model of one addition, which carries a value along and says so as an export does."""
    onnx = pytest.importorskip("onnx")
    helper, path = onnx.helper, folder / "model.onnx"
    ids = helper.make_tensor_value_info("input_ids", onnx.TensorProto.INT64, [1, "seq"])
    past = helper.make_tensor_value_info("past", onnx.TensorProto.FLOAT, [1, 3])
    logits = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [1, "seq", 3])
    present = helper.make_tensor_value_info("present", onnx.TensorProto.FLOAT, [1, 3])
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["x"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["x", "last"], ["y"]),
        helper.make_node("Add", ["y", "past"], ["logits"]),
        helper.make_node("Identity", ["past"], ["present"]),
    ]
    last = [helper.make_tensor("last", onnx.TensorProto.INT64, [1], [2])]
    graph = helper.make_graph(nodes, "g", [ids, past], [logits, present], last)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    carried = {"input": "past", "output": "present", "dtype": "float32", "shape": [1, 3], "fill": 0}
    about = {"model": "tiny", "digest": "0", "method": "dip", "options": "dip", "scope": "all"}
    said = {**about, "context": "8", "density": "0.5", "carried": json.dumps([carried])}
    helper.set_model_props(model, {f"dipc.{key}": value for key, value in said.items()})
    path.write_bytes(model.SerializeToString())
    return path


def _onnx(path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from dipc.backends.onnx.session import OnnxSession, RuntimeOptions

    session = OnnxSession(path, options=RuntimeOptions(kernels=False, threads=1, spinning=False))
    assert len(session.step([1, 2]).logits) == 2


SCHEMA = (b'"schema": 1', b'"schema": 2')
HEADER = (b'"schema":"1"', b'"schema":"2"')
READERS = {
    "device": Reader(_copied(UFS, "ufs-4.0.yaml"), _device, "yaml", absent=2),
    "activity": Reader(_copied(DEFAULT, "activity.json"), ActivityModel.load, "json", SCHEMA),
    "trace": Reader(_make_trace, _trace(mapped=False), "tensors", HEADER),
    "mapped trace": Reader(_make_trace, _trace(mapped=True), "tensors", HEADER),
    "calibration": Reader(_copied(Path(tiny_calibration()), "c.safetensors"), _calibration, "tensors", HEADER),
    "study": Reader(_make_study, read_study, "json", SCHEMA, absent=2),
    "report": Reader(_make_study, _report, "json", SCHEMA, absent=2),
    "graph": Reader(_make_graph, _graph, "json"),
    "manifest": Reader(_make_artifact(MANIFEST), lambda path: load(path.parent), "json", SCHEMA),
    "program": Reader(_make_artifact("program.json"), _sealed, "json"),
    "weights": Reader(_make_artifact("weights.safetensors"), _sealed, "tensors"),
    "about": Reader(_make_about, _folder, "json", SCHEMA, absent=2),
    "cell": Reader(_make_cell, _cell, "json", SCHEMA, absent=0),
    "training": Reader(
        _make_training,
        lambda path: TrainingFile(path).load(RECIPE),
        "tensors",
        (b"training.1", b"training.2"),
        absent=0,
    ),
    "adapter config": Reader(_make_adapter("config"), _adapter, "json"),
    "adapter record": Reader(_make_adapter("record"), _adapter, "json", SCHEMA, absent=0),
    "adapter tensors": Reader(_make_adapter("tensors"), _adapter, "tensors"),
    "exported model": Reader(_make_onnx, _onnx, "onnx", absent=2),
    "plug-in": Reader(_make_plugin, _plugin, "code", absent=2),
}
EACH = pytest.mark.parametrize("name", READERS)
FUZZED = pytest.mark.parametrize("name", [name for name, reader in READERS.items() if reader.form != "code"])


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Fail where the block takes longer, as it would if it waited for a pipe."""

    def late(*_: object) -> None:
        raise AssertionError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refusal(reader: Reader, path: Path) -> DipcError | None:
    """Read a file; how it was refused, in a line that a person can read, or None."""
    refused = None
    try:
        with within(60):
            reader.read(path)
    except (BadFile, UsageError) as error:
        refused = error
    assert refused is None or 0 < len(one_line(str(refused))) <= LONGEST
    return refused


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The good file of a reader, made once."""
    made: dict[str, Path] = {}

    def path(name: str) -> Path:
        if name not in made:
            made[name] = READERS[name].make(tmp_path_factory.mktemp("good"))
        return made[name]

    return path


@contextmanager
def put(path: Path, place: Callable[[Path, bytes], object]) -> Iterator[Path]:
    """Put something else in place of a file while the block runs; what belongs to it is as it was afterwards."""
    kept = path.with_name(f"{path.name}.kept")
    path.rename(kept)
    beside = {file: file.read_bytes() for file in path.parent.iterdir() if file.is_file() and file != kept}
    try:
        place(path, kept.read_bytes())
        yield path
    finally:
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        path.unlink(missing_ok=True)
        kept.rename(path)
        for file, content in beside.items():
            file.write_bytes(content)


def _sparse(path: Path, _: bytes) -> None:
    with path.open("wb") as file:
        try:
            file.truncate(100 * 10**9)
        except OSError as error:
            pytest.skip(f"this filesystem has no sparse file of 100 GB: {errno.errorcode.get(error.errno or 0)}")


def _linked(path: Path, content: bytes) -> None:
    (path.parent / "elsewhere").write_bytes(content)
    path.symlink_to("elsewhere")


BAD: dict[str, Callable[[Path, bytes], object]] = {
    "empty": lambda path, _: path.write_bytes(b""),
    "half": lambda path, content: path.write_bytes(content[: len(content) // 2]),
    "nothing but zeros": lambda path, _: path.write_bytes(bytes(4096)),
    "a page of the web": lambda path, _: path.write_text("<!doctype html>\n<html><body>404</body></html>\n"),
    "a pointer to Git LFS": lambda path, _: path.write_text(
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 1024\n"
    ),
    "of 100 GB": _sparse,
    "nested": lambda path, _: path.write_bytes(b"[" * 200_000),
    "a folder": lambda path, _: path.mkdir(),
    "a link to nothing": lambda path, _: path.symlink_to("nowhere"),
    "a link to itself": lambda path, _: path.symlink_to(path.name),
    "a pipe": lambda path, _: os.mkfifo(path),
    "a device that never ends": lambda path, _: path.symlink_to("/dev/zero"),
}


@EACH
def test_a_good_file_is_read_and_through_links_too(name: str, good: Callable[[str], Path]) -> None:
    reader, path = READERS[name], good(name)
    reader.read(path)
    with put(path, _linked):
        reader.read(path)


@EACH
@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_such_file_is_refused(
    name: str, kind: str, good: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = READERS[name]
    if reader.form == "code" and kind in ("empty", "half", "nested"):
        return  # still Python, or what Python itself refuses
    monkeypatch.setattr(input_file, "PATIENCE_S", 0.05)
    with put(good(name), BAD[kind]) as path:
        error = refusal(reader, path)
        # A folder may be what a study is in.
        assert error is not None and error.exit_code in ((2, 5) if kind == "a folder" else (5,)), error
        assert path.name in str(error) or path.parent.name in str(error)


@EACH
def test_what_is_not_there_is_said(name: str, good: Callable[[str], Path]) -> None:
    reader = READERS[name]
    with put(good(name), lambda path, _: None) as path:
        error = refusal(reader, path)
        assert (0 if error is None else error.exit_code) == reader.absent


@pytest.mark.parametrize("name", [name for name, reader in READERS.items() if reader.newer])
def test_what_a_newer_version_wrote_is_refused(name: str, good: Callable[[str], Path]) -> None:
    reader = READERS[name]
    assert reader.newer is not None
    old, new = reader.newer
    compact = (old.replace(b": ", b":"), new.replace(b": ", b":"))

    def write(path: Path, content: bytes) -> None:
        changed = content.replace(old, new, 1).replace(*compact, 1)
        assert changed != content
        path.write_bytes(changed)

    with put(good(name), write) as path:
        error = refusal(reader, path)
        assert isinstance(error, BadFile)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Be a user who may not read everything, while the block runs."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@EACH
def test_what_may_not_be_read_is_refused(name: str, good: Callable[[str], Path]) -> None:
    reader = READERS[name]
    reader.read(good(name))  # what is imported meanwhile may be read
    with put(good(name), lambda path, content: path.write_bytes(content)) as path:
        path.chmod(0)
        with unprivileged():
            error = refusal(reader, path)
        assert error is not None and "ermission" in str(error)


# --- Damage ---


def survives(name: str, path: Path, seed: int) -> None:
    reader, chance = READERS[name], random.Random(seed)

    def write(path: Path, content: bytes) -> None:
        # Of a model's own content only its runtime can tell what is wrong.
        whole = reader.form != "onnx" and chance.random() < 0.4
        path.write_bytes(damaged(content, chance) if whole else changed_document(content, reader.form, chance))

    with put(path, write):
        refusal(reader, path)


SHORT = settings(
    derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck), max_examples=25
)


@FUZZED
@SHORT
@given(seed=st.integers(0, 2**32))
def test_damage_is_refused_or_does_no_harm(name: str, seed: int, good: Callable[[str], Path]) -> None:
    survives(name, good(name), seed)


@pytest.mark.nightly
@FUZZED
@settings(SHORT, derandomize=False, max_examples=1500)
@given(seed=st.integers(0, 2**32))
def test_much_damage_is_refused_or_does_no_harm(name: str, seed: int, good: Callable[[str], Path]) -> None:
    survives(name, good(name), seed)
