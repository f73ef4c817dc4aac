"""Run a program in torch, call after call, with its KV cache and its selection state carried along.

Shape legend: T tokens of a call.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, fx

from dipc import native
from dipc.backends._backend import Backend, RunOptions
from dipc.backends._kv_cache import Past, rewound
from dipc.backends._session import Session, Step, check_call
from dipc.errors import UsageError
from dipc.ir.identity import Identity
from dipc.ir.operator import argument, is_dequantized
from dipc.ir.placement import device_of, place
from dipc.ir.program import Program
from dipc.ir.selections import selections
from dipc.ir.verify import empty_port
from dipc.ir.weight_parts import parameters_per_entry, values_per_entry
from dipc.pipeline.text import make_pass

WORTH_TOKENS = 32
"""Packing float weights takes about as long as it saves in so many tokens; codes, in any number."""
WIDE_BYTES = 2**30
"""Up to so many bytes of floats, codes that no packed product reads are widened once, and not for every token."""


class Eager(Backend):
    """Runs a program in torch, on the CPU or a GPU."""

    flags = frozenset({"device", "threads"})
    runtime = "torch"

    def prepare(self, program: Program, options: RunOptions, *, new_tokens: int | None = None) -> Program:
        """Return the program on the device that is asked for and, on a CPU, packed for writing where that pays."""
        if options.device is not None:
            program = place(program, options.device)
        if new_tokens is None or options.kernels is False or device_of(program).type != "cpu":
            return program
        return packed_for(program, new_tokens)

    @contextmanager
    def open(self, program: Program, options: RunOptions | None = None, *, record: bool = False) -> Iterator[Session]:
        """Give a session; see `EagerSession`. A number of threads is all of torch's, for as long as the context."""
        with _threads(None if options is None else options.threads):
            yield EagerSession(program, record=record)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Let torch and the native kernels work with so many threads; None leaves them as they are."""
    if count is None:
        yield
        return
    before = torch.get_num_threads()
    _set_threads(count)
    try:
        yield
    finally:
        _set_threads(before)


def _set_threads(count: int) -> None:
    torch.set_num_threads(count)
    if native.library() is not None:
        native.set_threads(count)


def packed_for(program: Program, tokens: int) -> Program:
    """Return the program with its pruned products packed, where the native library is there and it pays.

    Codes of other products are widened once, up to `WIDE_BYTES`. The weights of the program given are not changed:
    while it is kept, those of the MLPs are in memory twice.

    Measured on a Llama of d_model 1024, d_ff 2816 and 8 layers with one thread, the best of seven runs, in ms a token:
    float32 dense 35, dip at density 0.5 as written 40 and packed 28, at 0.25 packed 22; with int4 MLPs dip as written
    190 and packed 19. The demo model, which is tiny, gains too: dense 4.5, dip as written 5.6 and packed 4.6.

    Args:
        program: with weights.
        tokens: how many will be written.
    """
    if native.library() is None or (tokens < WORTH_TOKENS and not parameters_per_entry(program.graph)):
        return program
    packed = make_pass("pack", {}).run(program).program
    floats = _dequantized_bytes(packed)
    return make_pass("widen", {}).run(packed).program if 0 < floats <= WIDE_BYTES else packed


def _dequantized_bytes(program: Program) -> float:
    """Bytes of the matrices that a program makes of codes anew in every call, as float32."""
    held = values_per_entry(program.graph)
    names = {str(argument(n, "codes").target) for n in program.graph.nodes if is_dequantized(n)}
    return 4.0 * float(sum(program.weights[name].numel() * held[name] for name in names))


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
        self._pasts = {p.name: Past(p.past_axis, p.window) for p in program.carried}
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
            if port.kind in ("kv", "recurrent"):
                self._values[port.name] = empty_port(port, 0, 0, str(self._device))
        self._position = 0

    def rewind(self, position: int) -> bool:
        """Forget the tokens from `position` on; False, with nothing forgotten, where a weight cache is carried."""
        values = rewound(self._values, self._pasts, self._position, position)
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
        fed = {name: self._pasts[name].fed(value) for name, value in self._values.items()}
        results = self._module(*(fed[p.name] if p.name in fed else given[p.kind] for p in self.program.inputs))
        for name, value in zip(self.program.outputs[1:], results[1 : len(self.program.outputs)], strict=True):
            self._values[name] = self._pasts[name].kept(value, count)
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
