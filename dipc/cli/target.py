"""The target that the user points at: an artifact, or a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dipc.cli.terminal import working

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dipc.ir.program import Program
    from dipc.pipeline.runner import PassLog


@dataclass(frozen=True)
class Opened:
    """A program with the log of its passes; `dumps` only where it came from an artifact."""

    program: Program
    log: tuple[PassLog, ...]
    dumps: Mapping[str, str] | None


def open_target(target: str, **capture_options: Any) -> Opened:
    """Load an artifact, or capture a model and outline its MLPs."""
    with working(f"opening {target}"):
        from dipc import api
        from dipc.artifact import writer as artifact

        if artifact.is_artifact(Path(target)):
            found = artifact.load(Path(target))
            return Opened(found.program, found.log, found.dumps)
        compiled = api.compile(target, "outline-glu", allow_noop=True, **capture_options)
        return Opened(compiled.program, compiled.log, None)
