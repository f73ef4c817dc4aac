"""The name and the words of a registered thing, for the tests that run over the registries."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from dipc.registry import registry_name


def file_name(thing: Any) -> str:
    """The registry name that the file in which a thing is defined asks for."""
    return registry_name(Path(inspect.getfile(thing)).stem)


def summary(thing: Any) -> str:
    """The first line of a docstring that the thing has of its own."""
    return inspect.cleandoc(vars(thing).get("__doc__") or "").partition("\n")[0]
