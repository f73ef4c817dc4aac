"""The tracer: a transformers module becomes a `torch.fx` graph with its KV cache as ports.

The trace always runs on the meta device, on a twin of the model that shares its structure and none of its memory, and
the real weights are put back under their names afterwards. So a 14-billion-parameter model is captured from its
config.json alone, and the graph is the same whether or not there are weights. `transformers.exporters` traces.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_arg
from torch.utils._pytree import tree_map_only

from dipc.errors import UnsupportedModel, VerificationFailed
from dipc.frontend.carried import Carried, example_cache
from dipc.frontend.digest import model_digest
from dipc.frontend.functional import functional, passed_on, results
from dipc.frontend.generation_config import eos_ids
from dipc.frontend.layer_copies import NotRepeated, repeat
from dipc.frontend.recurrences import in_closed_form, is_closed
from dipc.frontend.repeated_layers import Layers, find_layers, shorten
from dipc.frontend.rope import follow_length, longest_context
from dipc.ir.codes import QuantizedTensor
from dipc.ir.program import ModelInfo, Port, Program, TensorType
from dipc.ir.verify import verify_structure


@dataclass(frozen=True)
class Source:
    """A model to trace: a module on any device, with what results have to say of it.

    A value of a weight is stored in `stored_bits`, scales included, but for the weights in `own_bits`, by name. Of
    those in `codes` the module has the shape alone.
    """

    model: nn.Module
    config: Any
    name: str
    stored_bits: float
    tokenizer: Any = None
    own_bits: Mapping[str, float] = field(default_factory=dict)
    codes: Mapping[str, QuantizedTensor] = field(default_factory=dict)


def first_line(error: Exception) -> str:
    """The first non-empty line of an error, and the next where it ends in a colon, for one-line messages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines[:2] = [" ".join(lines[:2])] if lines and lines[0].endswith(":") else lines[:2]
    return lines[0].rstrip(".")[:200] if lines else type(error).__name__


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what transformers and torch.export say while they work; errors still raise."""
    from transformers import logging as says

    level, bars, before = says.get_verbosity(), says.is_progress_bar_enabled(), logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            says.set_verbosity_error()
            says.disable_progress_bar()
            logging.disable(logging.WARNING)
            yield
        finally:
            logging.disable(before)
            says.set_verbosity(level)
            if bars:
                says.enable_progress_bar()


def _twin(model: nn.Module, *, on_meta: bool) -> nn.Module:
    """A deep copy for tracing: its parameters take no memory of their own, and are on the meta device where asked."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = (
            nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False) if on_meta else parameter
        )
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta") if on_meta else buffer.clone()
    twin = copy.deepcopy(model, memo).eval()
    for module in twin.modules():
        if hasattr(module, "warn_if_padding_and_no_attention_mask"):
            # It looks for the padding token among the ids, whose values a trace does not have.
            vars(module)["warn_if_padding_and_no_attention_mask"] = lambda *_: None
    return twin


@dataclass(frozen=True)
class _Export:
    """A trace: the exported program, what it carries, and the values of buffers that tracing added."""

    program: Any
    carried: list[Carried]
    added: dict[str, torch.Tensor]


def trace(source: Source) -> Program:
    """Trace a model into a Program. UnsupportedModel if it is no decoder, or the exporter cannot follow it.

    Layers with a sliding window keep the window alone (`kv_cache`), and everything where that cannot be traced.
    """
    from dipc.frontend.kv_cache import masks_by_window, window_of

    window = window_of(source.config)
    if window is not None:
        with contextlib.suppress(UnsupportedModel):
            program = _trace(source, window)
            if masks_by_window(program):
                return program
    return _trace(source, None)


def _trace(source: Source, window: int | None) -> Program:
    """Trace the first layers, where the others are copies of them, or else all."""
    layers = find_layers(source.model, _text_config(source.config))
    if layers is not None:
        # What cannot be traced so may be in full, and if not, the reason should be of the whole model.
        with contextlib.suppress(NotRepeated, UnsupportedModel):
            return repeat(_traced(source, window, layers), source.model, layers)
    return _traced(source, window)


def _traced(source: Source, window: int | None, layers: Layers | None = None) -> Program:
    """Trace a model as it is, or the first of its layers."""
    what = f"{source.name} ({source.config.model_type})"
    try:
        export = _export(source, what, window, layers, on_meta=True)
        if _has_weights(source) and _lost(export):
            export = _export(source, what, window, layers, on_meta=False)
        with quiet():
            return _program(source, export)
    except UnsupportedModel:
        raise
    except Exception as error:
        if any(hasattr(source.config, n) for n in ("num_experts", "num_local_experts", "n_routed_experts")):
            raise UnsupportedModel(f"{what} is a mixture of experts, which dipc cannot capture") from error
        raise UnsupportedModel(f"{what} cannot be captured: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    text = str(error)
    if "Tensor.item()" in text or "data-dependent" in text or "GuardOnDataDependent" in text:
        return "its code decides by values of tensors, which a trace does not have"
    if isinstance(error, VerificationFailed):
        return f"its code computes with the number of tokens, so a trace holds for one number ({first_line(error)})"
    return f"torch.export cannot follow its code ({first_line(error)})"


def _text_config(config: Any) -> Any:
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _has_weights(source: Source) -> bool:
    return next(source.model.parameters()).device.type != "meta"


def _lost(export: _Export) -> bool:
    """Return whether the graph reads a constant that the model made while it ran on the meta device, without values."""
    kinds = export.program.graph_signature.input_specs
    names = {spec.target for spec in kinds if spec.kind.name == "CONSTANT_TENSOR"} - export.added.keys()
    return any(export.program.constants[name].device.type == "meta" for name in names)


def _export(source: Source, what: str, window: int | None, layers: Layers | None, *, on_meta: bool) -> _Export:
    from transformers.exporters import DynamoConfig, DynamoExporter

    twin = _twin(source.model, on_meta=on_meta)
    if layers is not None:
        shorten(twin, layers)
    added = follow_length(twin)
    device = torch.device("meta") if on_meta else next(twin.parameters()).device
    with quiet(), device, torch.no_grad(), in_closed_form(twin):
        seen = twin(input_ids=torch.ones(1, 5, dtype=torch.long), use_cache=True).get("past_key_values")
        if not getattr(seen, "layers", None):
            raise UnsupportedModel(f"{source.name} keeps no KV cache: it is no decoder-only language model")
        cache, carried = example_cache(seen, what, window, closed=is_closed(twin))
        inputs = {
            "input_ids": torch.ones(1, 4, dtype=torch.long),
            "position_ids": torch.arange(5, 9)[None],
            "past_key_values": cache,
        }
        auto = torch.export.Dim.AUTO
        dynamic = {"input_ids": {1: auto}, "position_ids": {1: auto}}
        shapes = dynamic | {"past_key_values": [c.dynamic for c in carried]}
        exporter: Any = DynamoExporter()  # typed for PreTrainedModel; any transformers module will do
        exported = exporter.export(twin, inputs, config=DynamoConfig(dynamic=True, dynamic_shapes=shapes))
        return _Export(functional(exported.program), carried, added)


def _program(source: Source, export: _Export) -> Program:
    """Lift the exported graph's weights to `get_attr` nodes under one canonical name each, and name its ports."""
    exported = export.program
    real: dict[str, torch.Tensor] = dict(source.model.named_parameters(remove_duplicate=False))
    buffers: dict[str, torch.Tensor] = dict(source.model.named_buffers(remove_duplicate=False)) | export.added
    canonical: dict[int, str] = {}
    for name, tensor in (*real.items(), *((f"constant.{name}", tensor) for name, tensor in buffers.items())):
        canonical.setdefault(id(tensor), name)
    real |= buffers
    kinds = {spec.arg.name: spec for spec in exported.graph_signature.input_specs}

    graph, env = fx.Graph(), {}
    weights: dict[str, torch.Tensor] = {}
    ports: list[Port] = []
    attributes: dict[str, fx.Node] = {}
    for node in exported.graph.nodes:
        if node.op == "placeholder" and kinds[node.name].kind.name != "USER_INPUT":
            target = kinds[node.name].target
            tensor = real[target] if target in real else exported.constants[target]
            name = canonical.get(id(tensor), f"constant.{target}")
            if name not in attributes:
                weights[name] = tensor.detach()
                attributes[name] = graph.get_attr(name)
            env[node] = attributes[name]
        elif node.op == "placeholder":
            port = _port(node, len(ports), export.carried)
            ports.append(port)
            env[node] = graph.placeholder(port.name)
        elif node.op == "output":
            graph.output(tuple(env[a] for a in results(exported)))
        elif (same := passed_on(node)) is not None:
            env[node] = env[same] if isinstance(same, fx.Node) else same
        else:
            env[node] = _copy(graph, node, env)
    _ask_the_first(graph, ports)
    graph.eliminate_dead_code()
    outputs = ("logits", *(p.name for p in ports if p.kind in ("kv", "recurrent")))
    config = _text_config(source.config)
    info = ModelInfo(
        name=source.name,
        family=str(source.config.model_type),
        layers=int(config.num_hidden_layers),
        d_model=int(config.hidden_size),
        vocab=int(config.vocab_size),
        context=longest_context(config),
        weight_bits=source.stored_bits,
        digest="",
        has_weights=_has_weights(source),
        eos_ids=eos_ids(source.model),
        own_bits=dict(source.own_bits),
    )
    program = Program(graph, weights, tuple(ports), outputs, info, tokenizer=source.tokenizer)
    verify_structure(program)
    return program.replace(info=dataclasses.replace(info, digest=model_digest(program)))


def _ask_the_first(graph: fx.Graph, ports: list[Port]) -> None:
    """Take the number of past positions from the first port that has it: the exporter takes any."""
    nodes = {str(n.target): n for n in graph.nodes if n.op == "placeholder"}
    first: dict[object, fx.Node] = {}
    for port in ports:
        if port.past_axis is not None:
            symbol = port.type.shape[port.past_axis]
            for user in list(nodes[port.name].users):
                if user.target is torch.ops.aten.sym_size.int and user.args[1] == port.past_axis:
                    user.replace_input_with(nodes[port.name], first.setdefault(symbol, nodes[port.name]))
            first.setdefault(symbol, nodes[port.name])


def _port(node: fx.Node, index: int, carried: list[Carried]) -> Port:
    value = node.meta["val"]
    if index < 2:
        name, kind = (("input_ids", "tokens"), ("position_ids", "positions"))[index]
        dtype = str(value.dtype).removeprefix("torch.")
        return Port(name, kind, TensorType(dtype, (1, "seq")))  # type: ignore[arg-type]
    return carried[index - 2].port(value)


def _copy(graph: fx.Graph, node: fx.Node, env: Mapping[fx.Node, Any]) -> fx.Node:
    """The node in the new graph, on the CPU, with the module it came from as its only annotation."""
    args, kwargs = map_arg((node.args, node.kwargs), lambda n: env[n])
    args, kwargs = tree_map_only(torch.device, lambda _: torch.device("cpu"), (args, kwargs))
    target = node.target
    if target is torch.ops.aten.to.device:
        target, args = torch.ops.aten.to.dtype, (args[0], args[2], *args[3:])
    new = graph.create_node("call_function", target, args, kwargs, name=node.name)
    stack = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values() if not path.startswith("_")]
    new.meta = {"module": stack[-1] if stack else ""}
    return new
