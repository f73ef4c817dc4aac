"""Passes and the runner that checks them.

A pass is a frozen dataclass whose fields are its options, in a file of its name. A pipeline is text that parses and
prints back to itself: `outline-glu,dip-ca{density=0.5 gamma=0.2}`.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar, get_type_hints

from dipc.errors import UnknownName, UnsupportedModel, UsageError, VerificationFailed
from dipc.ir.pattern import Mismatch
from dipc.ir.printer import op_name
from dipc.ir.program import Program
from dipc.ir.verify import verify_structure
from dipc.registry import Registry, defined_here, name_of, register_kind


@dataclass(frozen=True)
class PassResult:
    """What a pass did: the new program, the places it rewrote, and the places it did not with the reasons."""

    program: Program
    matches: tuple[str, ...]
    mismatches: tuple[Mismatch, ...] = ()

    @property
    def modified(self) -> bool:
        """Whether anything was rewritten."""
        return bool(self.matches)


@dataclass(frozen=True)
class Pass:
    """Base of every pass. Subclasses are frozen dataclasses; their fields are the options of the command line.

    `requires` names passes that must have run before; the runner inserts them. `tolerance` is the largest difference
    of logits, relative to the largest dense logit, that `exact()` may make; it is checked when asked.
    """

    requires: ClassVar[tuple[str, ...]] = ()
    tolerance: ClassVar[float] = 1e-4

    @property
    def name(self) -> str:
        """The registry name: the file's."""
        return name_of(type(self))

    def run(self, program: Program) -> PassResult:
        """Rewrite the program. Raises UsageError where an option does not fit it."""
        raise NotImplementedError

    def done(self, program: Program) -> bool:
        """Whether a program already has what other passes require of this one."""
        return False

    def exact(self) -> Pass:
        """This pass with options under which it must not change the numbers: itself, or a method at density 1."""
        return self

    def __str__(self) -> str:
        """The pass as pipeline text: its name and the options that differ from their defaults."""
        given = []
        for option in dataclasses.fields(self):
            value = getattr(self, option.name)
            if value != option.default:
                given.append(f"{option.name}={_option_text(value)}")
        return self.name + (f"{{{' '.join(given)}}}" if given else "")


def _find(module: ModuleType) -> type[Pass] | None:
    return defined_here(module, Pass)


PASSES: Registry[type[Pass]] = register_kind(Registry("pass", "dipc.passes", _find))

_PASS = re.compile(r"\s*([A-Za-z0-9_-]+)\s*(?:\{([^{}]*)\})?\s*(?:,|$)")
_OPTION = re.compile(r"""\s*([A-Za-z_]\w*)\s*=\s*("[^"]*"|[^\s"{}]+)""")


def _option_text(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
    text = text.lower() if isinstance(value, bool) else text
    return f'"{text}"' if re.search(r"[\s,=]", text) or text == "" else text


def parse_pipeline(text: str) -> list[Pass]:
    """`a,b{x=1 y="4 GB"}` -> passes. UsageError says where the text is wrong, or which option a pass lacks."""
    passes: list[Pass] = []
    position = 0
    while position < len(text) or not passes:
        found = _PASS.match(text, position)
        if found is None or found.end() == position:
            raise UsageError(
                f"pipeline: cannot read {text[position:] or 'an empty pipeline'!r}; write name{{option=value}},..."
            )
        if found.end() == len(text) and text.rstrip().endswith(","):
            raise UsageError(f"pipeline: {text!r} ends in a comma")
        passes.append(make_pass(found[1], _parse_options(found[1], found[2] or "")))
        position = found.end()
    return passes


def _parse_options(name: str, text: str) -> dict[str, str]:
    options: dict[str, str] = {}
    position = 0
    while text[position:].strip():
        found = _OPTION.match(text, position)
        if found is None:
            raise UsageError(f"{name}: cannot read the options at {text[position:].strip()!r}; write option=value")
        if found[1] in options:
            raise UsageError(f"{name}: option {found[1]!r} is given twice")
        options[found[1]] = found[2].strip('"')
        position = found.end()
    return options


def make_pass(name: str, options: dict[str, Any]) -> Pass:
    """A pass by registry name with options as text or values; UsageError for an option it lacks or cannot take."""
    from pydantic import TypeAdapter, ValidationError

    kind = PASSES.get(name.replace("_", "-"))
    types = get_type_hints(kind)
    known = [f.name for f in dataclasses.fields(kind)]
    values = {}
    for option, value in options.items():
        if option not in known:
            raise UnknownName(f"option of {name}", option, known or ["none"])
        try:
            values[option] = TypeAdapter(types[option]).validate_python(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"].lower()
            raise UsageError(f"{name}: {option}={value}: {reason}") from None
    return kind(**values)


def with_calibration(passes: Iterable[Pass], path: str) -> list[Pass]:
    """The passes with `calibration=path` wherever one takes a calibration and was given none.

    Raises BadFile if there is no calibration to read, whether a pass takes it or not.
    """
    from dipc.calibration.file import Calibration

    Calibration.load(path)
    return [
        dataclasses.replace(p, calibration=path) if getattr(p, "calibration", path) is None else p  # type: ignore[call-arg]
        for p in passes
    ]


def pipeline_text(passes: Iterable[Pass]) -> str:
    """The inverse of `parse_pipeline`."""
    return ",".join(map(str, passes))


def resolve(passes: Iterable[Pass], program: Program | None = None) -> list[Pass]:
    """The passes with what they require put before them, unless it was given already or the program has it.

    Raises UsageError where passes require each other.
    """
    resolved: list[Pass] = []
    for item in passes:
        _append(item, resolved, program, ())
    return resolved


def _append(item: Pass, resolved: list[Pass], program: Program | None, above: tuple[str, ...]) -> None:
    """Append a pass, after what it requires; `above` are the passes that wait for this one."""
    if item.name in above:
        raise UsageError(f"pipeline: {' requires '.join([*above, item.name])}: no order of passes is right")
    for name in item.requires:
        if name in [p.name for p in resolved]:
            continue
        needed = make_pass(name, {})
        if program is None or not needed.done(program):
            _append(needed, resolved, program, (*above, item.name))
    resolved.append(item)


@dataclass(frozen=True)
class PassLog:
    """One line of the record: what ran, for how long, what it matched, and how the operator counts changed."""

    text: str
    seconds: float
    matches: tuple[str, ...]
    mismatches: tuple[Mismatch, ...]
    operators: dict[str, int]
    deviation: float | None = None


@dataclass(frozen=True)
class Compiled:
    """The result of a pipeline: the program, the one before it, and the log. `print(result)` shows the log."""

    program: Program
    before: Program
    pipeline: str
    log: tuple[PassLog, ...]

    def __str__(self) -> str:
        lines = [f"{self.before.info.name}: {self.pipeline}"]
        for entry in self.log:
            lines.append(
                f"  {entry.text}: {len(entry.matches)} rewritten, {len(entry.mismatches)} skipped, "
                f"{entry.seconds:.2f} s"
            )
            lines += [f"    skipped {m}" for m in entry.mismatches]
        return "\n".join(lines)


def run_pipeline(
    program: Program,
    passes: Iterable[Pass],
    *,
    allow_noop: bool = False,
    check_numerics: bool = False,
    watch: Callable[[int, Pass, Program], None] | None = None,
) -> Compiled:
    """Run passes in order, each followed by a check of the graph.

    Args:
        program: what to compile; it is not changed.
        passes: as parsed; what they require is inserted.
        allow_noop: accept a pass that matched nothing.
        check_numerics: also compare the logits of each pass's `exact()` form with its input's, on random tokens.
        watch: called with index, pass and program after each pass.

    Raises:
        UnsupportedModel: a pass matched nothing.
        VerificationFailed: a pass broke the graph or its stated tolerance.
    """
    before, current, log = program, program, []
    ordered = resolve(passes, program)
    for index, item in enumerate(ordered):
        start = time.perf_counter()
        result = item.run(current)
        if not result.modified and not allow_noop:
            raise UnsupportedModel(_nothing(item, current, result))
        try:
            verify_structure(result.program)
        except VerificationFailed as error:
            raise VerificationFailed(f"after {item.name}: {error}") from error
        deviation = _check_numerics(item, current) if check_numerics else None
        counts = operator_changes(current, result.program)
        seconds = time.perf_counter() - start
        log.append(PassLog(str(item), seconds, result.matches, result.mismatches, counts, deviation))
        current = result.program
        if watch is not None:
            watch(index, item, current)
    return Compiled(current, before, pipeline_text(ordered), tuple(log))


def _nothing(item: Pass, program: Program, result: PassResult) -> str:
    reasons = Counter(m.reason for m in result.mismatches)
    why = f": {reasons.most_common(1)[0][0]}" if reasons else ""
    return f"{item.name} found nothing to rewrite in {program.info.name} ({program.info.family}){why}"


def _check_numerics(item: Pass, before: Program) -> float | None:
    from dipc.pipeline.numeric_check import deviation

    if not before.info.has_weights:
        return None
    worst = deviation(before, item.exact().run(before).program)
    if not worst <= item.tolerance:
        raise VerificationFailed(
            f"{item.exact()} changes the logits by {worst:.2g} of the largest; it may by {item.tolerance:g}"
        )
    return worst


def operator_changes(before: Program, after: Program) -> dict[str, int]:
    """How many more (or fewer) calls of each operator there are afterwards."""
    counts = Counter(op_name(n.target) for n in after.graph.nodes if n.op == "call_function")
    counts.subtract(op_name(n.target) for n in before.graph.nodes if n.op == "call_function")
    return {name: n for name, n in sorted(counts.items()) if n}
