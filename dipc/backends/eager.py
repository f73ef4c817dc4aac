"""The eager backend: run a program in torch, call after call, with its KV cache and its selection state carried along.

Shape legend: T tokens of a call.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx

from dipc.backends._session import Step, check_call, rewound
from dipc.errors import UsageError
from dipc.ir.identity import Identity
from dipc.ir.placement import device_of
from dipc.ir.program import Program
from dipc.ir.verify import empty_port
from dipc.memory.lowering import selections


class EagerSession:
    """A running program: a `Session` (dipc.backends._session).

    Args:
        program: with weights; it runs where they are (`dipc.ir.placement.place` moves them).
        record: also return every site's masks.

    Raises:
        UsageError: the program was captured from a config alone.
    """

    def __init__(self, program: Program, *, record: bool = False) -> None:
        if not program.info.has_weights:
            raise UsageError(f"{program.info.name} was captured from a config alone: it has no weights to run with")
        self.program = program
        self.identity = Identity.of(program, "eager")
        self._sites = selections(program) if record else {}
        self._device = device_of(program)
        self._module = _module_with(program, list(self._sites.values()))
        self._values: dict[str, Tensor] = {}
        self._position = 0
        self.reset()

    def reset(self) -> None:
        """Forget everything: KV cache, selection state, weight cache."""
        self._values = {p.name: empty_port(p, 0, 0, str(self._device)) for p in self.program.carried}
        self._position = 0

    def new_sequence(self) -> None:
        """Forget the text but keep the weight cache warm, as a device does between two prompts."""
        for port in self.program.carried:
            if port.kind == "kv":
                self._values[port.name] = empty_port(port, 0, 0, str(self._device))
        self._position = 0

    def rewind(self, position: int) -> bool:
        """Forget the tokens from `position` on; False, with nothing forgotten, where a weight cache is carried."""
        shapes = {p.name: p.type.shape for p in self.program.carried}
        values = rewound(self._values, shapes, self._position, position)
        if values is None:
            return False
        self._values, self._position = values, position
        return True

    @property
    def position(self) -> int:
        """Tokens seen in this sequence."""
        return self._position

    def state(self, name: str) -> Tensor:
        """The present value of a carried port."""
        return self._values[name]

    @torch.no_grad()
    def step(self, ids: Sequence[int] | Tensor, *, dense: bool = False) -> Step:
        """Feed tokens [T]; `dense` leaves them dense where the program's scope is `decode`.

        Raises:
            UsageError: no token, or more than the model's context holds.
        """
        ids_T = torch.as_tensor(ids, dtype=torch.long, device=self._device)
        count = len(ids_T)
        check_call(count, self._position, self.identity.context)
        given = {
            "tokens": ids_T.unsqueeze(0),
            "positions": torch.arange(self._position, self._position + count, device=self._device).unsqueeze(0),
            "dense": torch.full((1, count), dense, device=self._device),
        }
        results = self._module(
            *(self._values[p.name] if p.name in self._values else given[p.kind] for p in self.program.inputs)
        )
        for name, value in zip(self.program.outputs[1:], results[1 : len(self.program.outputs)], strict=True):
            self._values[name] = value
        self._position += count
        masks = {s: m.select(0, 0) for s, m in zip(self._sites, results[len(self.program.outputs) :], strict=True)}
        return Step(results[0].select(0, 0).float(), masks)


def _module_with(program: Program, extra: Sequence[fx.Node]) -> fx.GraphModule:
    """The program as a callable that also returns some inner values."""
    if not extra:
        return program.module
    positions = {n: i for i, n in enumerate(program.graph.nodes)}
    graph = program.edit()
    nodes = list(graph.nodes)
    output = next(n for n in nodes if n.op == "output")
    output.args = ((*output.args[0], *(nodes[positions[n]] for n in extra)),)
    return fx.GraphModule(dict(program.weights), graph, class_name="Program")
