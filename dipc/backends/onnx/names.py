"""Names of an exported model's inputs and outputs, and its metadata.

- `input_ids`, `position_ids` and `logits`; `dense` where the program's scope is `decode`
- `past_key_values.0.key` -> `present.0.key`, as Optimum and ONNX Runtime GenAI have it
- `past_conv.0` -> `present_conv.0`, `past_recurrent.0` -> `present_recurrent.0`: states of recurrent layers
- `past_selection.0.input.cached` -> `present_selection.0.input.cached`
"""

from __future__ import annotations

import json
import re
from importlib.metadata import version

from dipc.backends.onnx.metadata import Carried, Metadata
from dipc.cache.state import STATE
from dipc.ir import operators
from dipc.ir.operator import argument
from dipc.ir.program import Program
from dipc.version import __version__

_KV = re.compile(r"past_(\d+)_(key|value)")
_RECURRENT = re.compile(r"past_(\d+)_(conv|recurrent)(?:_(\d+))?")


def input_names(program: Program) -> dict[str, str]:
    """Port's name -> the name of the model's input."""
    places = _state_places(program)
    found = {}
    for port in program.inputs:
        kv = _KV.fullmatch(port.name)
        if port.kind == "kv" and kv:
            found[port.name] = f"past_key_values.{kv[1]}.{kv[2]}"
        elif port.kind == "recurrent" and (state := _RECURRENT.fullmatch(port.name)):
            found[port.name] = f"past_{state[2]}." + ".".join(g for g in state.group(1, 3) if g)
        elif port.kind in ("kv", "recurrent", "state"):
            found[port.name] = f"past_selection.{places.get(port.name, port.name)}"
        else:
            found[port.name] = port.name
    return found


def output_names(program: Program) -> list[str]:
    """Names of the model's outputs: `logits`, then the next value of each carried port."""
    inputs = input_names(program)
    return [_present(inputs[name]) if name in inputs else name for name in program.outputs]


def _present(past: str) -> str:
    return past.replace("past_key_values.", "present.").replace("past_", "present_", 1)


def _state_places(program: Program) -> dict[str, str]:
    """State port -> `LAYER.SITE.WHAT`, from the selection that reads it."""
    found: dict[str, str] = {}
    for node in program.nodes_of(operators.target("select_cache_aware")):  # type: ignore[arg-type]
        site = str(argument(node, "site")).removeprefix("layers.")
        found |= {str(argument(node, what).target): f"{site}.{what}" for what in STATE}
    return found


def carried(program: Program) -> tuple[Carried, ...]:
    """The inputs that the next call takes from this one's outputs; the first call has no past positions."""
    names = input_names(program)
    return tuple(
        Carried(
            input=names[port.name],
            output=_present(names[port.name]),
            dtype=port.type.dtype,  # type: ignore[arg-type]
            shape=port.type.shape,  # type: ignore[arg-type]
            fill=bool(port.fill) if port.type.dtype == "bool" else port.fill,
            window=port.window,
        )
        for port in program.carried
    )


def metadata(program: Program, pipeline: str) -> dict[str, str]:
    """Return the model's metadata: what runs it needs (`onnx_metadata`), and where it came from."""
    info, method = program.info, program.method
    stored = sorted({str(w.dtype).removeprefix("torch.") for w in program.weights.values()})
    needed = Metadata(
        model=info.name,
        digest=info.digest,
        context=info.context,
        method=method.name,
        options=method.options,
        density=method.density,
        scope=method.scope,
        eos_ids=info.eos_ids,
        carried=carried(program),
    )
    made_by = {name: version(name) for name in ("torch", "transformers", "onnx", "onnxscript")}
    return {
        **needed.to_map(),
        "dipc.version": __version__,
        "dipc.family": info.family,
        "dipc.pipeline": pipeline,
        "dipc.formats": json.dumps(stored),
        "dipc.versions": json.dumps(made_by),
    }
