"""Run passes in order, put what they require before them, and check the graph after each."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dipc.calibration.file import Calibration
from dipc.errors import UnsupportedModel, UsageError, VerificationFailed
from dipc.ir.pattern import Mismatch
from dipc.ir.printer import op_name
from dipc.ir.program import Program
from dipc.ir.verify import verify_structure
from dipc.pipeline.numeric_check import deviation
from dipc.pipeline.pass_ import Pass, PassResult
from dipc.pipeline.text import make_pass, pipeline_text


def with_calibration(passes: Iterable[Pass], path: str) -> list[Pass]:
    """The passes with `calibration=path` wherever one takes a calibration and was given none.

    Raises BadFile if there is no calibration to read, whether a pass takes it or not.
    """
    Calibration.load(path)
    return [
        dataclasses.replace(p, calibration=path) if getattr(p, "calibration", path) is None else p  # type: ignore[call-arg]
        for p in passes
    ]


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
