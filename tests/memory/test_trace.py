"""Traces: packing, joining, files and what is wrong with them."""

from __future__ import annotations

import json
import mmap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from dipc.cache import get_policy
from dipc.cache.replay import replay_site
from dipc.errors import BadFile, UsageError
from dipc.memory.trace import SCHEMA, Meta, Trace, accesses_by_token, accesses_by_unit

META: Meta = {"model": "demo", "density": 0.5, "seed": 3}


def make(tokens: int = 5, seed: int = 0) -> tuple[dict[str, npt.NDArray[np.bool_]], Trace]:
    rng = np.random.default_rng(seed)
    masks = {"1.glu": rng.random((tokens, 11)) < 0.5, "0.input": rng.random((tokens, 8)) < 0.5}
    return masks, Trace.from_masks(masks, META)


def test_masks_come_back_and_take_a_bit_a_unit() -> None:
    masks, trace = make()
    assert trace.tokens == 5 and trace.units == {"1.glu": 11, "0.input": 8}
    assert trace.sites["1.glu"].shape == (5, 2) and trace.sites["0.input"].shape == (5, 1)
    for site, mask in masks.items():
        assert trace.mask(site).dtype == np.bool_
        np.testing.assert_array_equal(trace.mask(site), mask)
        assert trace.density(site) == mask.mean()


def test_joined_traces_run_on_and_keep_what_they_agree_on() -> None:
    (masks_a, a), (masks_b, b) = make(3, 1), make(4, 2)
    b.meta["seed"] = 4
    joined = Trace.concat([a, b])
    np.testing.assert_array_equal(joined.mask("1.glu"), np.concatenate([masks_a["1.glu"], masks_b["1.glu"]]))
    assert joined.meta == {"model": "demo", "density": 0.5}


def test_traces_of_different_programs_do_not_join() -> None:
    other = Trace.from_masks({"0.input": np.ones((1, 8), dtype=np.bool_)}, {})
    with pytest.raises(UsageError, match="same sites"):
        Trace.concat([make()[1], other])
    with pytest.raises(UsageError, match="nothing"):
        Trace.concat([])


@pytest.mark.smoke
def test_a_saved_trace_loads_the_same(tmp_path: Path) -> None:
    masks, trace = make()
    trace.save(tmp_path / "a.trace")
    loaded = Trace.load(tmp_path / "a.trace")
    assert loaded.units == trace.units and list(loaded.sites) == list(trace.sites) and loaded.meta == META
    for site, mask in masks.items():
        np.testing.assert_array_equal(loaded.mask(site), mask)
    assert [path.name for path in tmp_path.iterdir()] == ["a.trace"]


def test_a_mapped_trace_is_the_same_and_stays_in_its_file(tmp_path: Path) -> None:
    masks, trace = make(2000)
    trace.save(tmp_path / "a.trace")
    mapped = Trace.load(tmp_path / "a.trace", mapped=True)
    assert mapped.units == trace.units and list(mapped.sites) == list(trace.sites) and mapped.meta == META
    for site, packed_TB in mapped.sites.items():
        owner: object = packed_TB
        while isinstance(owner, np.ndarray):
            owner = owner.base
        assert isinstance(owner, mmap.mmap) and not packed_TB.flags.writeable
        np.testing.assert_array_equal(mapped.mask(site), masks[site])
        assert mapped.density(site) == masks[site].mean()
        np.testing.assert_array_equal(accesses_by_token(packed_TB), masks[site].sum(axis=1))
        np.testing.assert_array_equal(accesses_by_unit(packed_TB, mapped.units[site]), masks[site].sum(axis=0))
        case = [(get_policy("lru"), 4), (get_policy("belady"), 4)]
        for one, other in zip(*(replay_site(t.sites[site], t.units[site], case) for t in (mapped, trace)), strict=True):
            np.testing.assert_array_equal(one.hits_T, other.hits_T)


def test_an_empty_trace_can_be_mapped(tmp_path: Path) -> None:
    Trace.from_masks({}, META).save(tmp_path / "none.trace")
    make(0)[1].save(tmp_path / "no-tokens.trace")
    assert Trace.load(tmp_path / "none.trace", mapped=True).sites == {}
    assert Trace.load(tmp_path / "no-tokens.trace", mapped=True).tokens == 0


def test_saving_where_nothing_can_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        make()[1].save(tmp_path / "absent" / "a.trace")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="cannot be written"):
        make()[1].save(tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.trace"
    make()[1].save(path)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        for mapped in (False, True):
            with pytest.raises(BadFile, match="damaged, or not a trace"):
                Trace.load(path, mapped=mapped)


@given(st.binary(max_size=64))
def test_a_file_of_any_bytes_is_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "a.trace"
    path.write_bytes(content)
    with pytest.raises(BadFile):
        Trace.load(path)


Tensors = dict[str, npt.NDArray[np.uint8]]


def drop_site(tensors: Tensors, header: dict[str, str]) -> None:
    del tensors["1.glu"]


def more_units(tensors: Tensors, header: dict[str, str]) -> None:
    header["units"] = json.dumps({"1.glu": 17, "0.input": 8})


def fewer_units(tensors: Tensors, header: dict[str, str]) -> None:
    tensors["1.glu"][:] = 0xFF


def fewer_tokens(tensors: Tensors, header: dict[str, str]) -> None:
    tensors["1.glu"] = tensors["1.glu"][:-1]


def units_in_words(tensors: Tensors, header: dict[str, str]) -> None:
    header["units"] = json.dumps({"1.glu": "eleven", "0.input": 8})


def list_as_meta(tensors: Tensors, header: dict[str, str]) -> None:
    header["meta"] = "[1]"


def null_in_meta(tensors: Tensors, header: dict[str, str]) -> None:
    header["meta"] = '{"text": null}'


def infinite_meta(tensors: Tensors, header: dict[str, str]) -> None:
    header["meta"] = '{"density": NaN}'


def no_json(tensors: Tensors, header: dict[str, str]) -> None:
    header["units"] = "{"


def foreign(tensors: Tensors, header: dict[str, str]) -> None:
    header["format"] = "pt"


def newer(tensors: Tensors, header: dict[str, str]) -> None:
    header["schema"] = str(SCHEMA + 1)


def no_schema(tensors: Tensors, header: dict[str, str]) -> None:
    del header["schema"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop_site, "name different sites"),
        (more_units, "with 17 units is stored as uint8"),
        (fewer_units, "active units past its 11"),
        (fewer_tokens, "tokens and another"),
        (units_in_words, "has 'eleven' units"),
        (list_as_meta, "'meta' is no JSON object"),
        (null_in_meta, "'text' is None"),
        (infinite_meta, "'density' is nan"),
        (no_json, "'units' is no JSON"),
        (foreign, "not a trace"),
        (newer, f"newer than {SCHEMA}, .*update dipc"),
        (no_schema, "schema '' is no number"),
    ],
)
def test_a_spoilt_file_is_refused_in_one_line(
    tmp_path: Path, spoil: Callable[[Tensors, dict[str, str]], None], message: str
) -> None:
    path = tmp_path / "a.trace"
    trace = make()[1]
    trace.save(path)
    tensors = {site: packed.copy() for site, packed in load_file(path).items()}
    header = {
        "format": "dipc.trace",
        "schema": str(SCHEMA),
        "units": json.dumps(trace.units),
        "meta": json.dumps(trace.meta),
    }
    spoil(tensors, header)
    save_file({site: np.ascontiguousarray(packed) for site, packed in tensors.items()}, path, header)
    with pytest.raises(BadFile, match=message) as error:
        Trace.load(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_weights_and_absent_files_are_no_traces(tmp_path: Path) -> None:
    save_file({"w": np.zeros(3, dtype=np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(BadFile, match="not a trace"):
        Trace.load(tmp_path / "model.safetensors")
    with pytest.raises(BadFile, match="there is no such"):
        Trace.load(tmp_path / "absent.trace")
    with pytest.raises(BadFile):
        Trace.load(tmp_path)


def test_masks_that_are_no_masks_are_refused() -> None:
    with pytest.raises(UsageError, match=r"int64 \[2\], not bool"):
        Trace.from_masks({"a": np.array([1, 2])}, {})
    with pytest.raises(UsageError, match="tokens"):
        Trace.from_masks({"a": np.ones((1, 2), dtype=np.bool_), "b": np.ones((2, 2), dtype=np.bool_)}, {})
