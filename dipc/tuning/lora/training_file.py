"""A training that is under way, in one file beside its result: everything that changes, and what it was begun with.

The file is safetensors, so that nothing is unpickled when a training goes on, and replaced whole.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dipc.errors import BadFile, UsageError
from dipc.files import write_whole
from dipc.input_file import check_input, memory_bytes

FORMAT = "dipc.training.1"


@dataclass(frozen=True)
class Recipe:
    """All that a trained adapter depends on; `passes` is the pipeline with the content of the files that it names."""

    model: str
    digest: str
    pipeline: str
    passes: str
    text: str
    text_digest: str
    rank: int
    iterations: int
    batch: int
    seq_len: int
    learning_rate: float
    seed: int

    def differs(self, other: Recipe) -> str:
        """The first difference to another, as text; empty where there is none. Names and paths alone make none."""
        if self.passes != other.passes:
            if self.pipeline == other.pipeline:
                return f"other files behind {self.pipeline}"
            return f"pipeline {other.pipeline} and not {self.pipeline}"
        for field in dataclasses.fields(self):
            mine, its = getattr(self, field.name), getattr(other, field.name)
            if mine != its and field.name not in ("model", "text", "pipeline"):
                return f"{field.name.replace('_', ' ')} {its} and not {mine}"
        return ""


@dataclass(frozen=True)
class TrainingFile:
    """The file of an unfinished training."""

    path: Path

    @classmethod
    def beside(cls, out: Path) -> TrainingFile:
        """The one of the training whose result will be the folder `out`."""
        return cls(out.parent / f"{out.name}.unfinished.safetensors")

    def load(self, recipe: Recipe) -> tuple[dict[str, Tensor], float] | None:
        """Its tensors and the seconds that it took so far; None where there is no such file.

        Raises:
            UsageError: it was begun with something else.
            BadFile: it is damaged.
        """
        try:
            check_input(self.path, memory_bytes())
        except FileNotFoundError:
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                said: dict[str, str] = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if said.get("format") != FORMAT:
                raise ValueError("its format is unknown")
            begun = Recipe(**json.loads(said["recipe"]))
            seconds = float(said["seconds"])
        except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
            raise BadFile(f"{self.path}: is no unfinished training that can go on ({error}); remove it") from None
        if difference := recipe.differs(begun):
            raise UsageError(f"{self.path}: a training with {difference} is unfinished; finish that or remove the file")
        return tensors, seconds

    def save(self, recipe: Recipe, tensors: dict[str, Tensor], seconds: float) -> None:
        """Replace the file. UsageError if that cannot be done."""
        said = {"format": FORMAT, "recipe": json.dumps(dataclasses.asdict(recipe)), "seconds": repr(seconds)}
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        write_whole(self.path, lambda part: save_file(whole, part, metadata=said))

    def remove(self) -> None:
        """Delete the file, if there is one."""
        self.path.unlink(missing_ok=True)
