"""A pass: a frozen dataclass whose fields are its options, in a file of its name."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

from dipc.ir.pattern import Mismatch
from dipc.ir.program import Program
from dipc.pipeline.lexer import write_step
from dipc.registry import ModuleRegistry, defined_here, name_of, register_kind


@dataclass(frozen=True)
class PassResult:
    """The work of a pass: the new program, the places it rewrote, and the places it did not with the reasons."""

    program: Program
    matches: tuple[str, ...]
    mismatches: tuple[Mismatch, ...] = ()

    @property
    def modified(self) -> bool:
        """True where anything was rewritten."""
        return bool(self.matches)


@dataclass(frozen=True)
class Pass:
    """Base of every pass. Subclasses are frozen dataclasses; their fields are the options of the command line.

    `requires` names passes that must have run before; the runner inserts them. `tolerance` is the largest difference
    of logits, relative to the largest dense logit, that `exact()` may make; it is checked when asked.

    Of a method, a pass that leaves weights out, `cache_aware` says that its masks depend on what is cached, `oracle`
    that it computes what it then leaves out, so that no device gains what it promises, and `static` that it prunes
    weights for good, so that it has no scope of its own and goes with any.
    """

    requires: ClassVar[tuple[str, ...]] = ()
    tolerance: ClassVar[float] = 1e-4
    cache_aware: ClassVar[bool] = False
    oracle: ClassVar[bool] = False
    static: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The registry name: the file's."""
        return name_of(type(self))

    def run(self, program: Program) -> PassResult:
        """Rewrite the program. Raises UsageError where an option does not fit it."""
        raise NotImplementedError

    def done(self, program: Program) -> bool:
        """Return whether a program already has what other passes require of this one."""
        return False

    def exact(self) -> Pass:
        """This pass with options under which it must not change the numbers: itself, or a method at density 1."""
        return self

    def __str__(self) -> str:
        """The pass as pipeline text: its name and the options that differ from their defaults."""
        values = {option.name: (getattr(self, option.name), option.default) for option in dataclasses.fields(self)}
        return write_step(self.name, {n: _option_text(value) for n, (value, usual) in values.items() if value != usual})


def _find(module: ModuleType) -> type[Pass] | None:
    return defined_here(module, Pass)


PASSES: ModuleRegistry[type[Pass]] = register_kind(ModuleRegistry("pass", "dipc.passes", _find))


def _option_text(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
    return text.lower() if isinstance(value, bool) else text
