"""A calibration that is under way: what its finished steps gave, each in a file of a folder beside the result."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dipc.errors import UsageError
from dipc.files import writing
from dipc.tensor_file import TensorFormat

About = Mapping[str, str | int | float]
_FORMAT = TensorFormat("calibration-step", 1, "remove it", "remove it, and the step is made again", framework="pt")


@dataclass(frozen=True)
class FinishedSteps:
    """The finished steps of a calibration, written whole or not at all.

    Attributes:
        folder: that keeps them; None keeps nothing.
        about: all that they depend on, by the name that messages give it.
    """

    folder: Path | None
    about: About

    def read(self, step: str) -> dict[str, Tensor]:
        """Return what a step gave so far; nothing where it was not begun.

        Raises:
            UsageError: what is kept depends on something else.
            BadFile: its file is damaged.
        """
        file = self._file(step)
        if file is None or not file.exists():
            return {}
        tensors, (held,) = _FORMAT.read(file, "about")
        for name, value in self.about.items():
            if held.get(name) != value:
                raise UsageError(
                    f"{self.folder}: a calibration with {name} {held.get(name)} and not {value} is unfinished; finish "
                    "that or remove the folder"
                )
        return dict(tensors)

    def keep(self, step: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep what a step gave so far. UsageError where nothing can be written."""
        file = self._file(step)
        if file is None:
            return
        with writing(file.parent):
            file.parent.mkdir(exist_ok=True)
        try:
            whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            _FORMAT.write(file, whole, {"about": dict(self.about)})
        finally:
            with contextlib.suppress(OSError):
                file.parent.rmdir()  # only an empty one can be removed, which is of no use

    def _file(self, step: str) -> Path | None:
        return None if self.folder is None else self.folder / f"{re.sub(r'[^a-z0-9.]+', '-', step)}.safetensors"


NOTHING_KEPT = FinishedSteps(None, {})


def folder_beside(out: Path) -> Path | None:
    """Return the folder of a calibration whose result will be the file `out`; None where that is no ordinary file."""
    return None if out.exists() and not out.is_file() else out.with_name(f"{out.name}.unfinished")


def remove_steps(folder: Path | None) -> None:
    """Remove the steps of a calibration that is finished, or is to begin anew."""
    if folder is not None and folder.is_dir():
        with writing(folder):
            shutil.rmtree(folder)
