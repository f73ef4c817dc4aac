"""dipc compiles language models for devices whose memory is smaller than the model."""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any

from dipc.version import __version__

if TYPE_CHECKING:
    from dipc.api import (
        ActivityModel,
        Calibration,
        Comparison,
        Compiled,
        Estimate,
        Finetuned,
        FlashReadOptions,
        Generation,
        OwnScore,
        Plan,
        Program,
        Score,
        Study,
        TaskScores,
        Text,
        Trace,
        calibrate,
        capture,
        compare,
        compile,
        estimate,
        evaluate,
        export,
        finetune,
        fit_activity,
        generate,
        load,
        perplexity,
        plan,
        run_study,
        run_tasks,
        save,
        synthetic_trace,
        to_dict,
        to_markdown,
        write_report,
    )
    from dipc.native.onnx_library import onnx_library_path

__all__ = [
    "ActivityModel",
    "Calibration",
    "Comparison",
    "Compiled",
    "Estimate",
    "Finetuned",
    "FlashReadOptions",
    "Generation",
    "OwnScore",
    "Plan",
    "Program",
    "Score",
    "Study",
    "TaskScores",
    "Text",
    "Trace",
    "__version__",
    "calibrate",
    "capture",
    "compare",
    "compile",
    "estimate",
    "evaluate",
    "export",
    "finetune",
    "fit_activity",
    "generate",
    "load",
    "onnx_library_path",
    "perplexity",
    "plan",
    "run_study",
    "run_tasks",
    "save",
    "synthetic_trace",
    "to_dict",
    "to_markdown",
    "write_report",
]

_RENAMED = {"Reads": "FlashReadOptions"}
"""Old public names, which still work and say so."""


def __getattr__(name: str) -> Any:
    """The public names, imported when first asked for, so that `import dipc` stays quick."""
    if name in _RENAMED:
        warnings.warn(f"dipc.{name} is called dipc.{_RENAMED[name]} now", DeprecationWarning, stacklevel=2)
        name = _RENAMED[name]
    if name not in __all__:
        raise AttributeError(f"module 'dipc' has no attribute {name!r}")
    module = "dipc.native.onnx_library" if name == "onnx_library_path" else "dipc.api"
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value
