"""The native library as ONNX Runtime's custom operators: every kernel against numpy, and what it refuses."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dipc
from dipc import native
from dipc.cache.policy import POLICIES, get_policy
from dipc.errors import MissingDependency

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper

from kit.onnx_nodes import (
    BOOL,
    FLOAT,
    INT64,
    PRODUCTS,
    Bools,
    Floats,
    Units,
    check,
    expected,
    product,
    run,
    session,
    tensor,
)

pytestmark = pytest.mark.skipif(native.library() is None, reason=f"native library {native.describe()}")


def largest(score: Floats, k: int) -> Bools:
    """The k largest of each row, NaN as infinity, the lower index first."""
    ranked = np.where(np.isnan(score), np.inf, score)
    mask = np.zeros(score.shape, bool)
    np.put_along_axis(mask, np.argsort(-ranked, axis=-1, kind="stable")[..., :k], True, axis=-1)
    return mask


@pytest.mark.parametrize("operator", PRODUCTS)
@pytest.mark.parametrize(
    ("kind", "axis", "middle"),
    [("float32", 0, False), ("float16", 0, False), ("bfloat16", 0, False)]
    + [(kind, axis, middle) for kind in ("int8", "int4") for axis in (0, 1) for middle in (False, True)]
    + [
        (kind, axis, False)
        for kind in ("int8 minima", "int4 minima", "int8 wide", "int8 wide minima")
        for axis in (0, 1)
    ],
)
def test_products_agree_with_numpy(operator: str, kind: str, axis: int, middle: bool) -> None:
    units = Units(kind, 37, 46, axis=axis, middle=middle)
    for lead in ((1,), (3,), (40,), (0,), (2, 3), ()):
        (x, mask, bias), inputs = product(operator, units, lead)
        (y,) = run(operator + units.ending, inputs, {"y": FLOAT}, **units.attributes)
        check(operator, units, y, x, mask, bias)


@pytest.mark.parametrize("kind", ["float32", "int8", "int4", "int4 wide", "int8 minima", "int4 wide minima"])
@pytest.mark.parametrize(("count", "length"), [(1, 2), (2, 130), (131, 2), (257, 66), (64, 128)])
@pytest.mark.parametrize("density", [0.0, 1.0])
def test_sizes_that_no_vector_divides(kind: str, count: int, length: int, density: float) -> None:
    for axis in (0, 1):
        units = Units(kind, count, length, group=32, axis=axis)
        for operator in ("PackedGatherLinear", "PackedRowLinear", "PackedGatherReGlu"):
            for tokens in (1, 35):
                (x, mask, bias), inputs = product(operator, units, (tokens,), density)
                (y,) = run(operator + units.ending, inputs, {"y": FLOAT}, **units.attributes)
                check(operator, units, y, x, mask, bias)


@pytest.mark.parametrize("kind", ["float32", "float16", "int8", "int4"])
@pytest.mark.parametrize("tokens", [2, 36])
def test_only_kept_activations_matter_even_if_not_finite(kind: str, tokens: int) -> None:
    units = Units(kind, 19, 24)
    (x, mask, bias), inputs = product("PackedGatherLinear", units, (tokens,))
    x[~mask] = np.nan
    x[0, np.flatnonzero(mask[0])[0]] = np.inf
    x[1, np.flatnonzero(mask[1])[0]] = np.nan
    (y,) = run("PackedGatherLinear" + units.ending, inputs, {"y": FLOAT}, **units.attributes)
    with np.errstate(invalid="ignore"):
        wanted = expected("PackedGatherLinear", np.where(mask, x, 0), np.ones_like(mask), units.meaning, bias)
    assert np.isnan(y[1]).all() and np.isfinite(y[2:]).all()
    np.testing.assert_array_equal(np.isposinf(y[0]), np.isposinf(wanted[0]))
    np.testing.assert_array_equal(np.isneginf(y[0]), np.isneginf(wanted[0]))


def test_topk_counts_nan_as_infinity_and_takes_the_lower_index() -> None:
    score = np.array([[0, np.nan, 2, np.inf, 2], [-1, -1, -np.inf, np.nan, -1]], np.float32)
    for k in range(6):
        (mask,) = run("SelectTopk", {"score": score}, {"mask": BOOL}, k=k, site="layer.0")
        np.testing.assert_array_equal(mask, largest(score, k))


@pytest.mark.parametrize("lead", [(0,), (1,), (3,), (40,), (2, 5)])
def test_topk_of_every_token(lead: tuple[int, ...]) -> None:
    score = np.random.default_rng(1).integers(0, 9, (*lead, 33)).astype(np.float32)
    (mask,) = run("SelectTopk", {"score": score}, {"mask": BOOL}, k=7, site="layer.0")
    np.testing.assert_array_equal(mask, largest(score, 7))


STATE = {"cached": BOOL, "freq": INT64, "last_used": INT64, "t": INT64}


@pytest.mark.parametrize("policy", [n for n in POLICIES.builtin() if get_policy(n).online])
def test_cache_aware_selection_agrees_with_the_c_interface_and_carries_its_state(policy: str) -> None:
    rng = np.random.default_rng(2)
    score = rng.random((40, 31)).astype(np.float32)
    dense = rng.random(40) < 0.1
    start = [np.zeros(31, bool), np.zeros(31, np.int64), np.full(31, -1), np.array(0)]
    attributes = {"k": 9, "capacity": 12, "gamma": 0.3, "policy": policy, "frequency_weight": 0, "site": "layer.0"}
    inputs = {"score": score, "dense": dense, **dict(zip(STATE, start, strict=True))}
    made = session("SelectCacheAware", inputs, {"mask": BOOL, **{f"next_{n}": k for n, k in STATE.items()}}, attributes)
    whole = made.run(None, inputs)

    state, masks = start, []
    for token in range(40):
        one = {"score": score[token : token + 1], "dense": dense[token : token + 1]}
        mask, *state = made.run(None, one | dict(zip(STATE, state, strict=True)))
        masks.append(mask)
    for got, wanted in zip([np.concatenate(masks), *state], whole, strict=True):
        np.testing.assert_array_equal(got, wanted)

    number = get_policy(policy).native_number
    assert number is not None
    options: dict[str, Any] = {"k": 9, "capacity": 12, "gamma": 0.3, "policy": number, "dense": dense}
    mask, after = native.select_cache_aware(score, native.State(*start), **options)
    for got, also in zip(whole, (mask, *after), strict=True):
        np.testing.assert_array_equal(got, also)


def test_a_kernel_wins_over_a_body_of_the_same_name() -> None:
    body = helper.make_function(
        "ai.dipc",
        "SelectTopk",
        ["score"],
        ["mask"],
        [helper.make_node("IsNaN", ["score"], ["mask"])],
        [helper.make_opsetid("", 21)],
        ["k", "site"],
    )
    score = np.array([[1, 3, 2]], np.float32)
    for library, wanted in ((True, [[False, True, False]]), (False, [[False] * 3])):
        made = session("SelectTopk", {"score": score}, {"mask": BOOL}, {"k": 1, "site": ""}, [body], library)
        assert made.run(None, {"score": score})[0].tolist() == wanted


def test_shapes_are_known_before_a_run() -> None:
    x = np.zeros((2, 3, 7), np.float32)
    units = Units("float32", 7, 10)
    rest = {"mask": x > 0, **units.tensors, "bias": np.zeros(10, np.float32)}
    made = session("PackedGatherSwiGlu", {"x": x, **rest}, {"y": FLOAT})
    assert made.get_outputs()[0].shape == ["x_0", "x_1", 5]
    row = {"x": np.zeros((2, 10), np.float32), "mask": np.zeros((2, 7), bool), **units.tensors}
    made = session("PackedRowLinear", row | {"bias": np.zeros(7, np.float32)}, {"y": FLOAT})
    assert made.get_outputs()[0].shape == ["mask_0", "mask_1"]


def test_one_session_runs_on_several_threads_at_once() -> None:
    units = Units("int4", 64, 128, group=32)
    _, inputs = product("PackedGatherLinear", units, (2,))
    made = session("PackedGatherLinearInt4", inputs, {"y": FLOAT}, units.attributes)
    fed = {n: v for n, v in inputs.items() if isinstance(v, np.ndarray)}
    wanted = made.run(None, fed)[0]
    wrong: list[int] = []

    def work() -> None:
        wrong.extend(i for i in range(50) if not np.array_equal(made.run(None, fed)[0], wanted))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def changed(name: str, value: Any) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def change(inputs: dict[str, Any], attributes: dict[str, Any]) -> None:
        (attributes if name in ("group", "axis") else inputs)[name] = value

    return change


F32, ANY = np.float32, "PackedGatherLinear"
REFUSED = [
    (ANY, "float32", changed("x", np.zeros((3, 20), F32)), "x has the shape .3, 20., but .* must be 19"),
    (ANY, "float32", changed("mask", np.zeros((3, 20), bool)), "mask has the shape .3, 20., not .3, 19."),
    (ANY, "float32", changed("mask", np.zeros((4, 19), bool)), "mask has the shape .4, 19., not .3, 19."),
    (ANY, "float32", changed("bias", np.zeros(23, F32)), "bias has the shape .23., not .24."),
    (ANY, "float32", changed("x", np.array(1, F32)), "x has the shape .., but its last dimension must be 19"),
    (ANY, "float32", changed("units", np.zeros(19, F32)), "units have the shape .19., not two dimensions"),
    (ANY, "float32", changed("units", np.zeros((19, 24), np.int8)), "element type 3, not float, float16 or bfloat16"),
    (ANY, "float32", changed("units", np.zeros((19, 24), float)), "element type 11, not float, float16 or bfloat16"),
    ("PackedGatherReGlu", "float32", changed("units", np.zeros((19, 23), F32)), "odd length 23"),
    ("PackedRowLinear", "float32", changed("x", np.zeros((3, 19), F32)), "its last dimension must be 24"),
    (ANY, "int8", changed("scales", np.zeros((5, 24), np.float16)), "scales has the shape .5, 24., not .4, 24."),
    (ANY, "int8", changed("zeros", np.zeros((1, 1), np.uint8)), "zeros have the shape .1, 1., neither"),
    (ANY, "int4", changed("zeros", np.zeros((4, 23), np.uint8)), "zeros have the shape .4, 23., neither"),
    (ANY, "int8", changed("group", 0), "group is 0, not at least 1"),
    (ANY, "int8", changed("axis", 2), "axis is 2, not 0 or 1"),
    (ANY, "int4", changed("units", tensor("units", TensorProto.UINT4, (19, 23), bytes(219))), "odd length 23"),
    # Types that the operator's signature names are checked by ONNX Runtime itself.
    (ANY, "float32", changed("x", np.zeros((3, 19), np.float16)), "Type Error"),
    (ANY, "int4", changed("units", np.zeros((19, 24), np.uint8)), "Type Error"),
]


@pytest.mark.parametrize(("operator", "kind", "change", "message"), REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(operator: str, kind: str, change: Any, message: str) -> None:
    units = Units(kind, 19, 24)
    _, inputs = product(operator, units, (3,))
    attributes = dict(units.attributes)
    change(inputs, attributes)
    with pytest.raises(Exception, match=message) as caught:
        run(operator + units.ending, inputs, {"y": FLOAT}, **attributes)
    assert type(caught.value).__module__.startswith("onnxruntime")
    assert "\n" not in str(caught.value).strip()


def test_selections_refuse_what_does_not_fit() -> None:
    score = np.zeros((2, 4), np.float32)
    with pytest.raises(Exception, match="k is 5, but score has 4 units"):
        run("SelectTopk", {"score": score}, {"mask": BOOL}, k=5, site="")
    with pytest.raises(Exception, match="score has no dimension of units"):
        run("SelectTopk", {"score": np.array(0, np.float32)}, {"mask": BOOL}, k=0, site="")
    outputs = {"mask": BOOL, **{f"next_{n}": k for n, k in STATE.items()}}
    state = [np.zeros(4, bool), np.zeros(4, np.int64), np.zeros(4, np.int64), np.array(0)]
    inputs = {"score": score, "dense": np.zeros(2, bool), **dict(zip(STATE, state, strict=True))}
    attributes = {"k": 1, "capacity": 1, "gamma": 0.5, "frequency_weight": 0, "site": ""}
    with pytest.raises(Exception, match='policy is "mru", which has no kernel'):
        run("SelectCacheAware", inputs, outputs, **attributes, policy="mru")
    with pytest.raises(Exception, match=r"freq has the shape .3., not .4."):
        run("SelectCacheAware", inputs | {"freq": state[1][:3]}, outputs, **attributes, policy="lru")


def test_an_older_runtime_is_told_so() -> None:
    messages: list[bytes] = []
    create_type = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)
    get_type = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)
    version_type = ctypes.CFUNCTYPE(ctypes.c_void_p)

    def create(code: int, message: bytes) -> int:
        messages.append(message)
        return 1

    create_status = create_type(create)
    functions = (ctypes.c_void_p * 1)(ctypes.cast(create_status, ctypes.c_void_p))
    name = ctypes.create_string_buffer(b"1.16.3")
    get = get_type(lambda version: ctypes.addressof(functions) if version <= 16 else None)
    version = version_type(lambda: ctypes.addressof(name))
    base = (ctypes.c_void_p * 2)(ctypes.cast(get, ctypes.c_void_p), ctypes.cast(version, ctypes.c_void_p))
    register = ctypes.CDLL(str(dipc.onnx_library_path())).RegisterCustomOps
    register.restype = ctypes.c_void_p
    assert register(None, base) == 1
    assert messages == [b"dipc's operators need ONNX Runtime 1.17 or newer, but this is 1.16.3"]


def test_without_the_library_there_is_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPC_NATIVE", "0")
    with pytest.raises(MissingDependency, match=r"need dipc's native library, which is absent: switched off"):
        dipc.onnx_library_path()
