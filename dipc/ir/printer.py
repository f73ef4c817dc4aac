"""A program as text: what `inspect` shows, `--dump-after` writes, and golden tests hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import fx


class Printable(Protocol):
    """The parts of a program that are printed (`dipc.ir.program`, which prints itself by this)."""

    @property
    def graph(self) -> fx.Graph:
        """The nodes."""

    @property
    def info(self) -> Any:
        """Name, family and layers of the model."""

    @property
    def method(self) -> Any:
        """Name and density of the method."""

    @property
    def inputs(self) -> Sequence[Any]:
        """The ports."""

    @property
    def outputs(self) -> Sequence[str]:
        """The outputs' names."""


def op_name(target: Any) -> str:
    """`aten.linear.default` -> `aten.linear`; other overloads keep their name; Python operators lose the underscore."""
    module = getattr(target, "__module__", "")
    if module == "_operator":
        return f"operator.{target.__name__}"
    return str(target).removesuffix(".default")


def value_text(value: object) -> str:
    """An argument as text: `%name` for a node, `@name` for a weight."""
    from torch import fx

    if isinstance(value, fx.Node):
        return f"@{value.target}" if value.op == "get_attr" else f"%{value.name}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(value_text, value))}]"
    return repr(value) if isinstance(value, str) else str(value).removeprefix("torch.")


def node_text(node: fx.Node) -> str:
    """One line: name, type, operator, arguments."""
    args = _positional(node) + [f"{k}={value_text(v)}" for k, v in node.kwargs.items()]
    kind = node.meta.get("type")
    typed = "" if kind is None else ": " + (f"({', '.join(map(str, kind))})" if isinstance(kind, tuple) else str(kind))
    return f"%{node.name}{typed} = {op_name(node.target)}({', '.join(args)})"


def _positional(node: fx.Node) -> list[str]:
    """Positional arguments as text; the constants of our own operators by name, those left at None not at all."""
    if getattr(node.target, "namespace", None) != "dipc":
        return [value_text(a) for a in node.args]
    from torch import fx

    names = [a.name for a in node.target._schema.arguments]  # type: ignore[union-attr]
    pairs = [(n, v) for n, v in zip(names, node.args, strict=False) if v is not None]
    return [value_text(v) if isinstance(v, fx.Node) else f"{n}={value_text(v)}" for n, v in pairs]


def sections(program: Printable) -> list[tuple[str, list[str]]]:
    """The nodes as lines, grouped by consecutive module, in program order."""
    groups: list[tuple[str, list[str]]] = []
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        module = str(node.meta.get("module", ""))
        if not groups or groups[-1][0] != module:
            groups.append((module, []))
        groups[-1][1].append(node_text(node))
    return groups


def to_text(program: Printable) -> str:
    """The whole program: a header, the ports, the nodes by module, the outputs."""
    info, method = program.info, program.method
    lines = [
        f"program {info.name} ({info.family}, {info.layers} layers), method {method.name}, density {method.density:g}"
    ]
    lines += [f"  input {p.name}: {p.type} ({p.kind})" for p in program.inputs]
    for module, body in sections(program):
        lines.append(f"{module or 'model'}:")
        lines += [f"  {line}" for line in body]
    output = next(n for n in program.graph.nodes if n.op == "output")
    lines += [f"  output {name} = {value_text(n)}" for name, n in zip(program.outputs, output.args[0], strict=True)]
    return "\n".join(lines) + "\n"
