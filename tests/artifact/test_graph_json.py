"""The graph as JSON: an exact round trip, and one clear error for everything that is not such a graph."""

from __future__ import annotations

import contextlib
import copy
import json
import math
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import fx
from transformers import LlamaConfig, LlamaForCausalLM

from dipc.artifact.graph_json import graph_from_json, graph_to_json
from dipc.artifact.graph_names import resolve_target
from dipc.errors import BadFile, UnsupportedModel
from dipc.frontend.hugging_face import capture
from dipc.ir.program import ModelInfo, Port, Program, TensorType
from dipc.ir.verify import verify_structure
from dipc.pipeline.numeric_check import probe_logits
from dipc.pipeline.runner import run_pipeline
from dipc.pipeline.text import parse_pipeline

ATEN = torch.ops.aten
INFO = ModelInfo("tiny", "none", 1, 4, 8, 16, 32.0, "0", has_weights=True)


def one_node(target: Any, *args: Any, **kwargs: Any) -> Program:
    """A program of one call on `x` f32[1, seq]; the argument "x" stands for that node."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    result = graph.call_function(target, tuple(x if a == "x" else a for a in args), kwargs)
    graph.output((result,))
    return Program(graph, {}, (Port("x", "dense", TensorType("float32", (1, "seq"))),), ("logits",), INFO)


def there_and_back(program: Program) -> Program:
    graph, inputs, outputs = graph_from_json(json.loads(json.dumps(graph_to_json(program), allow_nan=False)))
    again = Program(graph, program.weights, inputs, outputs, program.info, program.mlps, program.method)
    verify_structure(again)
    return again


@pytest.fixture(scope="module")
def dense() -> Program:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    return capture(LlamaForCausalLM(config).eval())


@pytest.fixture
def data(dense: Program) -> dict[str, Any]:
    return copy.deepcopy(graph_to_json(dense))


@pytest.mark.parametrize("pipeline", ["", "outline-glu", "dip", "dip-ca{scope=decode}"])
def test_the_round_trip_is_exact(dense: Program, pipeline: str) -> None:
    program = run_pipeline(dense, parse_pipeline(pipeline)).program if pipeline else dense
    again = there_and_back(program)
    assert again.text() == program.text()
    assert again.inputs == program.inputs
    assert torch.equal(probe_logits(again), probe_logits(program))
    assert graph_to_json(again) == graph_to_json(program)


@pytest.mark.parametrize(
    ("target", "args", "kwargs"),
    [
        (ATEN.clamp.default, ("x", -math.inf, math.inf), {}),
        (ATEN.add.Scalar, ("x", -0.0), {}),
        (ATEN.add.Scalar, ("x", 2**53 + 1), {}),
        (ATEN.to.dtype, ("x", torch.bfloat16, False, True, torch.contiguous_format), {}),
        (
            ATEN.new_ones.default,
            ("x", [2, 3]),
            {"dtype": torch.bool, "layout": torch.strided, "device": torch.device("cpu")},
        ),
        (ATEN.gelu.default, ("x",), {"approximate": "tanh"}),
        (ATEN.sum.dim_IntList, ("x", None), {"keepdim": True}),
    ],
)
def test_arguments_keep_value_and_type(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    program = one_node(target, *args, **kwargs)
    again = there_and_back(program)
    before, after = (next(n for n in p.graph.nodes if n.op == "call_function") for p in (program, again))
    assert repr(before.args) == repr(after.args)
    assert repr(before.kwargs) == repr(after.kwargs)
    assert [type(a) for a in before.args] == [type(a) for a in after.args]


def test_nan_and_nested_tuples_survive() -> None:
    value = ((1, [2.0, math.nan]), True)
    node = next(n for n in there_and_back_raw(value).nodes if n.op == "call_function")
    assert repr(node.args[1]) == repr(value)
    assert type(node.args[1]) is tuple


def there_and_back_raw(value: Any) -> fx.Graph:
    return graph_from_json(json.loads(json.dumps(graph_to_json(one_node(ATEN.add.Tensor, "x", value)))))[0]


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "torch.load",
        "builtins.eval",
        "operator.methodcaller",
        "operator.attrgetter",
        "operator.__class__",
        "aten.from_file.default",
        "aten.from_file.out",
        "aten.save.default",
        "aten.add.out",
        "aten.add_.Tensor",
        "aten.__class__.__init__",
        "aten.name.default",
        "aten.linear.op",
        "aten.linear._schema",
        "aten.linear",
        "aten._sparse_coo_tensor_unsafe.default",
        "aten.linear.default ",
        "dipc.no_such.default",
        "dipc.operator.default",
        "dipc.gather_linear.other",
        "prims.add.default",
        "x" * 10_000,
    ],
)
def test_an_operator_off_the_list_is_named(data: dict[str, Any], target: str) -> None:
    node = next(n for n in data["nodes"] if n.get("target") == "aten.linear.default")
    node["target"] = target
    with pytest.raises(BadFile, match="operator") as error:
        graph_from_json(data)
    assert repr(target[:80])[1:-1] in str(error.value)
    assert len(str(error.value)) < 300


def test_what_the_dispatcher_does_not_know_or_that_writes_is_no_target() -> None:
    """Over every operator torch has: TorchScript's builtins, in-place and out forms are all refused."""
    accepted = 0
    for schema in torch._C._jit_get_all_schemas():
        name, overload = schema.name, schema.overload_name or "default"
        text = f"{name.replace('::', '.')}.{overload}"
        try:
            resolve_target(text)
        except BadFile:
            continue
        accepted += 1
        assert name.startswith(("aten::", "dipc::"))
        assert not schema.is_mutable and "file" not in name
    assert accepted > 500


def test_a_program_that_cannot_be_held_is_refused_when_saved() -> None:
    with pytest.raises(UnsupportedModel, match=r"tiny cannot be saved: .*aten.add_.Tensor"):
        graph_to_json(one_node(ATEN.add_.Tensor, "x", "x"))
    with pytest.raises(UnsupportedModel, match="slice"):
        graph_to_json(one_node(ATEN.add.Tensor, "x", slice(1)))
    with pytest.raises(UnsupportedModel, match="operator"):
        graph_to_json(one_node(print, "x"))


INJECTION = "x'), __import__('os').abort(), ('"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["nodes"].append(d["nodes"][0]), "output"),
        (lambda d: d.update(nodes=[]), "output"),
        (lambda d: d["nodes"].insert(1, d["nodes"][0]), "second node"),
        (lambda d: d["nodes"][0].update(name=INJECTION), "identifier"),
        (lambda d: d["nodes"][0].update(name="lambda"), "identifier"),
        (lambda d: d["nodes"][0].update(name="print"), "reserved"),
        (lambda d: d["nodes"][0].update(module="a\nimport os"), "printable"),
        (lambda d: d["nodes"][0].update(op="call_method"), "nodes.0.op"),
        (lambda d: d["nodes"][0].update(extra=1), "nodes.0.extra: unknown key"),
        (lambda d: d["nodes"][0].update(args=[1]), "no arguments"),
        (lambda d: d["nodes"][0].pop("name"), "nodes.0.name"),
        (lambda d: d["nodes"][-1].update(args=[1]), "tuple of nodes"),
        (lambda d: d["nodes"][-1].update(args=[]), "one argument"),
        (lambda d: d["inputs"][0].update(kind="file"), "inputs.0.kind"),
        (lambda d: d["inputs"][0].update(shape=[1, -1]), "its type"),
        (lambda d: d["inputs"][0].update(shape=[1, "__import__"]), "its type"),
        (lambda d: d["inputs"][0].update(dtype="load"), "its type"),
        (lambda d: d["inputs"][0].update(fill="0"), "fill"),
        (lambda d: d["inputs"][0].update(window=8), "its window of 8 positions cannot be"),
        (lambda d: d["inputs"][0].update(shape=[1, "past_window"], window=1), "its window of 1 positions cannot be"),
        (lambda d: d["inputs"][0].update(window="8"), "window"),
        (lambda d: d.update(outputs=["logits", "nothing"]), "outputs"),
        (lambda d: d.update(outputs=[]), "outputs"),
        (lambda d: d.update(more=1), "unknown key"),
    ],
)
def test_a_malformed_graph_is_one_clear_line(data: dict[str, Any], change: Any, message: str) -> None:
    change(data)
    with pytest.raises(BadFile, match=message) as error:
        graph_from_json(data)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [INJECTION, "a b", "model..w", "forward", "model.training", "lm_head.weight.x", ""])
def test_weight_names_are_plain_attribute_paths(data: dict[str, Any], name: str) -> None:
    next(n for n in data["nodes"] if n["op"] == "get_attr" and n["target"] != "lm_head.weight")["target"] = name
    with pytest.raises(BadFile, match="weight's name"):
        graph_from_json(data)


@pytest.mark.parametrize(
    "argument",
    [
        {"node": "nothing"},
        {"node": "lm_head_weight_of_later"},
        {"node": 3},
        {"float": "1e3"},
        {"dtype": "load"},
        {"dtype": "strided"},
        {"device": "nowhere"},
        {"object": "x"},
        {"tuple": "abc"},
        {},
        {"node": "a", "tuple": []},
        2**64,
        math.inf,
        "a\nb",
        "\ud800",
        json.loads("[" * 20 + "]" * 20),
        json.loads("[" * 900 + "]" * 900),
    ],
)
def test_arguments_are_checked(data: dict[str, Any], argument: Any) -> None:
    next(n for n in data["nodes"] if n.get("target") == "aten.linear.default")["args"][1] = argument
    with pytest.raises(BadFile):
        graph_from_json(data)


def test_python_operators_take_only_numbers_and_nodes() -> None:
    import operator

    data = graph_to_json(one_node(operator.mul, "x", 3))
    data["nodes"][1]["args"] = ["a", 10**12]
    with pytest.raises(BadFile, match=r"operator\.mul takes numbers"):
        graph_from_json(data)


def test_a_keyword_the_operator_lacks_is_refused() -> None:
    data = graph_to_json(one_node(ATEN.gelu.default, "x"))
    data["nodes"][1]["kwargs"] = {"approximate=__import__('os').abort()": 1}
    with pytest.raises(BadFile, match="no argument"):
        graph_from_json(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["node", "tuple", "nodes", "name", "op", "dtype"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.data(), junk=JSON)
def test_junk_anywhere_is_never_a_traceback(data: dict[str, Any], where: st.DataObject, junk: Any) -> None:
    """Replace one value somewhere: the graph still reads, or says BadFile."""
    data = copy.deepcopy(data)
    node = where.draw(st.sampled_from(data["nodes"] + data["inputs"] + [data]))
    node[where.draw(st.sampled_from(sorted(node)))] = junk
    with contextlib.suppress(BadFile):
        graph_from_json(data)
