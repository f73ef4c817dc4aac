"""The function bodies that an ONNX model carries, so that it runs where no kernel of `ai.dipc` is registered."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import FunctionProto, parser

from dipc.errors import UnsupportedModel
from dipc.ir.onnx_form import DOMAIN, DOMAIN_VERSION, OPSET, OnnxForm

# The parser reads whole models, and a model has a graph.
_HEAD = f"""<ir_version: 10, opset_import: ["": {OPSET}, "{DOMAIN}": {DOMAIN_VERSION}]>
main (float[N] x) => (float[N] y) {{ y = Identity (x) }}
"""


def functions(names: Iterable[str], forms: Iterable[OnnxForm]) -> list[FunctionProto]:
    """The functions of the ONNX operators `names`, sorted, ready for `ModelProto.functions`.

    Args:
        names: operators of the domain `ai.dipc` that a model calls.
        forms: those of dipc's operators that the model was made from.

    Raises:
        UnsupportedModel: two forms give one name different bodies.
    """
    known: dict[str, str] = {}
    for form in forms:
        for name, text in form.bodies.items():
            if known.setdefault(name, text) != text:
                raise UnsupportedModel(f"two operators give {DOMAIN}.{name} different bodies; rename one")
    texts = [
        f'<domain: "{DOMAIN}", opset_import: ["": {OPSET}]>\n{known[name].strip()}\n' for name in sorted(set(names))
    ]
    return list(parser.parse_model(_HEAD + "".join(texts)).functions)
