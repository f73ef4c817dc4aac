"""The command line: one file per command that parses, calls the library and prints. `main` runs it.

Nothing here imports torch, transformers or numpy before a command needs it, so that `dipc --help` is quick.
"""

from __future__ import annotations

from dipc.cli.app import app
from dipc.cli.errors import main

__all__ = ["app", "main"]
