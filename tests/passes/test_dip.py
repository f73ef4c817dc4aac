"""DIP and DIP-CA on cases worked by hand, their densities and errors, and `outline-glu`.

Shape legend: T tokens, D d_model, F d_ff.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, fx

from dipc.api import compile
from dipc.errors import UnknownName, UnsupportedModel, UsageError
from dipc.ir.program import Program
from dipc.ir.selections import cache_aware, kept_units
from dipc.memory.allocation import allocate
from dipc.memory.lowering import active_units, lower, program_density
from dipc.ops.glu import ACTIVATIONS
from dipc.passes.dip import Dip
from dipc.passes.dip_ca import DipCa
from dipc.passes.outline_glu import OutlineGlu
from dipc.pipeline.runner import run_pipeline
from dipc.pipeline.sparsity_pass import select_layers
from dipc.quantities import parse_bytes
from kit.runs import run_pieces
from kit.tiny_models import one_glu, outlined, tiny_llama
from kit.worked_example import GATE, UP, X, call, hand, masks

# --- DIP ---


def test_the_case_tells_the_methods_apart() -> None:
    """The arithmetic of the table above: what each method's score would keep."""
    gate, up = torch.relu(X @ GATE.T)[0, 0], (X @ UP.T)[0, 0]
    assert gate.tolist() == [4, 6, 9, 2] and up.tolist() == [-4, 3, 1, 7]
    scores = {"glu": (gate * up).abs(), "gate": gate.abs(), "up": up.abs()}
    assert {name: int(score.argmax()) for name, score in scores.items()} == {"glu": 1, "gate": 2, "up": 3}


@pytest.mark.smoke
def test_dip_takes_the_down_mask_from_the_pruned_glu() -> None:
    program = Dip(rho_in=0.5, rho_glu=0.25).run(hand()).program
    assert masks(program, X) == {"layers.0.input": [[0, 1]], "layers.0.glu": [[0]]}
    # -16 times the first column of down.
    assert call(program, X)[0].tolist() == [[[-16.0, -32.0, -48.0, -64.0]]]


def test_dip_prunes_inputs_and_activations_apart() -> None:
    # All inputs, one activation: the oracle's mask, and 18 times the second column.
    program = Dip(rho_in=1.0, rho_glu=0.25).run(hand()).program
    assert masks(program, X) == {"layers.0.input": [[0, 1, 2, 3]], "layers.0.glu": [[1]]}
    assert call(program, X)[0].tolist() == [[[90.0, 108.0, 126.0, 144.0]]]
    # One input, all activations: x^ = [4, 0, 0, 0], g^ = [4, 4, 8, 0], u^ = [-4, 0, 0, 4]: GLU [-16, 0, 0, 0].
    program = Dip(rho_in=0.25, rho_glu=1.0).run(hand()).program
    assert masks(program, X) == {"layers.0.input": [[0]], "layers.0.glu": [[0, 1, 2, 3]]}
    assert call(program, X)[0].tolist() == [[[-16.0, -32.0, -48.0, -64.0]]]


def test_dip_decides_for_each_token_by_itself() -> None:
    program = Dip(rho_in=0.5, rho_glu=0.25).run(hand()).program
    # The second token has its weight in units 2 and 3: x^ = [0, 0, 5, 6]; g^ = [0, 5, 6, 5], u^ = [0, 11, 6, 0].
    both = torch.cat([X, torch.tensor([[[1.0, -1.0, 5.0, 6.0]]])], 1)
    assert masks(program, both) == {"layers.0.input": [[0, 1], [2, 3]], "layers.0.glu": [[0], [1]]}
    out = call(program, both)[0]
    assert out[:, :1].tolist() == call(program, X)[0].tolist()
    assert out[0, 1].tolist() == [55 * 5.0, 55 * 6.0, 55 * 7.0, 55 * 8.0]


def test_dip_with_equal_inputs_keeps_the_lower_index() -> None:
    program = Dip(rho_in=0.5, rho_glu=0.5).run(hand()).program
    assert masks(program, torch.tensor([[[1.0, -1.0, 1.0, -1.0]]]))["layers.0.input"] == [[0, 1]]


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_dip_is_equations_7_and_8_for_every_activation(activation: str) -> None:
    """Against the equations written out, on random weights."""
    generator = torch.Generator().manual_seed(3)
    gate, up, down = (torch.randn(*s, generator=generator) for s in ((12, 8), (12, 8), (8, 12)))
    x = torch.randn(1, 5, 8, generator=generator)
    act, options = ACTIVATIONS[activation]
    program = Dip(rho_in=0.5, rho_glu=0.25).run(one_glu(gate, up, down, activation)).program
    expected = []
    for row in x[0]:
        keep = row.abs().argsort(descending=True)[:4]
        hidden = act(gate[:, keep] @ row[keep], **options) * (up[:, keep] @ row[keep])
        kept = hidden.abs().argsort(descending=True)[:3]
        expected.append(down[:, kept] @ hidden[kept])
    torch.testing.assert_close(call(program, x)[0][0], torch.stack(expected))


# --- Densities ---


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (0.5, 0.5)),
        ({"density": 0.3}, (0.3, 0.3)),
        ({"density": 0.5, "rho_in": 0.6}, (0.6, 0.3)),  # 3 x 0.5 - 2 x 0.6
        ({"density": 0.5, "rho_glu": 0.7}, (0.4, 0.7)),  # (3 x 0.5 - 0.7) / 2
        ({"rho_in": 0.2, "rho_glu": 0.8}, (0.2, 0.8)),
    ],
)
def test_densities_of_the_sites_make_the_density(options: dict[str, float], expected: tuple[float, float]) -> None:
    assert Dip(**options).densities() == pytest.approx(expected)  # type: ignore[arg-type]


def test_density_is_two_thirds_input_and_one_third_glu() -> None:
    # Of 32 inputs 8 are kept, of 48 hidden units 36: (2 x 0.25 + 0.75) / 3.
    program = Dip(rho_in=0.25, rho_glu=0.75).run(outlined()).program
    assert active_units(program) == {
        "layers.0.input": 8,
        "layers.0.glu": 36,
        "layers.1.input": 8,
        "layers.1.glu": 36,
    }
    assert program_density(program) == pytest.approx((2 * 0.25 + 0.75) / 3) == program.method.density


def test_units_round_half_up_and_are_never_none() -> None:
    assert [kept_units(d, 10) for d in (0.01, 0.14, 0.15, 0.25, 0.99, 1.0)] == [1, 1, 2, 3, 10, 10]


@pytest.mark.parametrize("value", [0.0, -0.1, 1.01, float("nan"), float("inf")])
@pytest.mark.parametrize("option", ["density", "rho_in", "rho_glu"])
@pytest.mark.parametrize("kind", [Dip, DipCa])
def test_a_density_outside_0_to_1_is_an_error(kind: type[Dip], option: str, value: float) -> None:
    with pytest.raises(UsageError, match=rf"{option}=.* is outside \(0, 1\]") as caught:
        kind(**{option: value})  # type: ignore[arg-type]
    assert caught.value.exit_code == 2


def test_a_density_that_one_site_cannot_reach_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"density=0.5 with rho_in=0.9 would need rho_glu=-0.3, outside \(0, 1\]"):
        Dip(density=0.5, rho_in=0.9)  # 3 x 0.5 - 2 x 0.9
    with pytest.raises(UsageError, match=r"density=0.9 with rho_glu=0.1 would need rho_in=1.3, outside"):
        Dip(density=0.9, rho_glu=0.1)  # (3 x 0.9 - 0.1) / 2


def test_a_site_that_keeps_everything_is_no_error_for_lack_of_digits() -> None:
    assert 3 * 0.8 - 2 * 0.7 > 1
    assert Dip(density=0.8, rho_in=0.7).densities() == (0.7, 1.0)


def test_layers_are_indices_and_ranges() -> None:
    assert select_layers("dip", "all", 3) == {0, 1, 2}
    assert select_layers("dip", "0-2,5", 8) == {0, 1, 2, 5}
    assert select_layers("dip", "-1", 8) == {7}
    assert select_layers("dip", "0, 2", 3) == {0, 2}
    for text in ("3", "2-1", "-4", "x", "1-", ""):
        with pytest.raises(UsageError, match=f"dip: layers={text}: "):
            select_layers("dip", text, 3)


# --- DIP-CA ---


def ca(policy: str) -> Program:
    """One input unit kept, two cached, gamma a half; the hidden layer keeps everything."""
    item = DipCa(rho_in=0.25, rho_glu=1.0, gamma=0.5, capacity=0.5, policy=policy)
    return item.run(hand()).program


# |x| of four tokens; what it weighs with uncached units halved; the unit kept, and where DIP would keep another.
TOKENS = [
    [8.0, 6.0, -4.0, 2.0],  # nothing cached: [4, 3, 2, 1]           -> 0
    [4.0, -7.0, 3.0, 1.0],  # {0} cached:     [4, 3.5, 1.5, 0.5]     -> 0 (DIP: 1)
    [3.0, 5.0, -7.0, 1.0],  # {0} cached:     [3, 2.5, 3.5, 0.5]     -> 2
    [1.0, 2.0, 1.0, -9.0],  # {0, 2} cached:  [1, 1, 1, 4.5]         -> 3, and one of 0 and 2 must go
]
# After each token: cached, freq, last_used. LFU keeps 0 (touched twice) at the end, LRU keeps 2 (touched last).
COMMON: list[tuple[list[int], list[int], list[int]]] = [
    ([0], [1, 0, 0, 0], [0, -1, -1, -1]),
    ([0], [2, 0, 0, 0], [1, -1, -1, -1]),
    ([0, 2], [2, 0, 1, 0], [1, -1, 2, -1]),
]
LAST = {
    "lfu": ([0, 3], [2, 0, 1, 1], [1, -1, 2, 3]),
    "lru": ([2, 3], [2, 0, 1, 1], [1, -1, 2, 3]),
}


@pytest.mark.smoke
@pytest.mark.parametrize("policy", ["lfu", "lru"])
def test_dip_ca_masks_and_cache_over_four_tokens(policy: str) -> None:
    program, state = ca(policy), dict[str, Tensor]()
    for t, (token, expected) in enumerate(zip(TOKENS, [*COMMON, LAST[policy]], strict=True)):
        _, state = call(program, torch.tensor([[token]]), state)
        at = {name.removeprefix("layers_0_input_"): v for name, v in state.items() if "input" in name}
        cached = at["cached"].nonzero().flatten().tolist()
        assert (cached, at["freq"].tolist(), at["last_used"].tolist()) == expected
        assert int(at["t"]) == t + 1
    # All four in one call: the masks, and the same state.
    whole = torch.tensor([TOKENS])
    assert masks(program, whole)["layers.0.input"] == [[0], [0], [2], [3]]
    assert masks(Dip(rho_in=0.25, rho_glu=1.0).run(hand()).program, whole)["layers.0.input"] == [[0], [1], [2], [3]]
    after = call(program, whole)[1]
    assert all(torch.equal(after[name], state[name]) for name in state)


def test_dip_ca_without_a_cache_is_dip() -> None:
    whole = torch.tensor([TOKENS])
    assert torch.equal(call(ca("none"), whole)[0], call(Dip(rho_in=0.25, rho_glu=1.0).run(hand()).program, whole)[0])


def test_dip_ca_selects_the_glu_with_its_own_cache() -> None:
    """Two tokens whose pruned GLU is [-16, 0, 0, 0] and [-9, 10, 0, 0]: the cached unit 0 stays before the larger 1."""
    gate = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    up = torch.tensor([[-1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    program = DipCa(rho_in=1.0, rho_glu=0.25, gamma=0.2, capacity=0.5).run(one_glu(gate, up, torch.ones(2, 4))).program
    x = torch.tensor([[[4.0, 0.0], [3.0, 10.0**0.5]]])
    assert masks(program, x)["layers.0.glu"] == [[0], [0]]
    assert masks(Dip(rho_in=1.0, rho_glu=0.25).run(one_glu(gate, up, torch.ones(2, 4))).program, x)["layers.0.glu"] == [
        [0],
        [1],
    ]


def test_dip_ca_carries_its_state_as_ports() -> None:
    program = DipCa().run(outlined()).program
    names = [p.name for p in program.inputs if p.kind == "state"]
    kinds = ("cached", "freq", "last_used", "t")
    assert names == [f"layers_{i}_{s}_{k}" for i in range(2) for s in ("input", "glu") for k in kinds]
    assert [n for n in program.outputs if n in names] == names
    assert [p.fill for p in program.inputs if p.kind == "state"][:4] == [False, 0, -1, 0]


def test_dip_ca_capacity_is_a_fraction_rounded_down() -> None:
    program = DipCa(capacity=0.33, policy="lru").run(outlined()).program
    # 0.33 x 32 = 10.56 and 0.33 x 48 = 15.84.
    assert cache_aware(program) == {
        "layers.0.input": ("lru", 10),
        "layers.0.glu": ("lru", 15),
        "layers.1.input": ("lru", 10),
        "layers.1.glu": ("lru", 15),
    }


def test_dip_ca_takes_its_capacity_from_a_device() -> None:
    # The resident part and half of the MLPs' bytes: half of each site's units.
    traffic = lower(Dip().run(outlined()).program)
    size = int(traffic.resident_bytes + traffic.mlp_bytes / 2)
    program = DipCa(hw="a18", dram=f"{size} B", context=0).run(outlined()).program
    room = allocate(lower(program), parse_bytes(f"{size} B"), 0)
    assert {site: c for site, (_, c) in cache_aware(program).items()} == room.capacities
    assert all(c in (15, 16, 23, 24) for c in room.capacities.values())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"gamma": 1.5}, UsageError, r"dip-ca: gamma=1.5 is outside \(0, 1\]"),
        ({"gamma": -0.1}, UsageError, r"gamma=-0.1 is outside"),
        ({"gamma": float("nan")}, UsageError, r"gamma=nan is outside"),
        ({"capacity": 2.0}, UsageError, r"dip-ca: capacity=2 is outside \[0, 1\]; it is a fraction of the units"),
        ({"capacity": -1.0}, UsageError, r"capacity=-1 is outside"),
        ({"dram": "4 GB"}, UsageError, "dram=4 GB needs a device"),
        ({"policy": "lfo"}, UnknownName, "did you mean 'lfu'"),
    ],
)
def test_dip_ca_refuses_options_that_make_no_sense(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        DipCa(**options)


def test_dip_ca_refuses_an_unknown_device_and_one_that_is_too_small() -> None:
    with pytest.raises(UsageError, match="a81"):
        DipCa(hw="a81").run(outlined())
    with pytest.raises(UsageError, match="resident"):
        DipCa(hw="a18", dram="1 kB").run(outlined())


# --- outline-glu ---


@pytest.mark.smoke
def test_outline_makes_each_mlp_one_node() -> None:
    result = OutlineGlu().run(tiny_llama())
    assert result.matches == ("model.layers.0.mlp", "model.layers.1.mlp") and result.mismatches == ()
    first = result.program.mlps[0]
    assert (first.name, first.layer, first.activation) == ("model.layers.0.mlp", 0, "silu")
    assert (first.gate, first.up, first.down) == tuple(
        f"model.layers.0.mlp.{m}_proj.weight" for m in ("gate", "up", "down")
    )
    assert (first.d_model, first.d_ff) == (32, 48)
    assert len(result.program.nodes_of(torch.ops.dipc.glu.default)) == 2
    assert not result.program.nodes_of(torch.ops.aten.silu.default)


ATEN = torch.ops.aten


def plain(act: Any, options: dict[str, Any], swapped: bool = False) -> Program:
    """A gated MLP with biases as a model computes it, before anything is outlined."""
    generator = torch.Generator().manual_seed(5)
    shapes = {"gate": (6, 4), "up": (6, 4), "down": (4, 6), "bg": (6,), "bu": (6,), "bd": (4,)}
    graph = fx.Graph()
    x = graph.placeholder("x")
    weights = {n: torch.randn(*s, generator=generator) for n, s in shapes.items()}
    w = {n: graph.get_attr(n) for n in weights}
    gate = graph.call_function(act, (graph.call_function(ATEN.linear.default, (x, w["gate"], w["bg"])),), options)
    up = graph.call_function(ATEN.linear.default, (x, w["up"], w["bu"]))
    hidden = graph.call_function(ATEN.mul.Tensor, (up, gate) if swapped else (gate, up))
    graph.output((graph.call_function(ATEN.linear.default, (hidden, w["down"], w["bd"])),))
    for node in graph.nodes:
        node.meta = {"module": "layers.0.mlp"}
    return dataclasses.replace(hand(), graph=graph, weights=weights, mlps=())


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("swapped", [False, True])
def test_outline_knows_the_activations_and_keeps_biases(activation: str, swapped: bool) -> None:
    before, x = plain(*ACTIVATIONS[activation], swapped), torch.randn(1, 3, 4)
    result = OutlineGlu().run(before)
    assert result.matches == ("layers.0.mlp",) and result.program.mlps[0].activation == activation
    assert len([n for n in result.program.graph.nodes if n.op == "call_function"]) == 1
    assert set(result.program.weights) == set(before.weights)
    assert torch.equal(call(result.program, x)[0], call(before, x)[0])
    kept = Dip(density=1.0).run(result.program).program
    torch.testing.assert_close(call(kept, x)[0], call(before, x)[0])


def test_outline_says_why_an_mlp_is_none() -> None:
    """A gate whose activation no pattern has is listed with the node that is in the way."""
    before = plain(ATEN.tanh.default, {})
    result = OutlineGlu().run(before)
    assert not result.modified and result.program.text() == before.text()
    assert [str(m) for m in result.mismatches] == [
        "layers.0.mlp: its activation is tanh, and dipc has silu, gelu, gelu_tanh, relu (at %tanh_default)"
    ]
    with pytest.raises(
        UnsupportedModel, match=r"outline-glu found nothing to rewrite in by hand .*its activation is tanh"
    ):
        run_pipeline(before, [OutlineGlu()])


def test_methods_can_share_a_model() -> None:
    result = compile(tiny_llama(), "dip{layers=0 density=0.5},dip-ca{layers=1 density=0.25}", check_numerics=True)
    assert set(cache_aware(result.program)) == {"layers.1.input", "layers.1.glu"}
    assert set(run_pieces(result.program, torch.arange(3, 8), 2)[1]) == set(active_units(result.program))
    assert program_density(result.program) == pytest.approx((0.5 + 0.25) / 2)


# --- what is shared over the two sites ---


def test_square_gives_down_the_square_of_the_density() -> None:
    assert Dip(density=0.8, allocation="square").densities() == (0.88, 0.64)
    assert Dip(density=1.0, allocation="square").densities() == (1.0, 1.0)
    with pytest.raises(UsageError, match="allocation=square decides rho_in"):
        Dip(rho_in=0.5, allocation="square")


@pytest.mark.parametrize(
    ("capacity", "share", "room"),
    [
        (0.5, None, (0.5, 0.5)),
        (0.5, 2 / 3, (0.5, 0.5)),
        (0.5, 0.9, (0.675, 0.15)),
        (0.8, 0.9, (1.0, 0.4)),  # up and gate fit whole: down gets what is left, 3 x 0.8 - 2
        (0.5, 0.1, (0.25, 1.0)),
    ],
)
def test_the_cache_of_an_mlp_is_shared_over_its_sites(
    capacity: float, share: float | None, room: tuple[float, float]
) -> None:
    method = DipCa(capacity=capacity, input_share=share)
    assert [method.room(where)[0] for where in ("input", "glu")] == pytest.approx(room)


def test_a_share_of_the_cache_reaches_selections_and_devices() -> None:
    program = compile(outlined(), DipCa(input_share=0.9).__str__()).program
    units = {site.name: site.units for site in lower(program).sites}
    held = {site: c / units[site] for site, (_, c) in cache_aware(program).items()}
    assert held == pytest.approx({s: 0.675 if "input" in s else 0.15 for s in units}, abs=0.02)
    # A device that holds half of the MLPs shares it alike, and one with more gives down what up and gate leave.
    traffic = lower(program)
    for part, wanted in ((0.5, (0.675, 0.15)), (0.8, (1.0, 0.4))):
        room = allocate(traffic, traffic.resident_bytes + part * traffic.mlp_bytes, 0).capacities
        assert {s: c / units[s] for s, c in room.items()} == pytest.approx(
            {s: wanted["glu" in s] for s in units}, abs=0.04
        )


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5])
def test_a_share_leaves_both_sites_something(share: float) -> None:
    with pytest.raises(UsageError, match=r"input_share=.* is outside \(0, 1\)"):
        DipCa(input_share=share)
