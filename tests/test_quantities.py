"""Quantities with units: what parses, what is refused and in which words, and that printing round-trips."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipc.errors import UsageError
from dipc.quantities import format_bandwidth, format_bytes, format_chunk, parse_bandwidth, parse_bytes


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("4 GB", 4_000_000_000),
        ("4 GiB", 4_294_967_296),
        ("512 MB", 512_000_000),
        ("4 KiB", 4096),
        ("2 kB", 2000),
        ("2 KB", 2000),
        ("1.5TB", 1_500_000_000_000),
        ("  0.5   MiB ", 524_288),
        ("7 B", 7),
        ("0.1 GiB", 107_374_182),  # 107374182.4
        ("2.5 B", 3),
    ],
)
def test_parse_bytes(text: str, size_bytes: int) -> None:
    assert parse_bytes(text) == size_bytes


@pytest.mark.parametrize(
    ("text", "bandwidth"), [("60 GB/s", 60e9), ("67.2 GB/s", 67.2e9), ("1 GiB/s", 1073741824.0), ("0.5 B/s", 0.5)]
)
def test_parse_bandwidth(text: str, bandwidth: float) -> None:
    assert parse_bandwidth(text) == bandwidth


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("4", '"4" has no unit; write "4 GB" or "4 GiB"'),
        ("4096", '"4096" has no unit; write B, kB, MB, GB, TB, KiB, MiB, GiB or TiB after it'),
        ("2.5", '"2.5" has no unit; write "2.5 GB" or "2.5 GiB"'),
        ("", '"" is not a size; write it as in "4 GB" or "4 GiB"'),
        ("GB", '"GB" is not a size; write it as in "4 GB" or "4 GiB"'),
        ("4,200 MB", '"4,200 MB" is not a size; write it as in "4 GB" or "4 GiB"'),
        ("1.2.3 GB", '"1.2.3 GB" is not a size; write it as in "4 GB" or "4 GiB"'),
        ("4 5 GB", '"4 5 GB" is not a size; write it as in "4 GB" or "4 GiB"'),
        ("1e9 B", '"1e9 B" is not a size; write "1 GB"'),
        ("4 gb", '"4 gb" has the unknown unit "gb"; write "4 GB"'),
        ("4 Gb", '"4 Gb" has the unknown unit "Gb"; write it as in "4 GB" or "4 GiB"'),
        ("60 GB/s", '"60 GB/s" has the unknown unit "GB/s"; write "60 GB"'),
        ("0 GB", '"0 GB" must be greater than zero'),
        ("-4 GB", '"-4 GB" must be greater than zero'),
        ("-4", '"-4" must be greater than zero'),
        ("0.2 B", '"0.2 B" is less than one byte'),
        ("9" * 16 + " GB", f'"{"9" * 16} GB" is not a size; write it as in "4 GB" or "4 GiB"'),
    ],
)
def test_what_is_no_size(text: str, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_bytes(text)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("60", '"60" has no unit; write "60 GB/s" or "60 GiB/s"'),
        ("60 GB", '"60 GB" has the unknown unit "GB"; write "60 GB/s"'),
        ("60 Gbps", '"60 Gbps" has the unknown unit "Gbps"; write "7.5 GB/s"'),
        ("fast", '"fast" is not a bandwidth; write it as in "4 GB/s" or "4 GiB/s"'),
        ("0 GB/s", '"0 GB/s" must be greater than zero'),
    ],
)
def test_what_is_no_bandwidth(text: str, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_bandwidth(text)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (2048, "2.05 kB"),
        (999_499, "999 kB"),
        (999_500, "1 MB"),
        (4_294_967_296, "4.29 GB"),
        (7_400_000_000, "7.4 GB"),
        (1_234_000_000_000_000, "1230 TB"),
    ],
)
def test_format_bytes(size_bytes: int, text: str) -> None:
    assert format_bytes(size_bytes) == text


def test_format_bandwidth() -> None:
    assert format_bandwidth(67.2e9) == "67.2 GB/s"


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (512, "512 B"),
        (2048, "2 KiB"),
        (1024**2, "1 MiB"),
        (3 * 1024**3, "3 GiB"),
        (1536 * 1024, "1536 KiB"),
        (2000, "2 kB"),
    ],
)
def test_format_chunk(size_bytes: int, text: str) -> None:
    assert format_chunk(size_bytes) == text


@given(st.integers(1, 10**17))
def test_a_printed_size_parses_back_to_three_digits(size_bytes: int) -> None:
    assert abs(parse_bytes(format_bytes(size_bytes)) - size_bytes) <= 0.005 * size_bytes + 0.5


@given(st.integers(1, 10**15))
def test_a_printed_chunk_parses_back_to_three_digits(size_bytes: int) -> None:
    assert abs(parse_bytes(format_chunk(size_bytes)) - size_bytes) <= 0.005 * size_bytes + 0.5


@given(st.floats(1.0, 1e17))
def test_a_printed_bandwidth_parses_back_to_three_digits(bandwidth: float) -> None:
    assert parse_bandwidth(format_bandwidth(bandwidth)) == pytest.approx(bandwidth, rel=0.005)


@given(st.integers(1, 10**15), st.sampled_from(["B", "kB", "MB", "GB", "TB", "KiB", "MiB", "GiB", "TiB"]))
def test_a_whole_number_of_a_unit_is_exact(number: int, unit: str) -> None:
    if number < 10**15:
        assert parse_bytes(f"{number} {unit}") == number * parse_bytes(f"1 {unit}")


@given(st.text(max_size=30))
def test_any_text_parses_or_is_a_usage_error(text: str) -> None:
    for parse in (parse_bytes, parse_bandwidth):
        try:
            assert parse(text) > 0
        except UsageError:
            continue
