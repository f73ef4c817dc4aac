"""Every operator's function body in stock ONNX Runtime and in ONNX's reference evaluator, against its reference."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.onnx.ops import _TORCH_DTYPE_TO_ONNX_DTYPE

from dipc.backends.onnx.functions import functions
from dipc.cache.policies.lfu import Lfu
from dipc.cache.policy import POLICIES, KeyWeights, Policy, get_policy, policy_names, register
from dipc.cache.state import CacheState
from dipc.errors import UnsupportedModel
from dipc.ir import operators
from dipc.ir.onnx_form import DOMAIN, OPSET, OnnxForm
from dipc.ir.operator import Operator

WITH_BODIES = [n for n in operators.OPERATORS.builtin() if operators.OPERATORS.get(n).onnx is not None]
WITH_WEIGHTS = [name for name in policy_names() if get_policy(name).key_weights is not None]
Lower = Callable[[str, Mapping[str, Any]], list[Tensor]]


def operator(name: str) -> Operator:
    return operators.OPERATORS.get(name)


def run_node(
    runtime: str,
    form: OnnxForm,
    name: str,
    inputs: Sequence[Tensor],
    attributes: Mapping[str, Any],
    results: Sequence[tuple[torch.dtype, Sequence[int]]],
) -> list[Tensor]:
    """One node by its body; weights are initializers, as in a file, and 4-bit codes have their type."""
    import onnx
    from onnx import helper

    names = [f"i{i}" for i in range(len(inputs))]
    outputs = [f"o{i}" for i in range(len(results))]
    narrow = "Int4" in name or attributes.get("bits") == 4
    codes = (0 if name.startswith("Dequantize") else 2) if narrow else None
    fed, stored = [], []
    for i, (tensor, at) in enumerate(zip(inputs, names, strict=True)):
        dtype, shape = _TORCH_DTYPE_TO_ONNX_DTYPE[tensor.dtype], list(tensor.shape)
        if i == codes:
            shape, dtype = [shape[0], 2 * shape[1]], onnx.TensorProto.UINT4
        if tensor.dtype in (torch.float16, torch.bfloat16) or i == codes:
            raw = tensor.contiguous().view(torch.uint8).numpy().tobytes()
            stored.append(helper.make_tensor(at, dtype, shape, raw, raw=True))
        else:
            fed.append(helper.make_tensor_value_info(at, dtype, shape))
    made = [
        helper.make_tensor_value_info(o, _TORCH_DTYPE_TO_ONNX_DTYPE[d], list(s))
        for o, (d, s) in zip(outputs, results, strict=True)
    ]
    node = helper.make_node(name, names, outputs, domain=DOMAIN, **attributes)
    model = helper.make_model(
        helper.make_graph([node], "one", fed, made, stored),
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)],
        functions=functions([name], [form]),
        ir_version=10,
    )
    onnx.checker.check_model(model, full_check=True)
    feed = {v.name: inputs[names.index(v.name)].numpy() for v in fed}
    if runtime == "reference":
        from onnx.reference import ReferenceEvaluator

        found = ReferenceEvaluator(model).run(None, feed)
    else:
        import onnxruntime

        found = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feed)
    return [torch.from_numpy(np.asarray(f)) for f in found]


@pytest.fixture(params=["onnxruntime", "reference"])
def lower(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Tensor]]:
    """An operator's ONNX form with its nodes run at once in a runtime, by their bodies."""

    def call(name: str, arguments: Mapping[str, Any]) -> list[Tensor]:
        form = operator(name).onnx
        assert form is not None

        def node(called: str, inputs: Any, attributes: Any, *, dtypes: Any, shapes: Any, version: int) -> list[Tensor]:
            domain, _, onnx_name = called.partition("::")
            assert (domain, version) == (DOMAIN, 1)
            results = list(zip(dtypes, shapes, strict=True))
            return run_node(request.param, form, onnx_name, inputs, attributes, results)

        monkeypatch.setattr("torch.onnx.ops.symbolic_multi_out", node)
        found = form.to_onnx(**arguments)
        return [found] if isinstance(found, Tensor) else list(found)

    return call


def named(name: str, given: tuple[Any, ...]) -> dict[str, Any]:
    """Arguments by name, activations as float32, as they are in an ONNX file; weights keep their dtype."""
    names = [a.name for a in operator(name).target._schema.arguments]
    return {
        n: v.float() if isinstance(v, Tensor) and n in ("x", "bias") else torch.float32 if n == "dtype" else v
        for n, v in zip(names, given, strict=False)
    }


def check(lower: Lower, name: str, arguments: dict[str, Any]) -> None:
    """Masks, counts and states bit for bit, products within 1e-5 of the largest."""
    expected = operator(name).reference(**arguments)
    expected = [expected] if isinstance(expected, Tensor) else list(expected)
    for got, want in zip(lower(name, arguments), expected, strict=True):
        want = want.float() if want.is_floating_point() else want  # there is no other arithmetic in a file
        assert got.dtype == want.dtype and got.shape == want.shape
        if want.dtype == torch.float32:
            torch.testing.assert_close(got, want, rtol=0, atol=1e-5 * max(1.0, float(want.abs().max())))
        else:
            assert torch.equal(got, want)


@pytest.mark.parametrize("name", WITH_BODIES)
def test_a_body_is_its_reference(name: str, lower: Lower) -> None:
    covered = 0
    for given in operator(name).examples(torch.Generator().manual_seed(0), 3, 8):
        with contextlib.suppress(UnsupportedModel):  # arguments that no body covers
            check(lower, name, named(name, given))
            covered += 1
    assert covered


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh", "relu"])
def test_every_activation_of_the_packed_glu_has_a_body(activation: str, lower: Lower) -> None:
    given = operator("packed-gather-glu").examples(torch.Generator().manual_seed(0), 2, 6)[0]
    check(lower, "packed-gather-glu", named("packed-gather-glu", given) | {"activation": activation})


def test_every_operator_says_what_it_is() -> None:
    """But `glu`, which the exporter writes as standard operators."""
    assert set(operators.OPERATORS.builtin()) - set(WITH_BODIES) == {"glu"}


def cold(units: int) -> dict[str, Tensor]:
    """The state of a site that has seen nothing."""
    state = CacheState.empty(units)
    return {"cached": state.cached, "freq": state.freq, "last_used": state.last_used, "t": state.t}


def test_nan_counts_as_infinity_and_the_lower_index_wins(lower: Lower) -> None:
    nan, inf = float("nan"), float("inf")
    score = torch.tensor([[[1.0, inf, nan, 2.0], [nan, nan, inf, 0.0], [-inf, -inf, nan, 3.0]]])
    for k in (1, 2, 3):
        check(lower, "select-topk", {"score": score, "k": k})
        check(lower, "select-cache-aware", {"score": score, **cold(4), "k": k, "capacity": 2, "gamma": 0.5})


@pytest.mark.parametrize("policy", WITH_WEIGHTS)
def test_a_scan_of_40_tokens_is_40_calls(policy: str, lower: Lower) -> None:
    generator = torch.Generator().manual_seed(1)
    score = torch.randint(0, 6, (1, 40, 17), generator=generator).float()
    dense = torch.rand(1, 40, generator=generator) < 0.2
    state = cold(17)
    options = {"k": 7, "capacity": 8, "gamma": 0.3, "policy": policy, "site": "layers.0.input"}
    whole: dict[str, Any] = {"score": score, **state, "dense": dense, **options}
    check(lower, "select-cache-aware", whole)
    at_once = lower("select-cache-aware", whole)
    masks = []
    for i in range(40):
        step = {"score": score[:, i : i + 1], "dense": dense[:, i : i + 1]}
        mask, *after = lower("select-cache-aware", whole | state | step)
        state = dict(zip(state, after, strict=True))
        masks.append(mask)
    assert torch.equal(torch.cat(masks, 1), at_once[0])
    assert all(torch.equal(a, b) for a, b in zip(state.values(), at_once[1:], strict=True))


def test_a_policy_without_onnx_form_is_refused() -> None:
    form = operator("select-cache-aware").onnx
    assert form is not None
    arguments = {"score": torch.rand(1, 2, 4), **cold(4), "k": 2, "capacity": 2, "gamma": 0.5, "policy": "mine"}
    with pytest.raises(UnsupportedModel, match=r"'mine' at layers\.0\.input has no ONNX form"):
        form.to_onnx(**arguments, site="layers.0.input")


class Penultimate(Policy):
    """Evict the unit touched longest ago but with its count: a weighted sum that no kernel knows."""

    key_weights = KeyWeights(freq=2**10, last_used=3)


def test_a_policy_of_a_plug_in_is_its_key_weights_in_every_form(lower: Lower, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(POLICIES, "added", {})
    register("penultimate", Penultimate)
    score = torch.randint(0, 6, (1, 20, 9), generator=torch.Generator().manual_seed(1)).float()
    arguments = {"score": score, **cold(9), "k": 4, "capacity": 5, "gamma": 0.5, "policy": "penultimate"}
    check(lower, "select-cache-aware", arguments)
    meant = operator("select-cache-aware").reference(**arguments)
    assert all(
        torch.equal(a, b) for a, b in zip(operator("select-cache-aware").target(**arguments), meant, strict=True)
    )


class Youngest(Penultimate):
    """Keep the units of the highest index, a key that is no weighted sum of its state."""

    def key(self, freq: Any, last_used: Any) -> Any:
        return freq * freq


def test_a_key_of_its_own_inherits_no_weights_and_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [kind.key_weights is None for kind in (Penultimate, Youngest)] == [False, True]
    assert [getattr(kind, "native_number", 0) for kind in (Lfu, type("Other", (Lfu,), {}))] == [2, None]
    monkeypatch.setattr(POLICIES, "added", {})
    register("youngest", Youngest)
    form = operator("select-cache-aware").onnx
    assert form is not None
    with pytest.raises(UnsupportedModel, match="'youngest' at a site has no ONNX form"):
        form.to_onnx(torch.rand(1, 2, 4), *cold(4).values(), 2, 2, 0.5, "youngest")


def test_two_bodies_of_one_name_are_refused() -> None:
    forms = [OnnxForm(lambda x: x, {"Same": f"Same (x) => (y)\n{{ y = {what} (x) }}"}) for what in ("Abs", "Neg")]
    with pytest.raises(UnsupportedModel, match=r"ai\.dipc\.Same"):
        functions(["Same"], forms)
