"""Allocation and pricing: cases worked by hand, properties, and the paper's dense rows."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipc.cache import get_policy
from dipc.errors import UsageError
from dipc.hardware.device import Device
from dipc.hardware.figure import Figure
from dipc.hardware.find import load_device
from dipc.hardware.flash_curve import Flash, FlashPoint
from dipc.memory.allocation import Allocation, allocate
from dipc.memory.pricing import Case, Price, price, price_many
from dipc.memory.trace import Trace
from dipc.memory.traffic import Site, TrafficProgram
from kit.traces import uniform_trace

GB = 1e9
INT4_BYTES = 4.25 / 8
"""Bytes of a weight: 4 bits, and a 16-bit scale for each 64 of them."""


def device(flash: float = 1 * GB, dram: float = 60 * GB, overlap: bool = True) -> Device:
    """The paper's device with other bandwidths, in bytes/s."""
    a18 = load_device("a18").with_flash_bandwidth(flash)
    faster = dataclasses.replace(a18.dram, bandwidth=Figure(dram, "the test", "assumed"))
    return dataclasses.replace(a18, dram=faster, overlapped=Figure(overlap, "the test", "assumed"))


def site(name: str, layer: int, units: int, unit_bytes: float, full: bool = False) -> Site:
    return Site(name, layer, units, unit_bytes, (f"{name}.weight",), full, unit_weights=1)


def program(*sites: Site, resident: float = 0, kv: float = 0, unread: float = 0) -> TrafficProgram:
    return TrafficProgram(resident, sites, kv, "test", unread)


def test_resident_and_kv_cache_come_first_and_sites_share_by_bytes() -> None:
    # 1000 - 100 - 2 * 50 = 800 for two layers, 400 each. A layer holds 600 + 200 = 800 bytes, so half of each site:
    # 30 of 60 units of 10 bytes, 5 of 10 units of 20 bytes.
    sites = [site(f"{layer}.{n}", layer, u, b) for layer in (0, 1) for n, u, b in (("input", 60, 10), ("glu", 10, 20))]
    allocation = allocate(program(*sites, resident=100, kv=2), dram_bytes=1000, context=50)
    assert allocation.capacities == {"0.input": 30, "0.glu": 5, "1.input": 30, "1.glu": 5}
    assert (allocation.resident_bytes, allocation.kv_bytes) == (100, 100)
    assert (allocation.cached_bytes, allocation.left_over_bytes) == (800, 0)


def test_capacities_are_whole_units_rounded_down() -> None:
    # 99 bytes for sites of 10 x 10 and 5 x 20 bytes: 99/200 of each, 4.95 and 2.475 units; 40 + 40 bytes are used.
    allocation = allocate(program(site("a", 0, 10, 10), site("b", 0, 5, 20)), dram_bytes=99, context=0)
    assert allocation.capacities == {"a": 4, "b": 2}
    assert (allocation.cached_bytes, allocation.left_over_bytes) == (80, 19)


def test_a_layer_gives_what_it_cannot_use_to_the_others() -> None:
    # 900 bytes for layers of 100, 350 and 1000: 300 each; layer 0 takes 100 and the others share 800: 400 each;
    # layer 1 takes 350, and layer 2 gets 450.
    sites = site("2", 2, 100, 10), site("0", 0, 10, 10), site("1", 1, 35, 10)
    allocation = allocate(program(*sites), dram_bytes=900, context=0)
    assert allocation.capacities == {"2": 45, "0": 10, "1": 35}


def test_a_model_that_fits_is_cached_whole() -> None:
    allocation = allocate(program(site("a", 0, 7, 0.3), site("b", 1, 9, 0.1)), dram_bytes=10, context=0)
    assert allocation.capacities == {"a": 7, "b": 9}
    assert allocation.left_over_bytes == pytest.approx(10 - 2.1 - 0.9)


def test_dram_that_does_not_hold_the_resident_part_is_refused() -> None:
    traffic = program(site("a", 0, 1, 1), resident=1.5e9, kv=1e5)
    with pytest.raises(UsageError) as error:
        allocate(traffic, dram_bytes=1.6e9, context=2000)
    assert str(error.value) == (
        "test needs 1.7 GB of DRAM (1.5 GB resident, 200 MB KV cache at context 2000) and 1.6 GB is available, "
        "100 MB too little; give it more DRAM, shorten the context or quantise to fewer bits"
    )
    with pytest.raises(UsageError, match=r"all resident.*1 GB is available, 500 MB too little"):
        allocate(traffic, dram_bytes=1e9, context=0)
    with pytest.raises(UsageError, match="context is -1"):
        allocate(traffic, dram_bytes=1e10, context=-1)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 50), st.floats(0.1, 99)), max_size=6), st.floats(1, 20000))
def test_an_allocation_adds_up_and_wastes_little(sites: list[tuple[int, int, float]], dram: float) -> None:
    traffic = program(*(site(str(n), *rest) for n, rest in enumerate(sites)), resident=1)
    allocation = allocate(traffic, dram, context=0)
    assert all(0 <= allocation.capacities[s.name] <= s.units for s in traffic.sites)
    assert 1 + allocation.cached_bytes + allocation.left_over_bytes == pytest.approx(dram)
    assert allocation.left_over_bytes >= 0
    if allocation.capacities != {s.name: s.units for s in traffic.sites}:
        assert allocation.left_over_bytes <= sum(s.unit_bytes for s in traffic.sites)


def test_a_layer_is_shared_by_bytes_times_claims() -> None:
    # 90 bytes: by size 60 and 30; with claims of 1.2 and 0.6 to each byte 72 and 18.
    by_size = program(site("in", 0, 10, 10), site("out", 0, 10, 5))
    claimed = program(
        dataclasses.replace(site("in", 0, 10, 10), claim=1.2), dataclasses.replace(site("out", 0, 10, 5), claim=0.6)
    )
    assert allocate(by_size, dram_bytes=90, context=0).capacities == {"in": 6, "out": 6}
    assert allocate(claimed, dram_bytes=90, context=0).capacities == {"in": 7, "out": 3}
    # Of 130 bytes the first would get 104 and has use for 100.
    assert allocate(claimed, dram_bytes=130, context=0).capacities == {"in": 10, "out": 6}


def small_price(policy: str = "lru", warmup: int = 0, overlap: bool = True) -> Price:
    """Two sites, three tokens: a selects of 4 units of 10 bytes, b is read in full, 5 units of 20 bytes."""
    traffic = program(site("a", 0, 4, 10), site("b", 0, 5, 20, full=True), resident=100, kv=1, unread=30)
    mask = np.array([[1, 1, 0, 0], [0, 1, 1, 0], [1, 0, 1, 0]], dtype=np.bool_)
    trace = Trace.from_masks({"a": mask}, {"model": "m"})
    allocation = Allocation({"a": 2, "b": 3}, 100, 6, 80, 0)
    return price(traffic, allocation, device(10, 100, overlap), get_policy(policy), trace, warmup=warmup)


@pytest.mark.smoke
def test_a_price_by_hand() -> None:
    # Site a, two units fit, LRU: {0,1} 0 hits; {1,2} hits 1, 0 goes; {0,2} hits 2, 1 goes. Hits 0, 1, 1 of 2 accesses.
    # Site b: 3 of 5 hit. Flash: 20+40, 10+40, 10+40 bytes at 10 B/s. DRAM: 100-30 resident + 6 KV + hits.
    cost = small_price()
    assert cost.flash_bytes.tolist() == [60, 50, 50]
    assert cost.dram_bytes.tolist() == [136, 146, 146]
    assert cost.latency_s.tolist() == pytest.approx([6, 5, 5])
    assert cost.throughput == pytest.approx(3 / 16)
    assert cost.sites["a"].hit_rate == pytest.approx(2 / 6) and cost.sites["b"].hit_rate == pytest.approx(3 / 5)
    assert cost.hit_rate_units == pytest.approx((2 + 9) / (6 + 15))
    assert cost.hit_rate == pytest.approx((20 + 180) / (60 + 300))
    assert cost.flash_bytes_per_token == pytest.approx(160 / 3)
    assert cost.dram_bytes_per_token == pytest.approx(428 / 3)
    assert (cost.tokens, cost.bound, cost.device, cost.policy, cost.label) == (3, "flash", "a18", "lru", "test")
    assert cost.trace_meta == {"model": "m"}


def test_times_add_up_where_the_device_does_not_overlap_them() -> None:
    assert small_price(overlap=False).latency_s.tolist() == pytest.approx([6 + 1.36, 5 + 1.46, 5 + 1.46])


def test_warm_up_tokens_fill_the_cache_and_are_not_counted() -> None:
    cost = small_price(warmup=1)
    assert cost.flash_bytes.tolist() == [50, 50] and cost.sites["a"].accesses == 4 and cost.warmup == 1
    with pytest.raises(UsageError, match="leave at least one"):
        small_price(warmup=3)


def test_without_a_cache_everything_is_read_from_flash() -> None:
    cost = small_price("none")
    assert cost.hit_rate == 0 and cost.flash_bytes.tolist() == [120, 120, 120]


def test_a_model_that_fits_is_bound_by_dram() -> None:
    traffic = program(site("a", 0, 4, 10, full=True), resident=80)
    cost = price(traffic, allocate(traffic, 120, 0), device(10, 100), get_policy("lfu"), None)
    assert cost.bound == "dram" and cost.latency_s.tolist() == pytest.approx([1.2]) and cost.hit_rate == 1


def test_selected_units_are_read_one_by_one_and_full_sites_in_one_run() -> None:
    # 10 bytes/s in chunks of 10 bytes, 40 bytes/s from 40 bytes on. a misses 2, 1, 1 units of 10 bytes; b 2 of 20.
    curve = tuple(FlashPoint(c, Figure(r, "the test", "assumed")) for c, r in ((10, 10.0), (40, 40.0)))
    small = dataclasses.replace(device(dram=1e9), flash=Flash(curve))
    traffic = program(site("a", 0, 4, 10), site("b", 0, 5, 20, full=True))
    trace = Trace.from_masks({"a": np.array([[1, 1, 0, 0], [0, 1, 1, 0]], dtype=np.bool_)}, {})
    cost = price(traffic, Allocation({"a": 2, "b": 3}, 0, 0, 80, 0), small, get_policy("lru"), trace)
    assert cost.latency_s.tolist() == pytest.approx([2 + 1, 1 + 1])


def test_a_trace_must_be_there_and_belong_to_the_program() -> None:
    traffic = program(site("a", 0, 4, 10))
    allocation = allocate(traffic, 20, 0)

    def priced(trace: Trace | None) -> Price:
        return price(traffic, allocation, device(), get_policy("lru"), trace)

    with pytest.raises(UsageError, match="give a trace"):
        priced(None)
    with pytest.raises(UsageError, match="no site 'a'"):
        priced(Trace.from_masks({"b": np.ones((1, 4), dtype=np.bool_)}, {}))
    with pytest.raises(UsageError, match="5 units in the trace and 4"):
        priced(Trace.from_masks({"a": np.ones((1, 5), dtype=np.bool_)}, {}))
    with pytest.raises(UsageError, match="of the trace's 0 tokens"):
        priced(Trace.from_masks({"a": np.ones((0, 4), dtype=np.bool_)}, {}))


@given(st.integers(0, 2**32), st.integers(0, 12), st.sampled_from(["lru", "lfu", "none"]), st.booleans())
def test_what_is_read_comes_from_flash_or_dram(seed: int, capacity: int, policy: str, overlap: bool) -> None:
    traffic = program(site("a", 0, 12, 8), resident=64)
    trace = uniform_trace({"a": 12}, {"a": 5}, tokens=9, seed=seed)
    dev = device(overlap=overlap)
    cost = price(traffic, allocate(traffic, 64 + 8 * capacity, 0), dev, get_policy(policy), trace)
    assert np.all(cost.flash_bytes + cost.dram_bytes == 64 + 5 * 8)
    assert np.all(cost.latency_s >= np.maximum(cost.flash_s, cost.dram_s))


def dense(label: str, parameters: int, layers: int, d_model: int, d_ff: int) -> TrafficProgram:
    """A dense model at 4.25 bits a weight; the units of a full site are the d_ff columns of all three matrices."""
    unit_bytes = 3 * d_model * INT4_BYTES
    sites = tuple(site(f"{layer}.mlp", layer, d_ff, unit_bytes, full=True) for layer in range(layers))
    resident = (parameters - 3 * d_model * d_ff * layers) * INT4_BYTES
    return TrafficProgram(resident, sites, kv_bytes_per_position=0, label=label)


def tokens_per_s(traffic: TrafficProgram, dram_gb: float, flash_gb_per_s: float = 1) -> float:
    allocation = allocate(traffic, dram_gb * GB, context=0)
    return price(traffic, allocation, device(flash_gb_per_s * GB), get_policy("lfu"), None).throughput


PHI3_MEDIUM = dense("Phi-3-Medium", 13_960_238_080, 40, 5120, 17920)
LLAMA3_8B = dense("Llama-3-8B", 8_030_261_248, 32, 4096, 14336)
MISTRAL_7B = dense("Mistral-7B", 7_241_732_096, 32, 4096, 14336)

# Whatever the cache leaves of the DRAM is less than a unit (8 kB) per layer, so a token reads size - DRAM from flash.
# Sizes: 13.960e9 * 0.53125 = 7.4164 GB, 8.030e9 * 0.53125 = 4.2661 GB, 7.242e9 * 0.53125 = 3.8472 GB.
# Their DRAM reads (at most 6 GB at 60 GB/s, 0.1 s) are hidden behind the flash reads.
DENSE_ROWS = [
    # model, DRAM in GB, flash in GB/s, the arithmetic, the paper's figure
    (PHI3_MEDIUM, 2.0, 1.0, 1 / 5.4164, 0.19),  # 0.1846; Table 6
    (PHI3_MEDIUM, 4.0, 1.0, 1 / 3.4164, 0.29),  # 0.2927; Tables 2, 6, 7
    (PHI3_MEDIUM, 6.0, 1.0, 1 / 1.4164, 0.71),  # 0.7060; Table 6
    (PHI3_MEDIUM, 4.0, 0.5, 0.5 / 3.4164, 0.15),  # 0.1464; Table 7
    (PHI3_MEDIUM, 4.0, 2.0, 2 / 3.4164, 0.59),  # 0.5854; Table 7
    (LLAMA3_8B, 2.5, 1.0, 1 / 1.7661, 0.57),  # 0.5662; Table 2
    (MISTRAL_7B, 2.0, 1.0, 1 / 1.8472, 0.54),  # 0.5414; Table 2
]


@pytest.mark.parametrize(("traffic", "dram_gb", "flash_gb_per_s", "by_hand", "paper"), DENSE_ROWS)
def test_the_papers_dense_rows(
    traffic: TrafficProgram, dram_gb: float, flash_gb_per_s: float, by_hand: float, paper: float
) -> None:
    """Six of the seven figures agree in both digits.

    The seventh, Phi-3-Medium with 2 GB, comes out as 0.1846, which is 0.2 % short of what rounds to the paper's 0.19:
    the paper reckons with 7.4 GB (its Table 2), and 1 / (7.4 - 2) = 0.1852.
    """
    found = tokens_per_s(traffic, dram_gb, flash_gb_per_s)
    assert found == pytest.approx(by_hand, rel=2e-4)
    if (traffic.label, dram_gb) == ("Phi-3-Medium", 2.0):
        assert found == pytest.approx(0.185, rel=0.0025)
    else:
        assert round(found, 2) == paper


def with_published_size(label: str, size_gb: float, layers: int, d_model: int, d_ff: int) -> TrafficProgram:
    """A dense model of `size_gb` in all, its MLPs at 4.25 bits a weight."""
    mlp = dense(label, 3 * d_model * d_ff * layers, layers, d_model, d_ff)
    return dataclasses.replace(mlp, resident_bytes=size_gb * GB - mlp.mlp_bytes)


def test_phi3_medium_with_2_gb_from_its_published_size() -> None:
    traffic = with_published_size("Phi-3-Medium", 7.4, 40, 5120, 17920)
    assert round(tokens_per_s(traffic, 2.0), 2) == 0.19


def test_phi3_mini_from_its_published_size() -> None:
    """Table 2: 2.4 GB, 1.5 GB of DRAM, 1.15 tok/s.

    Its 3.82 B parameters explain 2.03 GB at 4.25 bits, not 2.4 GB, and 2.03 GB would give 1 / (2.03 - 1.5) = 1.9 tok/s;
    so the published size is taken. It is rounded: 2.35 to 2.45 GB give 1 / 0.85 = 1.18 down to 1 / 0.95 = 1.05 tok/s,
    and 1.15 lies between (at 2.37 GB). 2.4 GB itself gives 1 / 0.9 = 1.11, which is 3.4 % less than published.
    """
    low, middle, high = (
        tokens_per_s(with_published_size("Phi-3-Mini", size_gb, 32, 3072, 8192), 1.5) for size_gb in (2.45, 2.4, 2.35)
    )
    assert low < 1.15 < high
    assert middle == pytest.approx(1 / 0.9, rel=2e-4)
    assert tokens_per_s(dense("Phi-3-Mini", 3_821_079_552, 32, 3072, 8192), 1.5) == pytest.approx(1.9, rel=0.02)


def test_cases_priced_together_are_those_priced_one_by_one() -> None:
    traffic = program(site("a", 0, 12, 8), site("b", 0, 5, 20, full=True), resident=64)
    trace = uniform_trace({"a": 12}, {"a": 5}, tokens=9, seed=1)
    cases = [
        Case(allocate(traffic, dram, 0), device(flash), get_policy(policy))
        for dram in (100, 180)
        for policy in ("lru", "lfu", "static")
        for flash in (1e9, 2e9)
    ]
    together = price_many(traffic, cases, trace, warmup=2)
    for case, found in zip(cases, together, strict=True):
        alone = price(traffic, case.allocation, case.device, case.policy, trace, warmup=2)
        np.testing.assert_array_equal(found.latency_s, alone.latency_s)
        assert found.hit_rate == alone.hit_rate and found.policy == case.policy.name
    assert together[1].flash_s.sum() == pytest.approx(together[0].flash_s.sum() / 2)


@pytest.mark.smoke
def test_sites_add_up_to_the_price() -> None:
    cost = small_price(warmup=1)
    sites = cost.sites.values()
    np.testing.assert_allclose(sum(s.flash_s_T for s in sites), cost.flash_s)
    np.testing.assert_allclose(sum(s.flash_bytes_T for s in sites), cost.flash_bytes)
    np.testing.assert_allclose(sum(s.dram_bytes_T for s in sites) + cost.resident_read_bytes, cost.dram_bytes)
    np.testing.assert_allclose(cost.dram_bytes / cost.dram_bytes_per_s, cost.dram_s)
    assert cost.sites["a"].hits_T.tolist() == [1, 1] and cost.sites["b"].hits_T.tolist() == [3, 3]


def test_a_hot_set_is_counted_on_the_warm_up_or_given() -> None:
    # One unit fits. The warm-up touches unit 1 twice and unit 3 once: of the two counted tokens, one touches unit 1.
    traffic = program(site("a", 0, 4, 10))
    masks = np.array([[0, 1, 0, 0], [0, 1, 0, 1], [0, 1, 1, 0], [0, 0, 1, 1]], dtype=np.bool_)
    trace, allocation = Trace.from_masks({"a": masks}, {}), allocate(traffic, 10, 0)

    def priced(popularity: dict[str, np.ndarray] | None, warmup: int = 2) -> Price:
        return price(traffic, allocation, device(), get_policy("static"), trace, warmup=warmup, popularity=popularity)

    counted = priced(None)
    assert (counted.sites["a"].hits_T.tolist(), counted.popularity) == ([1, 0], "counted on the first 2 tokens")
    given_ = priced({"a": np.array([0, 0, 9, 1])})
    assert (given_.sites["a"].hits_T.tolist(), given_.popularity) == ([1, 1], "given")
    with pytest.raises(UsageError, match="needs warm-up tokens"):
        priced(None, warmup=0)
    with pytest.raises(UsageError, match="has no site a; give"):
        priced({"b": np.array([1])})
