"""Which operators and weight names a stored graph may use: an allow-list, because the file chooses what is called."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import fx

from dipc.errors import BadFile, DipcError
from dipc.ir import operators

_ARITHMETIC = ("getitem", "add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "eq", "ne", "lt", "le", "gt", "ge")
OPERATOR_FUNCTIONS = {f"operator.{name}": getattr(operator, name) for name in _ARITHMETIC}

# Names with one leading underscore are torch's own internals, and backward and device-bound kernels trust their
# arguments; no language model's forward graph needs any of them.
_REFUSED_ATEN = re.compile(r"from_file|_[^_].*|.*_backward|(cudnn|miopen|mkldnn|fbgemm|quantized|sparse)_.*")
_OVERLOAD = re.compile(r"(aten|dipc)\.([A-Za-z_]\w*)\.([A-Za-z_]\w*)", re.ASCII)
_WEIGHT = re.compile(r"\w+(\.\w+)*", re.ASCII)
_TAKEN = frozenset(dir(torch.nn.Module()))
_TAKEN_AT_TOP = frozenset(dir(fx.GraphModule)) | {"meta"}


def resolve_target(text: str) -> Any:
    """The operator that a name such as `aten.linear.default` or `operator.getitem` stands for.

    Raises BadFile, naming it, for everything that is not on the allow-list (see the module's docstring).
    """
    if text in OPERATOR_FUNCTIONS:
        return OPERATOR_FUNCTIONS[text]
    parts = _OVERLOAD.fullmatch(text)
    if parts is None:
        raise BadFile(f"operator {text[:80]!r} is not one that a program may call")
    if parts[1] == "dipc":
        try:
            found = operators.target(parts[2])
        except DipcError:
            raise BadFile(f"no operator {text!r} is known here; load the plug-in that defines it") from None
    else:
        packet = None if _REFUSED_ATEN.fullmatch(parts[2]) else getattr(torch.ops.aten, parts[2], None)
        known = isinstance(packet, torch._ops.OpOverloadPacket) and parts[3] in packet.overloads()
        found = getattr(packet, parts[3]) if known else None
    if not isinstance(found, torch._ops.OpOverload) or str(found) != text or not _is_functional(found):
        raise BadFile(f"operator {text!r} is not one that a program may call")
    return found


def _is_functional(target: torch._ops.OpOverload) -> bool:
    """Known to the dispatcher (TorchScript's builtins, which can touch files, are not) and writes to no argument."""
    return bool(torch._C._dispatch_has_kernel(target.name())) and not target._schema.is_mutable


def check_weight_names(names: Iterable[str]) -> None:
    """BadFile for a weight's name that cannot be an attribute path of a module, or that hides one of its attributes."""
    known = set(names)
    for name in known:
        parts = name.split(".")
        taken = parts[0] in _TAKEN_AT_TOP or parts[0].startswith("_") or not _TAKEN.isdisjoint(parts)
        prefix = any(".".join(parts[:i]) in known for i in range(1, len(parts)))
        if not _WEIGHT.fullmatch(name) or taken or prefix:
            raise BadFile(f"{name[:80]!r} cannot be a weight's name")


def target_text(target: object) -> str:
    """The inverse of `resolve_target`; BadFile for an operator that is not on the allow-list."""
    text = (
        str(target) if isinstance(target, torch._ops.OpOverload) else f"operator.{getattr(target, '__name__', target)}"
    )
    if resolve_target(text) is not target:
        raise BadFile(f"{target} is not the operator {text!r}")
    return text
