"""Choose what runs a target, for the commands that run one: by which backend, and how."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dipc.errors import UsageError
from dipc.options import Flag

if TYPE_CHECKING:
    from dipc.backends import RunOptions
    from dipc.backends._session import Session
    from dipc.ir.program import Program


def open_running(target: str, runner: RunOptions, capture: dict[str, Any]) -> tuple[Program | Session, RunOptions]:
    """Return a target as a program, or an exported model by itself as a session; and how to run it.

    Raises:
        UsageError: an exported model for another backend than its own, or a flag that says nothing to the backend.
    """
    from dipc.artifact.reader import is_artifact
    from dipc.backends import exporter_of, get_backend
    from dipc.cli.target import open_target
    from dipc.registry import load_installed_plugins

    load_installed_plugins()
    path, backend = Path(target), get_backend(runner.backend, "run")
    exporter = None if is_artifact(path) else exporter_of(path)
    if exporter is not None and exporter.name != backend.name:
        raise UsageError(f"{target}: this is an exported model; run it with --backend {exporter.name}")
    _check_flags(runner, backend.flags)
    if exporter is not None:
        return backend.open_export(path, runner), runner
    program = open_target(target, **capture).program
    beside = path / backend.name
    if "exported" in backend.flags and backend.recognises(beside):
        runner = dataclasses.replace(runner, exported=beside)
    return program, runner


def _check_flags(runner: RunOptions, known: frozenset[str]) -> None:
    """UsageError for a flag that was given and says nothing to the backend."""
    from dipc.backends import BACKENDS

    usual = {"device": "auto"}
    for field in dataclasses.fields(runner):
        value = getattr(runner, field.name)
        if field.name in ("backend", *known) or value in (field.default, usual.get(field.name, field.default)):
            continue
        takers = [n for n in BACKENDS.names() if field.name in BACKENDS.get(n).flags]
        raise UsageError(f"{_flag_name(runner, field.name)}: this is for --backend {' or '.join(takers)}")


def _flag_name(runner: RunOptions, field: str) -> str:
    from typing import get_args, get_type_hints

    extras = get_args(get_type_hints(type(runner), include_extras=True)[field])
    given = next((extra.name for extra in extras if isinstance(extra, Flag)), None)
    return given or f"--{field.replace('_', '-')}"
