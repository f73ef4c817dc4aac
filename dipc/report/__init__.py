"""Results as people and programs read them: each kind of result as a JSON-able dict and as tables.

One file per kind. A dict holds every field that its figures depend on, and `"schema": 1`; the tables are for a terminal
of 80 columns and for a pipe.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dipc.report.calibration import calibration_dict
    from dipc.report.compiled import compiled_dict
    from dipc.report.estimate import estimate_dict
    from dipc.report.finetuned import finetuned_dict
    from dipc.report.score import score_dict
    from dipc.report.tasks import tasks_dict

__all__ = ["calibration_dict", "compiled_dict", "estimate_dict", "finetuned_dict", "score_dict", "tasks_dict"]


def __getattr__(name: str) -> Any:
    """The conversions, imported when first asked for: the tables need rich, and a conversion does not."""
    if name not in __all__:
        raise AttributeError(f"module 'dipc.report' has no attribute {name!r}")
    return getattr(importlib.import_module(f"dipc.report.{name.removesuffix('_dict')}"), name)
