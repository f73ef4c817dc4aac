"""Reads from flash: cases worked by hand, equality with a plain loop, layouts, and what options may be asked."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipc.cache import get_policy
from dipc.errors import UsageError
from dipc.hardware.device import Device, Energy
from dipc.hardware.figure import Figure
from dipc.hardware.find import load_device
from dipc.hardware.flash_curve import Access, Flash, FlashPoint
from dipc.memory.allocation import allocate
from dipc.memory.flash import FlashReadOptions
from dipc.memory.flash.layout import order_of
from dipc.memory.flash.reads import FlashPlacement, SiteReads, seconds_per_read, selected_reads
from dipc.memory.pricing import Case, Price, price, price_many
from dipc.memory.trace import Trace
from dipc.memory.traffic import Site, TrafficProgram

PAGE = 4096


def figure(value: Any) -> Figure[Any]:
    return Figure(value, "the test", "assumed")


def device(*points: tuple[int, float], page: int | None = None) -> Device:
    """The paper's device with a flash of these (chunk, bytes per second), and perhaps a page."""
    curve = tuple(FlashPoint(chunk, figure(float(rate))) for chunk, rate in points or ((1, 1e9),))
    return dataclasses.replace(load_device("a18"), flash=Flash(curve, None if page is None else figure(page)))


def reads_of(missed: str, placement: FlashPlacement, seconds: float = 1.0) -> tuple[float, int, float]:
    """Bytes, reads and seconds of one token that misses the units marked 1, each read taking `seconds`."""
    mask = np.array([[int(bit) for bit in missed]], dtype=np.uint8)
    found = selected_reads(np.packbits(mask, axis=1), None, placement, [lambda _: seconds])[0]
    return float(found.bytes_T[0]), int(found.reads_T[0]), float(found.seconds_T[0])


def test_neighbours_and_small_gaps_become_one_read() -> None:
    # Units of 10 bytes. Runs 0-1, 3, 7-8: three reads of 20, 10 and 20 bytes.
    # A gap of 10 bytes is read over: 0-3 and 7-8, 40 + 20 bytes. One of 30 too: 0-8, 90 bytes.
    def joined(over: int) -> tuple[float, int, float]:
        return reads_of("110100011", FlashPlacement(9, 10.0, 1, None, over))

    assert joined(0) == (50, 3, 3)
    assert joined(9) == (50, 3, 3)
    assert joined(10) == (60, 2, 2)
    assert joined(30) == (90, 1, 1)
    assert reads_of("000000000", FlashPlacement(9, 10.0, 1, None, 0)) == (0, 0, 0)


@pytest.mark.smoke
def test_aligned_reads_take_whole_pages_and_each_page_once() -> None:
    # Units of 1.5 KiB in pages of 4 KiB: unit 0 and 1 in page 0, unit 2 in pages 0 and 1, unit 5 in 1 and 2 (7.5 to 9).
    placement = FlashPlacement(8, 1536.0, 1, PAGE, None)
    assert reads_of("10000000", placement) == (PAGE, 1, 1)
    assert reads_of("11000000", placement) == (PAGE, 1, 1)
    assert reads_of("00100000", placement) == (2 * PAGE, 1, 1)
    assert reads_of("10100000", placement) == (2 * PAGE, 1, 1)
    assert reads_of("10000100", placement) == (3 * PAGE, 2, 2)  # page 0, and pages 1 and 2: neighbours, not joined
    assert reads_of("10000100", dataclasses.replace(placement, over_read_bytes=0)) == (3 * PAGE, 1, 1)


def test_units_of_whole_pages_are_read_as_they_are() -> None:
    placement = FlashPlacement(4, 2.0 * PAGE, 1, PAGE, None)
    assert reads_of("1101", placement) == (6 * PAGE, 3, 3)
    assert reads_of("1101", dataclasses.replace(placement, over_read_bytes=0)) == (6 * PAGE, 2, 2)
    assert reads_of("1101", dataclasses.replace(placement, over_read_bytes=2 * PAGE)) == (8 * PAGE, 1, 1)


def test_matrices_apart_are_read_apart() -> None:
    # Two matrices, 5 bytes of each in a unit: twice the reads, the same bytes.
    assert reads_of("110100011", FlashPlacement(9, 5.0, 2, None, 0)) == (50, 6, 6)


def plain_loop(missed: np.ndarray, placement: FlashPlacement, seconds: Any) -> tuple[float, int, float]:
    """One token's reads, unit by unit."""
    reads: list[list[float]] = []
    grain, over = placement.page_bytes or 1, placement.over_read_bytes
    for unit in np.flatnonzero(missed).tolist():
        begin = unit * placement.piece_bytes // grain * grain
        end = -(-(unit + 1) * placement.piece_bytes // grain) * grain
        if reads and (begin < reads[-1][1] or (over is not None and begin - reads[-1][1] <= over)):
            reads[-1][1] = end
        else:
            reads.append([begin, end])
    sizes = [end - begin for begin, end in reads]
    copies = placement.copies
    return copies * sum(sizes), copies * len(sizes), copies * sum(map(seconds, sizes))


@given(
    st.integers(1, 40).flatmap(
        lambda units: st.lists(st.lists(st.booleans(), min_size=units, max_size=units), min_size=1, max_size=6)
    ),
    st.sampled_from([3, 16, 24, 64, 100]),
    st.sampled_from([None, 8, 64]),
    st.sampled_from([None, 0, 3, 20, 64, 200]),
    st.integers(1, 3),
)
def test_reads_are_those_of_a_plain_loop(
    masks: list[list[bool]], piece: int, page: int | None, over: int | None, copies: int
) -> None:
    missed = np.array(masks, dtype=np.uint8)
    placement = FlashPlacement(missed.shape[1], float(piece), copies, page, over)
    timing = seconds_per_read(device((1, 1e6), (1000, 1e8)), FlashReadOptions())
    found = selected_reads(np.packbits(missed, axis=1), None, placement, [timing, lambda _: 1.0])
    for token, mask in enumerate(missed):
        size_bytes, count, seconds = plain_loop(mask, placement, timing)
        assert (found[0].bytes_T[token], found[0].reads_T[token]) == (size_bytes, count)
        assert found[0].seconds_T[token] == pytest.approx(seconds)
        assert found[1].seconds_T[token] == count


def test_many_tokens_are_read_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = np.packbits(np.random.default_rng(0).random((50, 30)) < 0.4, axis=1)
    placement = FlashPlacement(30, 10.0, 1, 64, 20)

    def read() -> SiteReads:
        return selected_reads(masks, None, placement, [lambda size: size])[0]

    whole = read()
    monkeypatch.setattr("dipc.memory.flash.reads._BLOCK", 100)
    pieces = read()
    np.testing.assert_array_equal(whole.reads_T, pieces.reads_T)
    np.testing.assert_array_equal(whole.bytes_T, pieces.bytes_T)
    np.testing.assert_array_equal(whole.bytes_T, pieces.seconds_T)


# Layouts


def test_popular_units_come_first() -> None:
    touched = np.array([[0, 1, 0, 1], [0, 1, 1, 0], [0, 1, 1, 0]], dtype=np.uint8)
    packed = np.packbits(touched, axis=1)
    assert order_of("file", packed, 4) is None
    assert order_of("popularity", packed, 4).tolist() == [1, 2, 3, 0]  # type: ignore[union-attr]


def test_units_read_together_become_neighbours() -> None:
    # {0, 3} three times, {1, 4} twice, {3, 4} once: 0-3 and 1-4 are joined first, then 3-4: the chain 0 3 4 1, then 2.
    tokens = [{0, 3}] * 3 + [{1, 4}] * 2 + [{3, 4}]
    touched = np.array([[unit in token for unit in range(5)] for token in tokens], dtype=np.uint8)
    order = order_of("co-activation", np.packbits(touched, axis=1), 5)
    assert order is not None and order.tolist() in ([0, 3, 4, 1, 2], [1, 4, 3, 0, 2])


@given(st.integers(1, 40), st.integers(1, 20), st.integers(0, 99), st.sampled_from(["popularity", "co-activation"]))
def test_a_layout_is_an_order_of_all_units(units: int, tokens: int, seed: int, layout: Any) -> None:
    touched = (np.random.default_rng(seed).random((tokens, units)) < 0.3).astype(np.uint8)
    order = order_of(layout, np.packbits(touched, axis=1), units)
    assert order is not None and sorted(order.tolist()) == list(range(units))


# Prices


def one_site(units: int = 64, unit_bytes: float = 1024, full: bool = False) -> TrafficProgram:
    site = Site("a", 0, units, unit_bytes, ("up.weight", "gate.weight"), full, unit_weights=1)
    return TrafficProgram(0, (site,), 0, "test")


def groups(tokens: int = 60, units: int = 64) -> Trace:
    """Units 0, 8, 16, ... are always touched together, and so are 1, 9, 17, ...: four such groups a token."""
    chosen = np.random.default_rng(0).permuted(np.tile(np.arange(8), (tokens, 1)), axis=1)[:, :4]
    return Trace.from_masks({"a": (np.arange(units) % 8 == chosen[:, :, None]).any(axis=1)}, {})


def priced(reads: FlashReadOptions, dev: Device | None = None, policy: str = "lru") -> Price:
    traffic = one_site()
    allocation = allocate(traffic, 16 * 1024, 0)
    slow_at_random = device((1024, 1e8), (65536, 2e9))
    return price(traffic, allocation, dev or slow_at_random, get_policy(policy), groups(), warmup=20, reads=reads)


def test_a_layout_by_co_activation_makes_few_long_reads_of_many_short_ones() -> None:
    alone, joined = priced(FlashReadOptions()), priced(FlashReadOptions(over_read_bytes=0))
    together = priced(FlashReadOptions(over_read_bytes=0, layout="co-activation"))
    for cost in (alone, joined, together):
        assert cost.flash_bytes.tolist() == alone.flash_bytes.tolist() and cost.read_amplification == 1
        assert cost.hit_rate == alone.hit_rate
    assert together.reads_per_token < joined.reads_per_token / 3 < alone.reads_per_token / 3
    assert together.throughput > 2 * alone.throughput


def test_pages_amplify_what_is_read() -> None:
    whole = priced(FlashReadOptions(), device((4096, 1e9), (65536, 2e9), page=4096))
    exact = priced(FlashReadOptions(align=False), device((4096, 1e9), (65536, 2e9), page=4096))
    assert exact.read_amplification == 1 < whole.read_amplification <= 4
    assert whole.flash_bytes.sum() == whole.read_amplification * exact.flash_bytes.sum()
    assert "pages of 4 KiB" in whole.reads and "any bytes" in exact.reads


def test_matrices_apart_double_the_reads() -> None:
    dev = device((512, 5e7), (65536, 2e9))
    apart, together = priced(FlashReadOptions(bundling="matrix"), dev), priced(FlashReadOptions(), dev)
    assert apart.reads_per_token == 2 * together.reads_per_token
    assert apart.flash_bytes.tolist() == together.flash_bytes.tolist() and apart.throughput < together.throughput


def test_overlap_can_be_asked_for() -> None:
    assert priced(FlashReadOptions()).overlap and not priced(FlashReadOptions(overlap=False)).overlap
    assert priced(FlashReadOptions(overlap=False)).throughput < priced(FlashReadOptions()).throughput


@pytest.mark.parametrize("policy", ["none", "lru", "belady", "static"])
def test_defaults_need_no_look_at_the_masks_and_agree_with_one(policy: str) -> None:
    alone = priced(FlashReadOptions(), policy=policy)
    # Pages of a unit's size: every missed unit is still a read of its own, found from the masks.
    looked = priced(FlashReadOptions(), device((1024, 1e8), (65536, 2e9), page=1024), policy)
    np.testing.assert_array_equal(alone.flash_bytes, looked.flash_bytes)
    np.testing.assert_allclose(alone.flash_s, looked.flash_s)
    assert alone.reads_per_token == looked.reads_per_token


def test_what_is_read_in_full_is_one_sequential_stretch() -> None:
    # 64 units of 1 KiB, 10 fit: 54 KiB from 10 KiB on, in pages of 4 KiB: 56 KiB from 8 KiB on, sequential: 2 GB/s.
    def points(access: Access, rate: float) -> tuple[FlashPoint, ...]:
        return tuple(FlashPoint(chunk, figure(rate), access) for chunk in (4096, 65536))

    flash = Flash((*points("random", 1e9), *points("sequential", 2e9)), figure(4096))
    dev = dataclasses.replace(device(), flash=flash)
    traffic = one_site(full=True)
    cost = price(traffic, allocate(traffic, 10 * 1024, 0), dev, get_policy("lfu"), None)
    assert cost.flash_bytes.tolist() == [56 * 1024] and cost.reads_per_token == 1
    assert cost.flash_s.tolist() == pytest.approx([56 * 1024 / 2e9])


def test_cases_of_many_devices_and_reads_are_those_priced_alone() -> None:
    traffic, trace = one_site(), groups()
    paged = device((4096, 1e9), page=4096)
    cases = [
        Case(allocate(traffic, dram * 1024, 0), dev, get_policy(policy), reads)
        for dram in (8, 24)
        for dev in (device(), paged, paged.with_flash_bandwidth(5e8))
        for policy in ("lru", "belady")
        for reads in (FlashReadOptions(), FlashReadOptions(over_read_bytes=2048, layout="popularity"))
    ]
    for case, found in zip(cases, price_many(traffic, cases, trace, warmup=20), strict=True):
        alone = price(traffic, case.allocation, case.device, case.policy, trace, warmup=20, reads=case.reads)
        np.testing.assert_array_equal(found.latency_s, alone.latency_s)
        np.testing.assert_array_equal(found.flash_bytes, alone.flash_bytes)


def test_energy_is_of_all_bytes_read() -> None:
    dev = dataclasses.replace(device(), energy=Energy(figure(2e-12), figure(50e-12)))
    cost = priced(FlashReadOptions(), dev)
    assert cost.energy_j_per_token == pytest.approx(
        2e-12 * cost.dram_bytes_per_token + 50e-12 * cost.flash_bytes_per_token
    )
    assert priced(FlashReadOptions()).energy_j_per_token is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bundling": "layer"}, "bundling=layer: no such bundling; write one of unit, matrix"),
        ({"layout": "random"}, "layout=random: no such layout"),
        ({"layout": "popularity"}, "give over_read too"),
        ({"over_read_bytes": -1}, "over_read is -1 bytes"),
        ({"queue_depth": 0}, "queue_depth is 0"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FlashReadOptions(**options)


def test_what_a_device_has_no_figures_for_is_refused() -> None:
    with pytest.raises(UsageError, match=r"the file of a18 gives no flash\.page"):
        priced(FlashReadOptions(align=True))
    with pytest.raises(UsageError, match="a18 has no figures by queue depth"):
        priced(FlashReadOptions(queue_depth=8))
    traffic = one_site()
    reads, allocation = FlashReadOptions(over_read_bytes=0, layout="popularity"), allocate(traffic, 9999, 0)
    with pytest.raises(UsageError, match="made from the warm-up tokens"):
        price(traffic, allocation, device(), get_policy("lru"), groups(), reads=reads)
