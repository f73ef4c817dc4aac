"""What is proposed for a quantity that is not written right: it parses, it is what was meant, or it is not proposed."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipc.errors import UsageError
from dipc.quantities import parse_bandwidth, parse_bytes

SIZES = {
    "4096M": 4096e6,
    "4G": 4e9,
    "4g": 4e9,
    "4Gi": 4 * 2**30,
    "16Ki": 16 * 2**10,
    "4 gb": 4e9,
    "4 GIB": 4 * 2**30,
    "4 gib": 4 * 2**30,
    "4 mB": 4e6,
    "4 gigabytes": 4e9,
    "1 gibibyte": 2**30,
    "7 bytes": 7,
    "4 GBytes": 4e9,
    "8 Gbit": 1e9,
    "4 kilobits": 500,
    "60 GB/s": 60e9,
    "60,5 GB": 60.5e9,
    "0,125 GB": 0.125e9,
    "1,2345 GB": 1.2345e9,
    "4 200 MB": 4200e6,
    "4'200 MB": 4200e6,
    "1,234,567 kB": 1234567e3,
    "1.234.567 kB": 1234567e3,
    "1.234,5 MB": 1234.5e6,
    "1,234.5 MB": 1234.5e6,
    "4.200,300 MB": 4200.3e6,
    "1'000.000 B": 1000,
    "1e9 B": 1e9,
    "2.5E9 B": 2.5e9,
    ".5 GB": 0.5e9,
    "5. GB": 5e9,
    "4 PB": 4e15,
    "4 PiB": 4 * 2**50,
}
RATES = {
    "8 Gb/s": 1e9,
    "60 Gbps": 7.5e9,
    "60 GBps": 60e9,
    "8 Gbit/s": 1e9,
    "500 MBit/s": 62.5e6,
    "8 Gib/s": 2**30,
    "800 Mb/s": 100e6,
    "100 kb/s": 12.5e3,
    "3 Kb/s": 375,
    "9 gigabits per second": 1.125e9,
    "60 GB": 60e9,
    "60 GB/sec": 60e9,
    "60 GB / s": 60e9,
    "60 GB per second": 60e9,
    "60 gB/s": 60e9,
    "60,5 GB/s": 60.5e9,
    "1e-3 GB/s": 1e6,
}
NO_SIZES = [
    "4,200 MB",
    "1,,5 GB",
    "4 Gb",
    "4 Gib",
    "7 b",
    "8 Gb/s",
    "16K",
    "16k",
    "4 i",
    "4 iB",
    "4 MT",
]
NO_SIZES += [
    "50 percent",
    "2 EB",
    "4 GB.",
    "4-8 GB",
    "~4 GB",
    "1.2.3 GB",
    "4 5 GB",
    "9" * 16 + " GB",
    "4 GHz",
    "GB",
    "",
]
NO_RATES = ["60 gb/s", "10 gbps", "60 G/s", "60 Gps", "8 Gb", "1 b/s", "8533 MT/s", "4096M", "60", "4,200 MB/s"]


def proposed(text: str, *, rate: bool) -> str | None:
    """What the message proposes to write in place of `text`; None where it gives examples only."""
    with pytest.raises(UsageError) as raised:
        (parse_bandwidth if rate else parse_bytes)(text)
    found = re.search(r'; write "([^"]*)"$', str(raised.value))
    return found[1] if found else None


@pytest.mark.parametrize(("text", "size_bytes"), SIZES.items())
def test_a_size_that_is_surely_meant_is_proposed(text: str, size_bytes: float) -> None:
    proposal = proposed(text, rate=False)
    assert proposal is not None and parse_bytes(proposal) == size_bytes


@pytest.mark.parametrize(("text", "bandwidth"), RATES.items())
def test_a_bandwidth_that_is_surely_meant_is_proposed(text: str, bandwidth: float) -> None:
    proposal = proposed(text, rate=True)
    assert proposal is not None and parse_bandwidth(proposal) == bandwidth


@pytest.mark.parametrize(("text", "rate"), [*((t, False) for t in NO_SIZES), *((t, True) for t in NO_RATES)])
def test_what_may_mean_several_things_is_not_guessed(text: str, rate: bool) -> None:
    assert proposed(text, rate=rate) is None


UNITS = {
    f"{prefix}{letters}": factor * share
    for prefix, factor in {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20}.items()
    for letters, share in {
        "B": Decimal(1),
        "bit": Decimal("0.125"),
        "Byte": Decimal(1),
        "bits": Decimal("0.125"),
    }.items()
}
AMOUNTS = st.decimals(Decimal(8), Decimal(10**6), places=3)
WRITTEN = {
    "point": lambda value: f"{value.normalize():f}",
    "comma": lambda value: f"{value.normalize():f}".replace(".", ","),
    "exponent": lambda value: f"{value.normalize():e}",
    "apostrophes": lambda value: f"{value:,}".replace(",", "'"),
}


@given(AMOUNTS, st.sampled_from(sorted(UNITS)), st.sampled_from(sorted(WRITTEN)), st.sampled_from(["", "/s", "ps"]))
def test_a_proposal_is_as_much_as_was_written(value: Decimal, unit: str, writing: str, per_s: str) -> None:
    text = f"{WRITTEN[writing](value)} {unit}{per_s}"
    parse = parse_bandwidth if per_s else parse_bytes
    bytes_meant = float(value * UNITS[unit])
    try:
        found: float | None = parse(text)
    except UsageError as error:
        proposal = re.search(r'; write "([^"]*)"$', str(error))
        found = parse(proposal[1]) if proposal else None
    assert found is None or found == pytest.approx(bytes_meant, rel=1e-9, abs=0.0 if per_s else 0.5)


@given(st.from_regex(r"[0-9 .,_'eE+-]{1,12} ?[kKmMgGiIbBtps/ ]{0,6}", fullmatch=True), st.booleans())
def test_whatever_is_proposed_parses(text: str, rate: bool) -> None:
    parse = parse_bandwidth if rate else parse_bytes
    try:
        parse(text)
    except UsageError as error:
        for proposal in re.findall(r'"([^"]*)"', str(error).partition("; write ")[2]):
            assert parse(proposal) > 0
