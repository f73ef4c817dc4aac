"""Decoding: an exported model runs one token after the other, in ONNX Runtime.

Nothing of frontend and passes is imported here: the process that is timed holds what runs the model, and no more.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch

from dipc.backends.onnx.session import OnnxSession, RuntimeOptions
from dipc.studies.bench.candidates.case import Case, Cases

CASE = "token"
TOKENS = 64
"""Different tokens that are fed in turn."""


@dataclass(frozen=True)
class ModelFacts:
    """The facts of an exported model, in a file beside it.

    Attributes:
        parameters: weights of the model that it was made from.
        layers: their number.
        context: most tokens of a sequence.
        vocab: different tokens.
        pipeline: all passes.
        bytes_per_token: weights that a token reads, by the program.
        file_bytes: of all files of the export.
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


def onnx_folder(folder: Path) -> Path:
    """Return where the export is in a model's folder."""
    return folder / "onnx"


def decode(*, folder: str, prompt: int, seed: int, threads: int, kernels: bool) -> Cases:
    """Set up one token after the other, after a prompt, with ONNX Runtime."""
    facts = ModelFacts.read(Path(folder))
    session = OnnxSession(onnx_folder(Path(folder)), options=RuntimeOptions(kernels=kernels, threads=threads))
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(facts.vocab, (prompt + TOKENS,), generator=generator)
    logits = session.step(ids[:prompt]).logits[-1]
    if not math.isfinite(float(logits.abs().max())):
        raise ValueError("the logits are not finite")
    tokens = [ids[prompt + i : prompt + i + 1] for i in range(TOKENS)]

    def call(number: int) -> None:
        session.step(tokens[number % TOKENS])

    return {CASE: Case(call, 1, facts.bytes_per_token)}
