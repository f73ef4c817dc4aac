"""Plug-ins in a candidate's process: those that are installed, and the files of the command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dipc.registry import load_installed_plugins, load_plugin


def load_plugins(files: Sequence[str]) -> None:
    """Load what is installed, and then files."""
    load_installed_plugins()
    load_files(files)


def load_files(files: Sequence[str]) -> None:
    """Load files alone."""
    for file in files:
        load_plugin(Path(file))
