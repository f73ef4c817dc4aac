"""The models of the contest of decoding: made in processes of their own, kept or thrown away."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from dipc.studies.bench.candidate import Candidate, CandidateLost
from dipc.studies.bench.candidates.decode import ModelFacts, decode
from dipc.studies.bench.candidates.export_model import export_random_model
from dipc.studies.bench.candidates.pipelines import decode_pipeline
from dipc.studies.bench.contest import Failure, Progress, Rules, untimed_answers
from dipc.studies.bench.options import DENSE, DecodeOptions


@dataclass
class ExportedModels:
    """The models of one config in one format, each built when first asked for.

    Attributes:
        config: the config.json of their shape.
        format: "float32", or passes that quantise, as pipeline text.
        seed: of weights and tokens.
        plugins: files whose passes may be used.
        root: the folder that holds a folder of each.
        rules: of the contest.
        progress: told when one is built.
        backend: what runs them, and exports them where it can open such an export.
        facts: of the models that were built, by the method or "dense".
        failures: of those that were not.
    """

    config: Path
    format: str
    seed: int
    plugins: tuple[Path, ...]
    root: Path
    rules: Rules
    progress: Progress = lambda done, total: None
    backend: str = DecodeOptions.backend
    facts: dict[str, ModelFacts] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)

    def folder(self, passes: str) -> Path:
        """Return a model's folder; its name says what the model is made of, files by a digest of their contents."""
        files = (self.config, *self.plugins)
        digest = hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()
        pipeline = decode_pipeline(passes, self.format, self.backend)
        key = f"{self.config.stem}-{digest[:8]}-{pipeline}-{self.seed}"
        key += "" if self.backend == DecodeOptions.backend else f"-{self.backend}"
        return self.root / "".join(c if c.isalnum() or c in ".-=" else "_" for c in key)

    def have(self, passes: str) -> bool:
        """Build a model unless it is there; return False where that failed."""
        if passes in self.facts or passes in self.failures:
            return passes in self.facts
        folder = self.folder(passes)
        self.progress(0, 1)
        if not ModelFacts.file(folder).is_file():
            shutil.rmtree(folder, ignore_errors=True)
            try:
                untimed_answers(self._builder(passes, folder), self.rules)
            except CandidateLost as lost:
                self.failures[passes] = Failure(passes, "build", str(lost), lost.absent)
                return False
        self.facts[passes] = ModelFacts.read(folder)
        return True

    def candidate(self, passes: str, prompt: int) -> Candidate:
        """Return the candidate that runs a model after a prompt of so many tokens; dense without dipc's kernels."""
        return Candidate.calling(
            passes,
            decode,
            folder=str(self.folder(passes)),
            prompt=prompt,
            seed=self.seed,
            threads=self.rules.threads,
            kernels=passes != DENSE,
            backend=self.backend,
            plugins=self._plugin_files,
        )

    def remove(self) -> None:
        """Take the models off the disk."""
        for passes in self.facts:
            shutil.rmtree(self.folder(passes), ignore_errors=True)

    def _builder(self, passes: str, folder: Path) -> Candidate:
        return Candidate.calling(
            passes,
            export_random_model,
            config=str(self.config.resolve()),
            passes=passes,
            format=self.format,
            seed=self.seed,
            folder=str(folder),
            plugins=self._plugin_files,
            backend=self.backend,
        )

    @property
    def _plugin_files(self) -> list[str]:
        return [str(file.resolve()) for file in self.plugins]
