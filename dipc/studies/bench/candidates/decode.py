"""Decoding: a model runs one token after the other, by a backend: its export, or its program.

Nothing of frontend and passes is imported here: the process that is timed holds what runs the model, and no more.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dipc.backends import BACKENDS, Kernels, RunOptions, get_backend
from dipc.studies.bench.candidates.case import Case, Cases
from dipc.studies.bench.candidates.plugins import load_plugins
from dipc.studies.bench.options import DecodeOptions

if TYPE_CHECKING:
    from dipc.backends._session import Session

CASE = "token"
TOKENS = 64
"""Different tokens that are fed in turn."""


@dataclass(frozen=True)
class ModelFacts:
    """The facts of a model that was made, in a file beside it.

    Attributes:
        parameters: weights of the model that it was made from.
        layers: their number.
        context: most tokens of a sequence.
        vocab: different tokens.
        pipeline: all passes.
        bytes_per_token: weights that a token reads, by the program.
        file_bytes: of all files of the export, or of the program.
    """

    parameters: int
    layers: int
    context: int
    vocab: int
    pipeline: str
    bytes_per_token: float
    file_bytes: int

    @staticmethod
    def file(folder: Path) -> Path:
        """Return where they are in a model's folder."""
        return folder / "bench.json"

    @classmethod
    def read(cls, folder: Path) -> ModelFacts:
        """Read them from a model's folder."""
        return cls(**json.loads(cls.file(folder).read_text(encoding="utf-8")))

    def write(self, folder: Path) -> None:
        """Write them to a model's folder."""
        self.file(folder).write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")


def export_folder(folder: Path, backend: str) -> Path:
    """Return where a backend's export is in a model's folder."""
    return folder / backend


def program_folder(folder: Path) -> Path:
    """Return where the program is in a model's folder, for a backend that opens no export."""
    return folder / "program"


def decode(
    *,
    folder: str,
    prompt: int,
    seed: int,
    threads: int,
    kernels: bool,
    backend: str = DecodeOptions.backend,
    plugins: Sequence[str] = (),
) -> Cases:
    """Set up one token after the other, after a prompt; `kernels` are demanded or left out, where that can be said."""
    made, context = Path(folder), ExitStack()
    if backend not in BACKENDS.names() or program_folder(made).exists():
        load_plugins(plugins)
    demanded: Kernels = kernels if "kernels" in BACKENDS.get(backend).flags else "auto"
    facts, runner = ModelFacts.read(made), RunOptions(backend, kernels=demanded, threads=threads)
    session = _open(made, runner, facts.context - prompt, context)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(facts.vocab, (prompt + TOKENS,), generator=generator)
    logits = session.step(ids[:prompt]).logits[-1]
    if not math.isfinite(float(logits.abs().max())):
        raise ValueError("the logits are not finite")
    tokens = [ids[prompt + i : prompt + i + 1] for i in range(TOKENS)]

    def call(number: int) -> None:
        session.step(tokens[number % TOKENS])

    return {CASE: Case(call, 1, facts.bytes_per_token, context)}


def _open(folder: Path, runner: RunOptions, new_tokens: int, context: ExitStack) -> Session:
    """Return a session of the backend's own export, or of the program in the form for writing so many tokens."""
    backend = get_backend(runner.backend, "run")
    exported = export_folder(folder, backend.name)
    if backend.recognises(exported):
        return backend.open_export(exported, runner)
    from dipc.artifact.reader import load

    program = backend.prepare(load(program_folder(folder)).program, runner, new_tokens=new_tokens)
    return context.enter_context(backend.open(program, runner))
