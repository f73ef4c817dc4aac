"""The calibration file: what it gives, that it comes back as it was saved, and what is refused."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from dipc.calibration.density_allocation import DensityAllocation
from dipc.calibration.file import PARTS, SCHEMA, Calibration, Meta, calibration_for
from dipc.errors import BadFile, UsageError
from kit.tiny_models import outlined

META: Meta = {"model": "tiny", "digest": "abc", "tokens": 3, "text": "words"}
D, F, H = 32, 48, 5
MLPS = ("layers.0", "layers.1")


def tensors() -> dict[str, Tensor]:
    """All parts, of a model of the sizes of `tiny_llama`."""
    made = {"windows": torch.tensor([[1, 2, 3], [4, 5, 6]])}
    for score in ("input", "gate", "up", "glu"):
        made |= {f"quantiles.{p}.{score}": torch.tensor([0.0, 1.0, 3.0]) for p in ("all", *MLPS)}
        made |= {f"statistics.{p}.{score}": torch.tensor([1.0, 2.0, 3.0]) for p in MLPS}
    for seed, p in enumerate(MLPS):
        torch.manual_seed(seed)
        made |= {f"popularity.{p}.input": torch.rand(D), f"popularity.{p}.glu": torch.rand(F)}
        made[f"sensitivity.{p}"] = torch.rand(D)
        made |= {f"predictor.{p}.w1": torch.randn(H, D), f"predictor.{p}.b1": torch.randn(H)}
        made |= {f"predictor.{p}.w2": torch.randn(F, H), f"predictor.{p}.b2": torch.randn(F)}
        made[f"recall.{p}"] = torch.tensor([0.25, 0.75])
    curves = {p: torch.rand(2, 3) for p in MLPS}
    return {**made, **DensityAllocation(0.25, 1.5, (0.25, 0.5, 0.75), curves).to_tensors()}


def of_tiny() -> Calibration:
    """A calibration of `outlined()`."""
    info = outlined().info
    return Calibration({**META, "model": info.name, "digest": info.digest}, tensors())


@pytest.mark.smoke
def test_a_saved_calibration_loads_the_same(tmp_path: Path) -> None:
    made = Calibration(META, tensors())
    made.save(tmp_path / "a.safetensors")
    loaded = Calibration.load(tmp_path / "a.safetensors")
    assert loaded.meta == META and loaded.parts == PARTS and loaded.mlps == MLPS
    assert set(loaded.tensors) == set(made.tensors)
    for name, tensor in made.tensors.items():
        assert torch.equal(loaded.tensors[name], tensor) and loaded.tensors[name].dtype == tensor.dtype
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
    (tmp_path / "plain").touch()
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_what_is_read_from_it() -> None:
    made = Calibration(META, tensors())
    for got, part in zip(made.predictor("layers.1"), ("w1", "b1", "w2", "b2"), strict=True):
        assert got is made.tensors[f"predictor.layers.1.{part}"]
    assert made.sensitivity("layers.0") is made.tensors["sensitivity.layers.0"]
    assert made.popularity("layers.0", "glu").shape == (F,) and made.popularity("layers.0", "input").shape == (D,)
    assert made.windows().tolist() == [[1, 2, 3], [4, 5, 6]]
    assert made.allocation is not None
    assert (made.allocation.intercept, made.allocation.slope, made.allocation.grid) == (0.25, 1.5, (0.25, 0.5, 0.75))


def test_thresholds_by_hand() -> None:
    # Quantiles 0, 1, 3 at shares 0, 1/2, 1: a quarter passes half way from 1 to 3.
    made = Calibration(META, tensors() | {"quantiles.all.up": torch.tensor([0.0, 4.0, 4.0])})
    assert [made.threshold("layers.0", "glu", d) for d in (1.0, 0.75, 0.5, 0.25)] == [0.0, 0.5, 1.0, 2.0]
    assert [made.global_threshold("up", d) for d in (1.0, 0.75, 0.5, 0.25)] == [0.0, 2.0, 4.0, 4.0]


def test_nothing_is_cut_off_at_density_one() -> None:
    made = Calibration(META, {"quantiles.layers.0.gate": torch.tensor([2.0, 3.0])})
    assert made.threshold("layers.0", "gate", 1.0) == 0.0


def test_a_part_that_is_absent_is_named_with_what_to_do() -> None:
    made = Calibration(META, {"quantiles.layers.0.gate": torch.tensor([2.0, 3.0])})
    assert made.parts == ("thresholds",) and made.allocation is None
    for read, part in (
        (lambda: made.sensitivity("layers.0"), "sensitivity"),
        (lambda: made.predictor("layers.0"), "predictors"),
    ):
        with pytest.raises(BadFile, match=f"of tiny was made without {part}; run `dipc calibrate` with {part} among"):
            read()
    with pytest.raises(BadFile, match="without windows"):
        made.windows()
    with pytest.raises(BadFile, match=r"has no quantiles\.layers\.7\.gate"):
        made.threshold("layers.7", "gate", 0.5)
    with pytest.raises(UsageError, match="no score named 'gates'; did you mean 'gate'"):
        made.threshold("layers.0", "gates", 0.5)
    with pytest.raises(UsageError, match="no site named 'up'"):
        made.popularity("layers.0", "up")
    with pytest.raises(UsageError, match="outside"):
        made.global_threshold("gate", 0.0)


def test_saving_where_nothing_can_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        of_tiny().save(tmp_path / "absent" / "a.safetensors")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="cannot be written"):
        of_tiny().save(tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_saving_interrupted_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_tiny().save(tmp_path / "a.safetensors")
    before = (tmp_path / "a.safetensors").read_bytes()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Calibration(META, {"windows": torch.ones(1, 2, dtype=torch.int64)}).save(tmp_path / "a.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
    assert (tmp_path / "a.safetensors").read_bytes() == before


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    of_tiny().save(path)
    content = path.read_bytes()
    for length in range(0, len(content), 997):
        path.write_bytes(content[:length])
        with pytest.raises(BadFile, match="damaged, or not a calibration"):
            Calibration.load(path)


@given(st.binary(max_size=64))
def test_a_file_of_any_bytes_is_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(BadFile):
        Calibration.load(path)


def test_files_that_are_no_calibration_of_ours(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="there is no such calibration; make one with `dipc calibrate"):
        Calibration.load(tmp_path / "absent")
    with pytest.raises(BadFile, match=r"cannot be read|damaged"):
        Calibration.load(tmp_path)
    path = tmp_path / "a.safetensors"
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(BadFile, match="not a calibration"):
        Calibration.load(path)
    for header, message in (
        ({"schema": str(SCHEMA + 1), "meta": "{}"}, f"schema {SCHEMA + 1} is newer than {SCHEMA}"),
        ({"schema": "one", "meta": "{}"}, "is no number"),
        ({"schema": "9" * 5000, "meta": "{}"}, "'9{20}' is no number"),
        ({"schema": "1"}, "no JSON"),
        ({"schema": "1", "meta": "[1]"}, "no JSON object"),
        ({"schema": "1", "meta": "{}"}, "lacks the text 'model'"),
        ({"schema": "1", "meta": '{"model": "a", "digest": "b", "seed": null}'}, "neither text nor"),
        ({"schema": "1", "meta": '{"model": "a", "digest": "b"}'}, "'weight' is no tensor of a calibration"),
    ):
        save_file({"weight": torch.ones(2)}, path, {"format": "dipc.calibration", **header})
        with pytest.raises(BadFile, match=message):
            Calibration.load(path)


CHANGES: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "another dtype": lambda t: t.update({"sensitivity.layers.0": torch.ones(D, dtype=torch.float64)}),
    "another width": lambda t: t.update({"sensitivity.layers.0": torch.ones(D + 1)}),
    "a dimension more": lambda t: t.update({"sensitivity.layers.0": torch.ones(1, D)}),
    "empty": lambda t: t.update({"quantiles.all.glu": torch.ones(0)}),
    "one quantile": lambda t: t.update({"quantiles.all.glu": torch.ones(1)}),
    "negative": lambda t: t.update({"sensitivity.layers.0": -torch.ones(D)}),
    "not finite": lambda t: t.update({"sensitivity.layers.0": torch.full((D,), torch.nan)}),
    "descending": lambda t: t.update({"quantiles.all.glu": torch.tensor([1.0, 0.5, 2.0])}),
    "a share above one": lambda t: t.update({"popularity.layers.0.glu": torch.full((F,), 1.5)}),
    "half a predictor": lambda t: t.pop("predictor.layers.1.b2"),
    "another predictor's part": lambda t: t.update({"predictor.layers.1.w2": torch.ones(F, H + 1)}),
    "half an allocation": lambda t: t.pop("allocation.grid"),
    "another grid": lambda t: t.update({"allocation.grid": torch.tensor([0.5], dtype=torch.float64)}),
    "a grid that reaches one": lambda t: t.update({"allocation.grid": torch.tensor([0.3, 0.5, 1.0]).double()}),
    "a grid that stands still": lambda t: t.update({"allocation.grid": torch.tensor([0.3, 0.5, 0.5]).double()}),
    "another score": lambda t: t.update({"quantiles.layers.0.down": torch.ones(3)}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_tensors_that_do_not_go_together_are_refused(change: str) -> None:
    made = tensors()
    CHANGES[change](made)
    with pytest.raises(UsageError, match=r"^calibration: ") as refused:
        Calibration(META, made)
    assert "\n" not in str(refused.value)


def test_a_calibration_is_for_one_model(tmp_path: Path) -> None:
    program, path = outlined(), tmp_path / "a.safetensors"
    of_tiny().save(path)
    found = calibration_for(path, program)
    assert found.sensitivity("layers.1").shape == (D,)
    assert calibration_for(path, program) is found
    other = program.replace(info=dataclasses.replace(program.info, name="another", digest="0"))
    with pytest.raises(BadFile, match=f"made for tiny .digest {program.info.digest}., not for another .digest 0."):
        calibration_for(path, other)


def test_a_calibration_whose_sizes_are_not_the_models_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    meta = of_tiny().meta
    for name, size in (("sensitivity.layers.1", D + 1), ("popularity.layers.1.glu", F + 1)):
        Calibration(meta, {name: torch.ones(size)}).save(path)
        os.utime(path, ns=(0, size))  # two writes within one tick of the file system's clock
        with pytest.raises(BadFile, match="other sizes"):
            calibration_for(path, outlined())
    Calibration(meta, {"windows": torch.tensor([[0, outlined().info.vocab]])}).save(path)
    with pytest.raises(BadFile, match="its windows hold tokens that tiny"):
        calibration_for(path, outlined())
    with pytest.raises(BadFile, match="no such calibration"):
        calibration_for(tmp_path / "absent", outlined())


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    of_tiny().save(path)
    first = calibration_for(path, outlined())
    Calibration(first.meta, {"windows": torch.ones(1, 2, dtype=torch.int64)}).save(path)
    assert calibration_for(path, outlined()).parts == ()
