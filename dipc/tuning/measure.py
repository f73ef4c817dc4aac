"""`calibrate`: measure a dense model on text, once, for all that the methods need to know of it.

The text is read in windows, one at a time; of each only sums and counts are kept, so of the text nothing but its tokens
is held as a whole.

Shape legend: N windows of T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from dipc.calibration.file import PARTS, Calibration
from dipc.errors import UnknownName, UsageError
from dipc.files import code_digest
from dipc.ir.identity import Identity
from dipc.ir.program import Program
from dipc.options import TextSpec
from dipc.pipeline.runner import run_pipeline
from dipc.pipeline.text import make_pass
from dipc.text import Text, sample_text
from dipc.text import windows as windows_of
from dipc.tuning.activity import Activity, Watcher
from dipc.tuning.jacobian import SensitivityStudy
from dipc.tuning.magnitudes import MagnitudeStudy
from dipc.tuning.options import PartOptions
from dipc.tuning.predictors import train_predictors
from dipc.tuning.search import search
from dipc.tuning.sweep import Sweep
from dipc.tuning.unfinished import FinishedSteps
from dipc.version import __version__

MAX_TOKENS = 131_072
"""Of the text, unless told otherwise: so the memory that its tokens take does not grow with it."""
SAMPLE_WINDOWS = 64
SAMPLE_TOKENS = 512

Progress = Callable[[str, int, int], None]


def calibrate(
    program: Program,
    text: Text | str | None = None,
    *,
    parts: Sequence[str] = PARTS,
    windows: TextSpec = TextSpec(max_tokens=MAX_TOKENS),
    options: PartOptions = PartOptions(),
    seed: int = 0,
    unfinished: Path | None = None,
    progress: Progress | None = None,
) -> Calibration:
    """Measure a model on text.

    Args:
        program: with weights and a tokenizer. What is measured is its dense form (`Program.reference`).
        text: what to measure on; by default the sample that comes with dipc, which is small.
        parts: what to measure, of `dipc.calibration.file.PARTS`.
        windows: how much of the text, in which windows; a last window that is not full is left out.
        options: of predictors and density allocation.
        seed: of the probes, the predictors and the sample of windows.
        unfinished: a folder for finished steps (`dipc.tuning.unfinished`), from which a calibration that was ended goes
            on. Who keeps the result removes it.
        progress: called with what is going on, how much of it is done and how much there is.

    Raises:
        UsageError: no weights, no tokenizer, an unknown part, a text shorter than a window, or an unfinished
            calibration of something else.
        UnsupportedModel: the model has no gated MLP.
    """
    for part in parts:
        if part not in PARTS:
            raise UnknownName("part of a calibration", part, PARTS)
    if seed < 0:
        raise UsageError(f"seed is {seed}; it must be at least 0")
    dense = dense_form(program)
    text = sample_text() if text is None else Text("text", text) if isinstance(text, str) else text
    model = Identity.of(dense, "eager")
    seq_len = model.usual_context if windows.seq_len is None else windows.seq_len
    rows = full_windows(model, text, seq_len, windows.max_tokens)
    sample = _sample(rows, seed)
    meta: dict[str, str | int | float] = {
        "model": model.name,
        "digest": model.digest,
        "text": text.name,
        "text_digest": text.digest,
        "tokens": len(rows) * seq_len,
        "seq_len": seq_len,
        "seed": seed,
        "dipc": __version__,
    }
    steps = FinishedSteps(unfinished, {**meta, **_depends_on(dense)})
    tensors = {"windows": sample, **_study(dense, rows, parts, seed, progress, steps)}
    if "predictors" in parts:
        made = {"hidden": options.hidden, "epochs": options.epochs}
        own = FinishedSteps(unfinished, {**steps.about, **made})
        tensors |= _step(own, "predictors", lambda: train_predictors(dense, rows, **made, seed=seed, progress=progress))
    if "allocation" in parts:
        tensors |= _allocation(dense, sample, options.allocation_tokens, progress, steps)
    return Calibration(meta, tensors)


def _depends_on(dense: Program) -> dict[str, str]:
    """Return what finished steps depend on besides the text: the code, and what computes."""
    weight = next(iter(dense.weights.values()))
    code = [code_digest(kind) for kind in (search, Sweep, Watcher, MagnitudeStudy, SensitivityStudy, train_predictors)]
    return {"code": "-".join(code), "dtype": str(weight.dtype), "torch": torch.__version__}


def _step(steps: FinishedSteps, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the tensors of a step, made now if it was not finished."""
    held = steps.read(name)
    if not held:
        held = make()
        steps.keep(name, held)
    return held


def dense_form(program: Program) -> Program:
    """The program before any method, with `glu` nodes."""
    dense = program.reference
    if not dense.info.has_weights:
        raise UsageError(f"{dense.info.name} was captured from a config alone: it has no weights to calibrate")
    return dense if dense.mlps else run_pipeline(dense, [make_pass("outline-glu", {})]).program


def full_windows(model: Identity, text: Text, seq_len: int, max_tokens: int | None) -> list[Tensor]:
    """Token ids [T] of every window of a text that is full; UsageError where none is."""
    found = [window.ids for window in windows_of(model, text, seq_len, max_tokens, 0)]
    full = [ids for ids in found if len(ids) == seq_len]
    if not full:
        raise UsageError(
            f"{text.name}: its {len(found[0])} tokens are less than a window of {seq_len}; give more text or a "
            "smaller seq_len"
        )
    return full


def _sample(rows: Sequence[Tensor], seed: int) -> Tensor:
    """i64[N, T]: one window from each of up to 64 stretches of equal length, its first 512 tokens."""
    count = min(SAMPLE_WINDOWS, len(rows))
    within = torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    chosen = ((torch.arange(count) + within) * len(rows) / count).long()
    return torch.stack([rows[i][:SAMPLE_TOKENS] for i in chosen.tolist()])


def _study(
    dense: Program,
    rows: Sequence[Tensor],
    parts: Sequence[str],
    seed: int,
    progress: Progress | None,
    steps: FinishedSteps,
) -> dict[str, Tensor]:
    """The parts that one pass over the text gives."""
    studies: dict[str, MagnitudeStudy | SensitivityStudy] = {}
    if "thresholds" in parts:
        studies["thresholds"] = MagnitudeStudy()
    if "sensitivity" in parts:
        studies["sensitivity"] = SensitivityStudy(seed)
    held = {part: steps.read(part) for part in studies}
    missing = [studies[part] for part in studies if not held[part]]

    def see(activity: Activity) -> None:
        for study in missing:
            study.see(activity)

    if missing:
        watcher = Watcher(dense, see)
        for done, ids in enumerate(rows, 1):
            watcher.read(ids)
            if progress is not None:
                progress("activations", done, len(rows))
    for part, study in studies.items():
        if not held[part]:
            held[part] = study.tensors()
            steps.keep(part, held[part])
    return {name: tensor for found in held.values() for name, tensor in found.items()}


def _allocation(
    dense: Program, sample: Tensor, tokens: int, progress: Progress | None, steps: FinishedSteps
) -> dict[str, Tensor]:
    def report(done: int, total: int) -> None:
        if progress is not None:
            progress("density allocation", done, total)

    return search(dense, sample, tokens=tokens, progress=report, steps=steps).to_tensors()
