"""Preparation of rows, made once and kept in the folder: a calibration, and an adapter for each trained row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dipc.documents import JsonObject
from dipc.ir.program import Program
from dipc.options import TextSpec
from dipc.pipeline.pass_ import Pass
from dipc.studies.engine.folder import Folder
from dipc.text import Text
from dipc.tuning.lora.finetune import finetune
from dipc.tuning.measure import calibrate
from dipc.tuning.options import TrainingOptions
from dipc.tuning.unfinished import folder_beside, remove_steps

CALIBRATION = "calibration.safetensors"


@dataclass(frozen=True)
class AdapterTraining:
    """How adapters are trained (section 6.1: rank 32, 1,000 iterations).

    Attributes:
        text: what on.
        rank: of the adapters.
        iterations: of each.
        seed: of the order of windows and the first matrices.
    """

    text: Text
    rank: int
    iterations: int
    seed: int

    def depends_on(self) -> JsonObject:
        """For the names of what comes of it."""
        return {"text": self.text.digest, "rank": self.rank, "iterations": self.iterations, "seed": self.seed}


def calibration(
    folder: Folder,
    program: Program,
    text: Text,
    seed: int,
    progress: Callable[[str], None],
    extent: TextSpec,
) -> Path:
    """Return the folder's calibration, made now if there is none.

    Raises:
        UsageError: the folder's own was made otherwise, or the text is too short.
    """
    made_from = {"calibration text": text.name, "calibration text digest": text.digest}
    folder.agree(
        "calibration.json", {**made_from, "calibration tokens at most": extent.max_tokens, "calibration seed": seed}
    )
    path = folder.path / CALIBRATION
    if not path.exists():

        def say(what: str, done: int, total: int) -> None:
            progress(f"calibrating, {what} {done / max(1, total):.0%}")

        unfinished = folder_beside(path)
        calibrate(program, text, windows=extent, seed=seed, unfinished=unfinished, progress=say).save(path)
        remove_steps(unfinished)
    return path


def adapter(
    folder: Folder,
    name: str,
    program: Program,
    passes: Sequence[Pass],
    training: AdapterTraining,
    progress: Callable[[int, int], None],
) -> Path:
    """Return the adapter of a row, trained now if it was not; a training that was cut off goes on where it stopped."""
    (folder.path / "adapters").mkdir(exist_ok=True)
    path = folder.path / "adapters" / name
    if not path.exists():  # the name says what it was made from
        options = TrainingOptions(rank=training.rank, iterations=training.iterations, seed=training.seed)
        finetune(program, passes, training.text, path, training=options, progress=progress)
    return path
