"""Devices: the files that ship, the curve worked by hand, overrides, names and plug-in files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipc.errors import BadFile, UnknownName, UsageError
from dipc.hardware.device import Device, Dram
from dipc.hardware.figure import Figure, Kind
from dipc.hardware.find import DEVICES, device_for, device_names, device_path, load_device, validate_device
from dipc.hardware.flash_curve import Access, Flash, FlashPoint

GOOD = """\
name: x
description: A device of the tests
dram:
  capacity: {value: 8 GB, source: the box, kind: datasheet}
  available:
    value: 4 GiB
    source: a guess
    kind: assumed
  bandwidth: {value: 60 GB/s, source: a paper, kind: paper}
flash:
  bandwidth:
    - {chunk: 1 KiB, bandwidth: 100 MB/s, source: ours, kind: measured}
    - {chunk: 16 KiB, bandwidth: 500 MB/s, source: ours, kind: measured}
overlap: {value: true, source: a paper, kind: paper}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_plugins() -> Iterator[None]:
    before = dict(DEVICES.added)
    DEVICES.added.clear()
    yield
    DEVICES.added.clear()
    DEVICES.added.update(before)


# The devices that ship: a new file is tested the day it appears.


@pytest.mark.parametrize("name", device_names())
def test_every_device_loads_and_is_plausible(name: str) -> None:
    device = load_device(name)
    assert validate_device(device_path(name)) == []
    assert device.name == name == device_path(name).stem
    assert device.description
    assert 100e6 <= device.dram.available.value <= device.dram.capacity.value <= 1e12
    assert 1e9 <= device.dram.bandwidth.value <= 2e12
    for access in get_args(Access):
        for depth in device.flash.queue_depths(access) or (None,):
            rates = [device.flash_bandwidth(4096 * 2**n, access, depth) for n in range(12)]
            assert all(10e6 <= rate < device.dram.bandwidth.value for rate in rates)
            assert rates == sorted(rates), "a larger chunk should not read slower"
    for row in device.assumptions():
        assert len(row.source) > 10
        assert row.kind in get_args(Kind)


def test_a18_is_the_papers_device() -> None:
    device = load_device("a18")
    assert (device.dram.bandwidth.value, device.dram.bandwidth.kind) == (60e9, "paper")
    assert (device.dram.capacity.value, device.dram.available.value) == (8_000_000_000, 4_000_000_000)
    assert device.dram.available.kind == "assumed"
    assert (device.dram_available, device.dram_bandwidth) == (4_000_000_000, 60e9)
    assert [device.flash_bandwidth(chunk) for chunk in (1, 2048, 10**9)] == [1e9, 1e9, 1e9]
    assert device.overlap


def test_phones_and_laptops_ship_and_some_have_curves() -> None:
    iphones = {"a14", "a15", "a16", "a17-pro", "a18", "a18-pro"}
    snapdragons = {f"snapdragon-{model}" for model in ("8-gen2", "8-gen3", "8s-gen3", "8-elite")}
    others = {"m1", "m2", "m3", "m4", "ufs-3.1", "ufs-4.0", "framework-16", "nvme-laptop"}
    assert iphones | snapdragons | others <= set(device_names())
    laptop = load_device("nvme-laptop")
    assert laptop.flash.page is not None and laptop.flash.page.value == 4096
    assert laptop.flash_bandwidth(4096, "random", 1) < 0.05 * laptop.flash_bandwidth(2**20, "sequential")
    assert load_device("ufs-4.0").energy is not None and load_device("a18").energy is None


# Reading a file


def test_a_file_is_read_as_written(here: Path) -> None:
    Path("x.yaml").write_text(GOOD)
    assert (
        load_device("x.yaml") == load_device(Path("x.yaml")) == load_device("./x.yaml") == load_device(here / "x.yaml")
    )
    assert load_device("x.yaml") == Device(
        name="x",
        description="A device of the tests",
        dram=Dram(
            Figure(8_000_000_000, "the box", "datasheet"),
            Figure(4_294_967_296, "a guess", "assumed"),
            Figure(60e9, "a paper", "paper"),
        ),
        flash=Flash(
            (FlashPoint(1024, Figure(1e8, "ours", "measured")), FlashPoint(16384, Figure(5e8, "ours", "measured")))
        ),
        overlapped=Figure(True, "a paper", "paper"),
    )


def test_assumptions_list_every_figure(here: Path) -> None:
    Path("x.yaml").write_text(GOOD)
    assert load_device("x.yaml").assumptions() == [
        ("dram.capacity", "8 GB", "datasheet", "the box"),
        ("dram.available", "4.29 GB", "assumed", "a guess"),
        ("dram.bandwidth", "60 GB/s", "paper", "a paper"),
        ("flash.bandwidth @ 1 KiB", "100 MB/s", "measured", "ours"),
        ("flash.bandwidth @ 16 KiB", "500 MB/s", "measured", "ours"),
        ("overlap", "yes", "paper", "a paper"),
    ]
    assert ("flash.bandwidth", "1 GB/s") in [row[:2] for row in load_device("a18").assumptions()]


def test_without_overlap(here: Path) -> None:
    Path("x.yaml").write_text(GOOD.replace("value: true", "value: false"))
    device = load_device("x.yaml")
    assert not device.overlap
    assert device.assumptions()[-1].value == "no"


# The curve: 1 KiB -> 100 MB/s, 16 KiB -> 500 MB/s. Four doublings for 400 MB/s: 100 MB/s for each.


@pytest.mark.parametrize(
    ("chunk_bytes", "bandwidth"),
    [(1, 1e8), (1024, 1e8), (2048, 2e8), (4096, 3e8), (8192, 4e8), (16384, 5e8), (16385, 5e8), (2**40, 5e8)],
)
def test_flash_bandwidth_by_hand(here: Path, chunk_bytes: int, bandwidth: float) -> None:
    Path("x.yaml").write_text(GOOD)
    assert load_device("x.yaml").flash_bandwidth(chunk_bytes) == pytest.approx(bandwidth, rel=1e-12)


def test_three_points_use_the_piece_they_lie_in(here: Path) -> None:
    more = "    - {chunk: 64 KiB, bandwidth: 1.5 GB/s, source: ours, kind: measured}\noverlap"
    Path("x.yaml").write_text(GOOD.replace("overlap", more))
    device = load_device("x.yaml")
    assert device.flash_bandwidth(4096) == pytest.approx(3e8)
    assert device.flash_bandwidth(32 * 1024) == pytest.approx(1e9)  # half of the way, in doublings, from 0.5 to 1.5


@given(
    st.lists(st.tuples(st.integers(1, 2**30), st.floats(1e6, 1e10)), min_size=1, max_size=6, unique_by=lambda p: p[0]),
    st.integers(1, 2**31),
)
def test_a_curve_meets_its_points_and_stays_between_them(points: list[tuple[int, float]], chunk_bytes: int) -> None:
    points.sort()
    curve = tuple(FlashPoint(chunk, Figure(value, "drawn", "assumed")) for chunk, value in points)
    byte: Figure[int] = Figure(1, "", "assumed")
    device = Device("d", "", Dram(byte, byte, Figure(1.0, "", "assumed")), Flash(curve), Figure(True, "", "assumed"))
    for chunk, value in points:
        assert device.flash_bandwidth(chunk) == pytest.approx(value)
    values = [value for _, value in points]
    assert min(values) * (1 - 1e-9) <= device.flash_bandwidth(chunk_bytes) <= max(values) * (1 + 1e-9)


ACCESSES = """\
    - {chunk: 4 KiB, access: random, queue_depth: 1, bandwidth: 100 MB/s, source: ours, kind: measured}
    - {chunk: 4 KiB, access: random, queue_depth: 16, bandwidth: 500 MB/s, source: ours, kind: measured}
    - {chunk: 64 KiB, access: random, queue_depth: 16, bandwidth: 900 MB/s, source: ours, kind: measured}
    - {chunk: 4 KiB, access: sequential, bandwidth: 1 GB/s, source: ours, kind: measured}
  page: {value: 4 KiB, source: ours, kind: assumed}
"""


def test_access_and_queue_depth_by_hand(here: Path) -> None:
    # At 4 KiB from depth 1 to 16, four doublings, from 100 to 500 MB/s: 200 at depth 2, 300 at 4.
    # At 64 KiB depth 1 has no point of its own: 100 MB/s stay; 500 in the middle of 100 and 900.
    Path("x.yaml").write_text(GOOD[: GOOD.index("    - {chunk")] + ACCESSES + GOOD[GOOD.index("overlap") :])
    device = load_device("x.yaml")
    random = [device.flash_bandwidth(4096, "random", depth) for depth in (1, 2, 4, 16, 99, None)]
    assert random == pytest.approx([1e8, 2e8, 3e8, 5e8, 5e8, 5e8])
    assert device.flash_bandwidth(65536, "random", 4) == pytest.approx(5e8)
    assert device.flash_bandwidth(16384) == pytest.approx(7e8)
    assert device.flash_bandwidth(65536, "sequential", 4) == 1e9
    assert device.flash.queue_depths() == (1, 16) and device.flash.queue_depths("sequential") == ()
    keys = [row.key for row in device.assumptions()]
    assert "flash.bandwidth @ 4 KiB random QD1" in keys and "flash.page" in keys


def test_a_chunk_is_positive() -> None:
    with pytest.raises(ValueError, match="a chunk of 0 bytes"):
        load_device("a18").flash_bandwidth(0)


# Overrides


def test_overrides_are_assumed_and_leave_the_device_alone() -> None:
    device = load_device("framework-16")
    assert device.flash.page is not None
    changed = device.with_dram_available(2_000_000_000).with_flash_bandwidth(0.5e9)
    assert changed.dram.available == Figure(2_000_000_000, "given by the user", "assumed")
    assert [changed.flash_bandwidth(chunk) for chunk in (1, 2048, 2**30)] == [0.5e9] * 3
    assert ("flash.bandwidth", "500 MB/s", "assumed", "given by the user") in changed.assumptions()
    assert changed.dram.capacity == device.dram.capacity
    assert device == load_device("framework-16")


def test_overrides_out_of_range() -> None:
    device = load_device("a18")
    assert device.with_dram_available(8_000_000_000).dram.available.value == device.dram.capacity.value
    with pytest.raises(UsageError, match=r"^a18 has 8 GB of DRAM, not 16 GB$"):
        device.with_dram_available(16_000_000_000)
    with pytest.raises(UsageError, match=r"^the available DRAM must be greater than zero, not 0 bytes$"):
        device.with_dram_available(0)
    for bandwidth in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(UsageError, match=r"^the flash bandwidth must be greater than zero, not "):
            device.with_flash_bandwidth(bandwidth)


# Names and paths


def test_unknown_name_has_a_guess_and_the_list(no_plugins: None) -> None:
    with pytest.raises(UnknownName) as raised:
        load_device("a19")
    known = ", ".join(device_names())
    assert str(raised.value) == f"no device named 'a19'; did you mean 'a18'? (known: {known})"
    assert raised.value.exit_code == 2


@pytest.mark.parametrize("path", ["none.yaml", "none.yml", "a/b", "./a18"])
def test_a_path_that_is_not_there(here: Path, path: str) -> None:
    for use in (load_device, validate_device):
        with pytest.raises(UsageError) as raised:
            use(path)
        assert str(raised.value) == f"{path}: no such file"


def test_a_folder_is_no_device(here: Path) -> None:
    Path("x.yaml").mkdir()
    with pytest.raises(BadFile, match=r"^x\.yaml: cannot be read: it is a folder"):
        load_device("x.yaml")


def test_a_registered_file_is_found_by_its_name(here: Path, no_plugins: None) -> None:
    Path("x.yaml").write_text(GOOD)
    DEVICES.add_file(Path("x.yaml"))
    DEVICES.add_file(here / "x.yaml")  # the same file: a plug-in may be loaded twice
    assert "x" in device_names()
    assert load_device("x").description == "A device of the tests"


def test_two_devices_of_one_name(here: Path, no_plugins: None) -> None:
    Path("a18.yaml").write_text(GOOD)
    with pytest.raises(BadFile) as raised:
        DEVICES.add_file(Path("a18.yaml"))
    built_in = device_path("a18")
    assert str(raised.value) == (f"a18.yaml: a device named 'a18' exists already: {built_in}; rename one of the files")
    assert device_path("a18") == built_in


def test_only_yaml_files_that_exist_are_registered(here: Path, no_plugins: None) -> None:
    with pytest.raises(UsageError, match=r"^x\.yaml: no such file$"):
        DEVICES.add_file(Path("x.yaml"))
    with pytest.raises(UsageError, match=r"^x\.txt: a device file is named NAME\.yaml$"):
        DEVICES.add_file(Path("x.txt"))


def test_importing_hardware_loads_neither_torch_nor_yaml() -> None:
    code = "import sys, dipc.hardware.device; print(sorted({'torch', 'ruamel.yaml'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("dram", ["9" * 400 + "%", "0%", "50,5%", "-5%", "\u0665%", "%"])
def test_a_share_of_the_model_that_is_none(dram: str) -> None:
    with pytest.raises(UsageError, match="is no amount of DRAM; write a size"):
        device_for("a18", dram, None, 1e9)
