"""Device files that are wrong: every problem with its exact line, key and words."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipc.errors import BadFile, DipcWarning
from dipc.hardware.device_file import read_device
from dipc.hardware.find import device_for, load_device, validate_device

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


CURVE = GOOD[GOOD.index("    - {chunk: 1 KiB") : GOOD.index("overlap:")]


def curve(*points: str) -> str:
    """The lines of a curve through points such as "1 KiB, bandwidth: 1 GB/s"."""
    return "".join(f"    - {{chunk: {point}, source: ours, kind: measured}}\n" for point in points)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# What can be wrong with a file: (what is replaced in GOOD, by what, the line it must give)

NEEDS = "needs name, description, dram, flash and overlap"
ERRORS = {
    "bare number": ("4 GiB", "4", '6: dram.available: "4" has no unit; write "4 GB" or "4 GiB"'),
    "bare bandwidth": ("60 GB/s", "60", '9: dram.bandwidth: "60" has no unit; write "60 GB/s" or "60 GiB/s"'),
    "bare chunk": (
        "1 KiB",
        "1024",
        '12: flash.bandwidth[0].chunk: "1024" has no unit; write B, kB, MB, GB, TB, KiB, MiB, GiB or TiB after it',
    ),
    "bits": ("60 GB/s", "480 Gb/s", '9: dram.bandwidth: "480 Gb/s" has the unknown unit "Gb/s"; write "60 GB/s"'),
    "no byte": ("4 GiB", "4096M", '6: dram.available: "4096M" has the unknown unit "M"; write "4096 MB"'),
    "comma": (
        "60 GB/s, source",
        "'60,5 GB/s', source",
        '9: dram.bandwidth: "60,5 GB/s" is not a bandwidth; write "60.5 GB/s"',
    ),
    "size for bandwidth": ("60 GB/s", "60 GB", '9: dram.bandwidth: "60 GB" has the unknown unit "GB"; write "60 GB/s"'),
    "zero": ("8 GB", "0 GB", '4: dram.capacity: "0 GB" must be greater than zero'),
    "negative": ("500 MB/s", "-500 MB/s", '13: flash.bandwidth[1].bandwidth: "-500 MB/s" must be greater than zero'),
    "no value": ("value: 4 GiB", "value:", "6: dram.available: is empty"),
    "no text": ("source: a guess", "source: ''", "7: dram.available.source: is empty"),
    "list for a value": ("4 GiB", "[4 GiB]", "6: dram.available: must be a single value"),
    "more than there is": ("4 GiB", "9 GB", "5: dram.available: 9 GB is more than the capacity, 8 GB"),
    "unknown key": ("  bandwidth: {", "  bandwith: {", '9: dram.bandwith: unknown key; did you mean "bandwidth"?'),
    "unknown key, no guess": (
        "flash:",
        "colour: red\nflash:",
        "10: colour: unknown key; known here: name, description, dram, flash, overlap and energy",
    ),
    "unknown key of a figure": (
        "kind: assumed",
        "kind: assumed\n    sauce: x",
        '9: dram.available.sauce: unknown key; did you mean "source"?',
    ),
    "missing key": ("description: A device of the tests\n", "", f"1: description: missing; the file {NEEDS}"),
    "missing part": (
        GOOD[GOOD.index("  bandwidth: {") : GOOD.index("flash:")],
        "",
        "3: dram.bandwidth: missing; dram needs capacity, available and bandwidth",
    ),
    "missing source": (
        "    source: a guess\n",
        "",
        "5: dram.available.source: missing; dram.available needs value, source and kind",
    ),
    "missing source of a point": (
        "500 MB/s, source: ours",
        "500 MB/s",
        "13: flash.bandwidth[1].source: missing; flash.bandwidth[1] needs chunk, bandwidth, source and kind",
    ),
    "duplicate key": ("flash:", "name: x\nflash:", "10: name: duplicate key, first given on line 1"),
    "duplicate key of a figure": (
        "    kind: assumed",
        "    kind: assumed\n    value: 5 GB",
        "9: dram.available.value: duplicate key, first given on line 6",
    ),
    "unknown kind": (
        "kind: assumed",
        "kind: guessed",
        '8: dram.available.kind: "guessed" is no kind of source; write one of measured, datasheet, paper, assumed',
    ),
    "no figure": (
        "{value: 8 GB, source: the box, kind: datasheet}",
        "8 GB",
        "4: dram.capacity: must be a mapping with value, source and kind",
    ),
    "not true or false": ("value: true", "value: yes", '14: overlap: "yes" is neither true nor false'),
    "other name": ("name: x", "name: y", '1: name: "y" is not the file\'s name; write "x" or rename the file'),
    "curve falls": (
        "16 KiB",
        "1000 B",
        "13: flash.bandwidth[1].chunk: 1 kB is not larger than the chunk before it, 1 KiB; "
        "list the points by rising chunk size",
    ),
    "curve repeats": (
        "16 KiB",
        "1 KiB",
        "13: flash.bandwidth[1].chunk: 1 KiB is not larger than the chunk before it, 1 KiB; "
        "list the points by rising chunk size",
    ),
    "curve of one point": (
        "    - {chunk: 16 KiB, bandwidth: 500 MB/s, source: ours, kind: measured}\n",
        "",
        "11: flash.bandwidth: a curve needs two points or more; for one, write value, source and kind",
    ),
    "point is no mapping": (
        "{chunk: 16 KiB, bandwidth: 500 MB/s, source: ours, kind: measured}",
        "fast",
        "13: flash.bandwidth[1]: must be a mapping with chunk, bandwidth, source and kind",
    ),
    "access of a point": (
        "500 MB/s,",
        "500 MB/s, access: both,",
        '13: flash.bandwidth[1].access: "both" is neither random nor sequential',
    ),
    "queue depth of a point": (
        "500 MB/s,",
        "500 MB/s, queue_depth: deep,",
        '13: flash.bandwidth[1].queue_depth: "deep" is no queue depth; '
        "write a whole number of reads under way, such as 32",
    ),
    "access of some": (
        "500 MB/s,",
        "500 MB/s, access: random,",
        "11: flash.bandwidth: some points name their access and some do not; give it to all or to none",
    ),
    "queue depth of some": (
        "500 MB/s,",
        "500 MB/s, queue_depth: 4,",
        "11: flash.bandwidth: some points name their queue depth and some do not; give it to all or to none",
    ),
    "sequential alone": (
        CURVE,
        curve("1 KiB, bandwidth: 100 MB/s, access: sequential", "2 KiB, bandwidth: 100 MB/s, access: sequential"),
        "11: flash.bandwidth: has sequential reads only; give points of both accesses, or leave access out",
    ),
    "sequential slower than random": (
        CURVE,
        curve("4 KiB, bandwidth: 1 GB/s, access: random", "4 KiB, bandwidth: 900 MB/s, access: sequential"),
        "13: flash.bandwidth[1].bandwidth: sequential reads of 4 KiB at 900 MB/s are slower than random ones, 1 GB/s",
    ),
    "larger read in less time": (
        "500 MB/s",
        "1.7 GB/s",
        "13: flash.bandwidth[1].bandwidth: a read of 16 KiB would take less time than one of 1 KiB",
    ),
    "page larger than a chunk": (
        "overlap:",
        "  page: {value: 4 KiB, source: ours, kind: assumed}\noverlap:",
        "14: flash.page: 4 KiB is more than the smallest chunk, 1 KiB; no read is smaller than a page",
    ),
    "energy without a unit": (
        "overlap:",
        "energy:\n  dram: {value: 40, source: ours, kind: assumed}\n"
        "  flash: {value: 90 pJ/B, source: ours, kind: assumed}\noverlap:",
        '15: energy.dram: "40" is no energy per byte; write it as in "40 pJ/B", "5 pJ/bit" or "0.04 J/GB"',
    ),
    "energy of one only": (
        "overlap:",
        "energy:\n  dram: {value: 40 pJ/B, source: ours, kind: assumed}\noverlap:",
        "14: energy.flash: missing; energy needs dram and flash",
    ),
    "tag": (
        "source: a guess",
        "source: !!python/object/apply:os.getcwd []",
        '7: dram.available.source: the tag "tag:yaml.org,2002:python/object/apply:os.getcwd" is not allowed; '
        "write a plain value",
    ),
    "broken YAML": ("flash:", "flash: ]", "10: not valid YAML: "),
    "tab": ("  capacity", "\tcapacity", "4: not valid YAML: "),
    "second document": ("flash:", "---\nflash:", "10: not valid YAML: "),
    "unknown alias": ("60 GB/s", "*nowhere", "9: not valid YAML: "),
    "control character": ("a guess", "a \x01", "7: not valid YAML: a control character"),
}


@pytest.mark.parametrize(("old", "new", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_what_is_wrong_with_a_file(here: Path, old: str, new: str, message: str) -> None:
    assert GOOD.count(old) >= 1
    Path("hw").mkdir()
    Path("hw/x.yaml").write_text(GOOD.replace(old, new, 1))
    with pytest.raises(BadFile) as raised:
        load_device("hw/x.yaml")
    text = str(raised.value)
    assert text == f"hw/x.yaml:{message}" or (message.endswith("YAML: ") and text.startswith(f"hw/x.yaml:{message}"))
    assert "\n" not in text
    assert raised.value.exit_code == 5
    assert text in validate_device("hw/x.yaml")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "x.yaml:1: the file is empty"),
        (b"# only a comment\n", "x.yaml:1: the file is empty"),
        (b"name: x\ndescription: caf\xe9\n", "x.yaml:2: not UTF-8 text; save the file as UTF-8"),
        (b"- a\n- b\n", "x.yaml:1: must be a mapping with name, description, dram, flash and overlap"),
        (b"just words\n", "x.yaml:1: must be a mapping with name, description, dram, flash and overlap"),
        (b"[" * 50_000, "x.yaml:1: not valid YAML, or nested too deeply"),
    ],
    ids=["empty", "comment", "latin-1", "list", "words", "deep"],
)
def test_a_file_that_is_no_device_at_all(here: Path, data: bytes, message: str) -> None:
    Path("x.yaml").write_bytes(data)
    with pytest.raises(BadFile) as raised:
        load_device("x.yaml")
    assert str(raised.value) == message


def test_validate_finds_every_problem_in_order(here: Path) -> None:
    text = GOOD
    for old, new in [
        ("8 GB", "8"),
        ("source: a guess", "sorce: a guess"),
        ("16 KiB", "512 B"),
        ("value: true", "value: 1"),
    ]:
        text = text.replace(old, new, 1)
    Path("x.yaml").write_text(text)
    assert validate_device("x.yaml") == [
        'x.yaml:4: dram.capacity: "8" has no unit; write "8 GB" or "8 GiB"',
        'x.yaml:7: dram.available.sorce: unknown key; did you mean "source"?',
        "x.yaml:13: flash.bandwidth[1].chunk: 512 B is not larger than the chunk before it, 1 KiB; "
        "list the points by rising chunk size",
        'x.yaml:14: overlap: "1" is neither true nor false',
    ]
    with pytest.raises(BadFile, match=r"^x\.yaml:4: "):
        load_device("x.yaml")


def test_windows_line_ends_and_a_byte_order_mark_are_fine(here: Path) -> None:
    Path("x.yaml").write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert validate_device("x.yaml") == []


@given(st.integers(0, len(GOOD)), st.integers(0, 20), st.text(max_size=8))
def test_any_edit_of_a_file_loads_or_is_reported(
    tmp_path_factory: pytest.TempPathFactory, start: int, length: int, new: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "x.yaml"
    path.write_bytes((GOOD[:start] + new + GOOD[start + length :]).encode("utf-8", "surrogatepass"))
    problems = validate_device(path)
    assert all(problem.startswith(f"{path}:") and len(problem.splitlines()) == 1 for problem in problems)
    if not problems:
        load_device(path)


ENERGY = """\
energy:
  dram: {value: 40 pJ/B, source: a paper, kind: paper}
  flash: {value: 400 pJ/B, source: a paper, kind: paper}
"""
# What can hardly be meant: (what is replaced in GOOD with ENERGY, by what, the line it must give)
DOUBTS = {
    "slow dram": (
        "60 GB/s",
        "400 MB/s",
        "9: dram.bandwidth: 400 MB/s is slower than the flash, 500 MB/s; check both, and their units",
    ),
    "no rate": ("60 GB/s", "60 B/s", "9: dram.bandwidth: 60 B/s is no rate that DRAM has; check its unit"),
    "tiny dram": ("4 GiB", "4 B", "6: dram.available: 4 B is no size that DRAM has; check its unit"),
    "huge dram": ("8 GB", "8000 TB", "4: dram.capacity: 8000 TB is no size that DRAM has; check its unit"),
    "late": (
        CURVE,
        curve("1 KiB, bandwidth: 100 B/s", "64 MiB, bandwidth: 6 MB/s"),
        "12: flash.bandwidth[0].bandwidth: at 100 B/s a read of 4 KiB takes 40.96 s; check the unit",
    ),
    "cheap flash": (
        "400 pJ/B",
        "4 pJ/B",
        "17: energy.flash: 4 pJ/B is less than of DRAM, 40 pJ/B; check both, and their units",
    ),
    "energy": ("400 pJ/B", "400 J/B", "17: energy.flash: 4e+14 pJ/B is no energy that a read takes; check its unit"),
}


@pytest.mark.parametrize(("old", "new", "doubt"), DOUBTS.values(), ids=DOUBTS)
def test_what_can_hardly_be_meant_is_a_warning_and_no_problem(here: Path, old: str, new: str, doubt: str) -> None:
    good = GOOD + ENERGY
    assert old in good
    (here / "x.yaml").write_text(good.replace(old, new, 1), encoding="utf-8")
    device, problems, doubts = read_device("x.yaml")
    assert (device is not None, problems, doubts) == (True, [], [f"x.yaml:{doubt}"])
    with pytest.warns(DipcWarning) as caught:
        assert load_device("x.yaml") == device
    assert [str(warning.message) for warning in caught] == doubts


def test_a_flash_that_is_asked_for_and_faster_than_the_dram_is_a_warning(here: Path) -> None:
    (here / "x.yaml").write_text(GOOD, encoding="utf-8")
    with pytest.warns(DipcWarning) as caught:
        device = device_for("x.yaml", None, "80 GB/s", 0)
    assert device.flash_bandwidth(4096) == 80e9
    assert [str(warning.message) for warning in caught] == [
        "x with flash 80 GB/s: dram.bandwidth: 60 GB/s is slower than the flash, 80 GB/s; check both, and their units"
    ]
