"""Recovery: low-rank adapters that win back what a method loses (sections 4 and 6.1 of the paper).

They are trained with every token sparse, so that the next tokens' distributions come near the dense model's. The result
is a LoRA checkpoint of PEFT for the original model, which the pass `fuse-lora` folds into the weights before the method
runs, so that the compiled model has no adapter (Eq. 9).
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from dipc.documents import document
from dipc.errors import BadFile, UsageError
from dipc.files import check_output, whole_folder
from dipc.frontend.hugging_face import capture
from dipc.ir.identity import Identity
from dipc.ir.program import Program
from dipc.pipeline.fingerprint import passes_digest
from dipc.pipeline.pass_ import Pass
from dipc.pipeline.runner import run_pipeline, with_calibration
from dipc.pipeline.text import make_pass, parse_pipeline, pipeline_text
from dipc.text import Text, windows
from dipc.tuning.lora.adapter import RECORD, peft_module
from dipc.tuning.lora.adapter_file import read_record
from dipc.tuning.lora.distillation import Course, Quality, Training, compare
from dipc.tuning.lora.trainable import Trainable
from dipc.tuning.lora.trained_adapters import TrainedAdapters
from dipc.tuning.lora.training_file import Recipe, TrainingFile
from dipc.tuning.options import TrainingOptions

HELD_OUT = 0.1
"""Share of the windows, from the end of the text, that is not trained on."""
MOST_HELD_OUT = 32


@dataclass(frozen=True)
class Finetuned:
    """A trained adapter.

    Attributes:
        folder: where it is.
        recipe: all that it depends on.
        density: of the MLPs, as the method was compiled.
        modules: paths of the layers that have an adapter.
        parameters: trained, in all.
        windows: trained on.
        held_out: windows that were not, on which the qualities were measured.
        losses: KL(dense || sparse) of each iteration, in nats per token.
        dense: the dense model's quality.
        before: the sparse model's without the adapter.
        after: and with it.
        seconds: that the training took, interruptions left out.
    """

    folder: str
    recipe: Recipe
    density: float
    modules: tuple[str, ...]
    parameters: int
    windows: int
    held_out: int
    losses: tuple[float, ...]
    dense: Quality
    before: Quality
    after: Quality
    seconds: float

    @property
    def passes(self) -> str:
        """The passes to compile with: the adapter folded, then the pipeline that it was trained for."""
        fold = make_pass("fuse-lora", {"adapter": self.folder})
        return f"{fold},{self.recipe.pipeline}"


def finetune(
    model: Program | str | Path | nn.Module,
    passes: str | Sequence[Pass],
    text: Text | str,
    out: str | Path,
    *,
    training: TrainingOptions = TrainingOptions(),
    calibration: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    watch: Callable[[float], None] | None = None,
    **capture_options: Any,
) -> Finetuned:
    """Train adapters for a method and write them as a PEFT checkpoint.

    The same arguments give the same adapters, bit for bit on the same machine, whether or not the training was cut off
    and called again.

    Args:
        model: a Program, or what `capture` takes.
        passes: the method, as pipeline text or passes; nothing that rounds weights or prunes them for good.
        text: what to train on; its end is held out.
        out: the new folder.
        training: how.
        calibration: a file by `dipc calibrate` for every pass that takes one and was given none.
        progress: called with iterations done and in all.
        watch: called with the loss of each iteration.
        **capture_options: for `capture`.

    Raises:
        UsageError: options out of range, a text of a single window, no method, rounded weights, no weights, or a folder
            that exists or was begun otherwise.
        MissingDependency: no peft.
    """
    peft_module()
    out, text = Path(out), Text("text", text) if isinstance(text, str) else text
    ordered = parse_pipeline(passes) if isinstance(passes, str) else list(passes)
    ordered = ordered if calibration is None else with_calibration(ordered, str(calibration))
    finished = training.resume and (out / RECORD).is_file()
    if not finished:
        check_output(out)
    program = model if isinstance(model, Program) else capture(model, **capture_options)
    recipe = _recipe(program, ordered, text, training)
    if finished:
        return _finished(out, recipe)
    sparse = run_pipeline(program, ordered).program
    if not program.info.has_weights:
        raise UsageError(
            f"{program.info.name} was captured from a config alone: it has no weights to train adapters for"
        )
    adapters = TrainedAdapters(sparse, recipe.rank, recipe.seed)
    rows = [w.ids for w in windows(Identity.of(sparse, "eager"), text, recipe.seq_len, None, 0)]
    trained, held_out = _split(rows, text)
    course = Course(recipe.iterations, recipe.batch, recipe.learning_rate, recipe.seed)
    state = Training(sparse.reference, Trainable(sparse, adapters.adapted), adapters.parameters, trained, course)
    seconds = _train(state, TrainingFile.beside(out), recipe, training, progress, watch)
    result = _measured(out, recipe, state, sparse, adapters, held_out, seconds)
    _write(result, adapters, out)
    TrainingFile.beside(out).remove()
    return result


def _recipe(program: Program, passes: Sequence[Pass], text: Text, training: TrainingOptions) -> Recipe:
    """Return all that the adapter depends on."""
    return Recipe(
        model=program.info.name,
        digest=program.info.digest,
        pipeline=pipeline_text(passes),
        passes=passes_digest(passes),
        text=text.name,
        text_digest=text.digest,
        rank=training.rank,
        iterations=training.iterations,
        batch=training.batch,
        seq_len=min(program.info.context, 256) if training.seq_len is None else training.seq_len,
        learning_rate=training.learning_rate,
        seed=training.seed,
    )


def _split(rows: list[Tensor], text: Text) -> tuple[list[Tensor], list[Tensor]]:
    """Windows to train on, and those at the end that are held out."""
    count = min(MOST_HELD_OUT, max(1, int(HELD_OUT * len(rows))))
    if len(rows) < 2:
        raise UsageError(f"{text.name}: one window is all of it, and one has to be held out; give more text")
    return rows[:-count], rows[-count:]


def _train(
    training: Training,
    file: TrainingFile,
    recipe: Recipe,
    options: TrainingOptions,
    progress: Callable[[int, int], None] | None,
    watch: Callable[[float], None] | None,
) -> float:
    """Train to the end, from where the file says; the seconds that it took."""
    if not options.resume:
        file.remove()
    held = file.load(recipe)
    if held is not None:
        training.restore(held[0])
    before = 0.0 if held is None else held[1]
    start = saved = time.perf_counter()
    while len(training.losses) < recipe.iterations:
        loss = training.step()
        now = time.perf_counter()
        if now - saved >= options.save_every_s:
            file.save(recipe, training.tensors(), before + now - start)
            saved = now
        if watch is not None:
            watch(loss)
        if progress is not None:
            progress(len(training.losses), recipe.iterations)
    return before + time.perf_counter() - start


def _measured(
    out: Path,
    recipe: Recipe,
    state: Training,
    sparse: Program,
    adapters: TrainedAdapters,
    held_out: Sequence[Tensor],
    seconds: float,
) -> Finetuned:
    """Return what came of a training, with the qualities on the windows that were held out."""
    dense, before, after = compare(sparse.reference, [Trainable(sparse, {}), state.sparse], held_out)
    return Finetuned(
        folder=str(out),
        recipe=recipe,
        density=sparse.method.density,
        modules=adapters.modules,
        parameters=sum(p.numel() for p in adapters.parameters.values()),
        windows=len(state.windows),
        held_out=len(held_out),
        losses=tuple(state.losses),
        dense=dense,
        before=before,
        after=after,
        seconds=seconds,
    )


def _write(result: Finetuned, adapters: TrainedAdapters, out: Path) -> None:
    """The folder, whole or not at all."""
    with whole_folder(out) as staging:
        adapters.save(staging, result.recipe.model)
        fields = {f.name: getattr(result, f.name) for f in dataclasses.fields(result) if f.name != "folder"}
        record = json.dumps(document("adapter", **fields), indent=1, allow_nan=False)
        (staging / RECORD).write_text(record, "utf-8")


def _finished(out: Path, recipe: Recipe) -> Finetuned:
    """The result that a folder holds. UsageError if it was made from something else."""
    record = read_record(out)
    fields = {f.name: record.get(f.name) for f in dataclasses.fields(Finetuned)}
    try:
        found = TypeAdapter(Finetuned).validate_python({**fields, "folder": str(out)})
    except ValidationError as error:
        raise BadFile(f"{out / RECORD}: {error.errors()[0]['msg']}") from None
    if difference := recipe.differs(found.recipe):
        raise UsageError(f"{out} holds an adapter with {difference}; choose another folder or remove it")
    return found
